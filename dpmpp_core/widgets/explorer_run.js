// The trajectory explorer's answer.

import { TARGET, run, slicedDistance, spread } from "./engine.js";
import { batchNormals } from "./philox.js";
import { meshOf, momentsOf, noiseOf, once, startOf, tableOf, targetOf } from "./runs.js";

// { states, estimates }: arrays, one of them a step.
export function answer(s, data, keep) {
  const target = targetOf(data, keep), mesh = meshOf(s);
  const xi = s.noise === "fresh" ? freshNoise(s, keep) : noiseOf(s, 2, keep)(mesh, s.eta);
  const x = startOf(target, mesh, s, keep);
  const { states, estimates } = run({ target, mesh, table: tableOf(mesh, s), x, xi });
  return { states, estimates };
}

// The twin of FreshNoise in explorer.py.
function freshNoise({ seed, steps, particles }, keep) {
  return once(keep, "fresh", `${seed} ${steps} ${particles}`, () =>
    Array.from({ length: steps }, (_, k) => batchNormals(seed, 128 * steps + k, particles, 2)));
}

// The numbers beside the picture: spread and distance of the results x, and what to expect of them.
export function measure(x, data, keep) {
  const target = targetOf(data, keep), n = x.length / 2;
  const { distanceTo, exactDistance } = once(keep, "reference", `${n} ${keep.target.key}`, () => {
    const distanceTo = slicedDistance(target, n);
    const exact = Array.from({ length: 16 }, (_, i) =>
      distanceTo(target.sample(0, n, { stream: TARGET + i })));
    return { distanceTo, exactDistance: Math.hypot(...exact) / 4 }; // root mean square of 16
  });
  return {
    spread: spread(x, 2), targetSpread: spreadOf(target),
    distance: distanceTo(x), exactDistance,
  };
}

// The spread of the target itself, from its mean and variance along each axis.
function spreadOf(target) {
  const variances = [[1, 0], [0, 1]].map(axis => momentsOf(target.along(axis)).variance);
  return Math.sqrt(variances[0] + variances[1]);
}
