// The line explorer's answer.

import { TARGET, quantiles, run } from "./engine.js";
import { deviationOf, marginalSpreads, smoothed } from "./line_law.js";
import { meshOf, momentsOf, noiseOf, once, startOf, tableOf, targetOf } from "./runs.js";

const EXACT_SAMPLES = 16;

// As LineRun in line.py.
export function answer(s, data, keep) {
  const target = targetOf(data, keep), mesh = meshOf(s);
  const x = startOf(target, mesh, s, keep), xi = noiseOf(s, 1, keep)(mesh, s.eta);
  const { states } = run({ target, mesh, table: tableOf(mesh, s), x, xi });
  const law = target.along([1]), { mean, variance } = momentsOf(law), unit = Math.sqrt(variance);
  const marginal = marginalSpreads(mesh, variance), last = states.at(-1);
  const paths = states.map((state, k) =>
    Array.from(state.subarray(0, data.paths), x => (x - mesh.alpha[k] * mean) / marginal[k]));
  const [deviation, error] = deviationOf(last);
  const { distanceTo, exact } = once(keep, "line", `${x.length} ${keep.target.key}`, () => {
    const distanceTo = rankDistance(quantiles(law, x.length));
    const exact = Array.from({ length: EXACT_SAMPLES }, (_, i) =>
      distanceTo(target.sample(0, x.length, { stream: TARGET + i })) / unit);
    return { distanceTo, exact };
  });
  const expected = average(exact);
  return {
    paths, length: average(paths[0].map((_, i) => lengthOf(paths, i))),
    density: smoothed(last, data).map(y => unit * y),
    spread: deviation / unit, error: error / unit, distance: distanceTo(last) / unit,
    exact_distance: expected,
    exact_scatter: Math.sqrt(exact.reduce((sum, distance) =>
      sum + (distance - expected) ** 2, 0) / (EXACT_SAMPLES - 1)),
  };
}

const average = numbers => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

// What path i travels up and down.
export const lengthOf = (paths, i) =>
  paths.reduce((sum, state, k) => (k ? sum + Math.abs(state[i] - paths[k - 1][i]) : 0), 0);

// The Wasserstein-1 distance of as many numbers to a law on the line: by rank.
const rankDistance = places => x =>
  x.slice().sort().reduce((sum, value, i) => sum + Math.abs(value - places[i]), 0) / places.length;
