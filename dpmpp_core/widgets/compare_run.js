// The answer of side by side.

import { run } from "./engine.js";
import { meshOf, noiseOf, startOf, tableOf, targetOf } from "./runs.js";

export const SIDES = ["a", "b"];
const KNOBS = ["eta", "s_noise", "solver_type", "steps"];

// The settings of one side, under the names that the other figures use.
export function settingsOf(side, s) {
  return { ...s, ...Object.fromEntries(KNOBS.map(knob => [knob, s[`${side}_${knob}`]])) };
}

// { a, b }: the states of each side; of one that is as in the last answer, nothing.
export function answer(s, data, keep) {
  const target = targetOf(data, keep), found = {}, keys = {};
  const shared = ["schedule", "sigma_min", "sigma_max", "seed", "particles"];
  for (const side of SIDES) {
    const own = settingsOf(side, s), mesh = meshOf(own);
    keys[side] = [keep.target.key, ...[...shared, ...KNOBS].map(name => own[name])].join();
    if (keep[side] === keys[side]) continue;
    const x = startOf(target, mesh, own, keep), xi = noiseOf(own, 2, keep)(mesh, own.eta);
    found[side] = run({ target, mesh, table: tableOf(mesh, own), x, xi }).states;
  }
  Object.assign(keep, keys); // only now: where one side fails, the other is lost with it
  return found;
}
