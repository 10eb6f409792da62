// What the figures' answers share. Each figure has a module of its own, such as explorer_run.js, that
// computes what it shows from its settings: the part that may run in a worker.
//
// Such a module exports answer(settings, data, keep): `data` is what the trait `offers` says of the
// settings, above all of the chosen target, and `keep` an object of the caller's, in which what can
// serve the next question is kept. An answer holds numbers only.

import { SCHEDULES, makeMesh, makeNoise, mixture, start, stepTable } from "./engine.js";

export const meshOf = ({ schedule, steps, sigma_min, sigma_max }) =>
  makeMesh(SCHEDULES[schedule](steps, { sigmaMin: sigma_min, sigmaMax: sigma_max }));

export const tableOf = (mesh, { eta, s_noise, solver_type }) =>
  stepTable(mesh, { eta, sNoise: s_noise, solverType: solver_type });

// What was last made of that kind, if it was made for the same key; or else what is made now.
export function once(keep, kind, key, make) {
  if (keep[kind]?.key !== key) keep[kind] = { key, value: make() };
  return keep[kind].value;
}

export const targetOf = (data, keep) =>
  once(keep, "target", JSON.stringify([data.means, data.covariances, data.weights]),
    () => mixture(data));

// The first states. They are copied: what is in an answer is given away.
export const startOf = (target, mesh, { seed, particles }, keep) =>
  once(keep, "start", [keep.target.key, seed, particles, mesh.sigma[0]].join(),
    () => start(target, mesh, seed, particles)).slice();

export const noiseOf = ({ seed, particles }, d, keep) =>
  once(keep, "noise", `${seed} ${particles}`, () => makeNoise(seed, particles, d));

// Mean and variance of a mixture on the line.
export function momentsOf({ means, variances, weights }) {
  const mean = means.reduce((sum, m, j) => sum + weights[j] * m, 0);
  const variance = means.reduce((sum, m, j) =>
    sum + weights[j] * (variances[j] + (m - mean) ** 2), 0);
  return { mean, variance };
}
