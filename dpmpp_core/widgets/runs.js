// What each live figure shows, computed from its settings: the part that may run in a worker.
//
// A question is { settings, data }: the figure's settings, and what its trait `offers` says of the
// chosen target. An answer holds numbers only. `keep` is an object of the caller's, in which what
// can serve the next question is kept.

import {
  SCHEDULES, TARGET, makeMesh, makeNoise, mixture, run, slicedDistance, spread, start, stepTable,
} from "./engine.js";
import { batchNormals } from "./philox.js";

// The answer for a figure, by its name below. Its `time` is what it took, in milliseconds. If the
// sampler refuses the settings, it is { trouble }, a sentence.
export function answer(figure, { settings, data }, keep) {
  const began = performance.now();
  try {
    const found = FIGURES[figure](settings, data, keep);
    return { ...found, settings, data, time: performance.now() - began };
  } catch (error) {
    for (const side of SIDES) delete keep[side]; // one of them may be done, and lost with this
    return { trouble: `Nothing new was computed: ${error.message}`, settings };
  }
}

const FIGURES = {
  explorer: trajectories,
  compare: sides,
  variance: (...question) => ({ laws: laws(...question) }),
};

export const meshOf = ({ schedule, steps, sigma_min, sigma_max }) =>
  makeMesh(SCHEDULES[schedule](steps, { sigmaMin: sigma_min, sigmaMax: sigma_max }));

export const tableOf = (mesh, { eta, s_noise, solver_type }) =>
  stepTable(mesh, { eta, sNoise: s_noise, solverType: solver_type });

// What was last made of that kind, if it was made for the same key; or else what is made now.
function once(keep, kind, key, make) {
  if (keep[kind]?.key !== key) keep[kind] = { key, value: make() };
  return keep[kind].value;
}

const targetOf = (data, keep) =>
  once(keep, "target", JSON.stringify([data.means, data.covariances, data.weights]),
    () => mixture(data));

// The first states. They are copied: what is in an answer is given away.
const startOf = (target, mesh, { seed, particles }, keep) =>
  once(keep, "start", [keep.target.key, seed, particles, mesh.sigma[0]].join(),
    () => start(target, mesh, seed, particles)).slice();

const noiseOf = ({ seed, particles }, d, keep) =>
  once(keep, "noise", `${seed} ${particles}`, () => makeNoise(seed, particles, d));

// --- the trajectory explorer ---------------------------------------------------------------------

// { states, estimates, measured }: the first two are arrays, one of them a step.
function trajectories(s, data, keep) {
  const target = targetOf(data, keep), mesh = meshOf(s);
  const xi = s.noise === "fresh" ? freshNoise(s, keep) : noiseOf(s, 2, keep)(mesh, s.eta);
  const { states, estimates } = run({
    target, mesh, table: tableOf(mesh, s), x: startOf(target, mesh, s, keep), xi,
  });
  return { states, estimates, measured: measure(states.at(-1), data, keep) };
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

// --- side by side --------------------------------------------------------------------------------

export const SIDES = ["a", "b"];
const KNOBS = ["eta", "s_noise", "solver_type", "steps"];

// The settings of one side, under the names that the other figures use.
export function settingsOf(side, s) {
  return { ...s, ...Object.fromEntries(KNOBS.map(knob => [knob, s[`${side}_${knob}`]])) };
}

// { a, b }: the states of each side; of one that is as in the last answer, nothing.
function sides(s, data, keep) {
  const target = targetOf(data, keep);
  const shared = ["schedule", "sigma_min", "sigma_max", "seed", "particles"];
  return Object.fromEntries(SIDES.flatMap(side => {
    const own = settingsOf(side, s), mesh = meshOf(own);
    const key = [keep.target.key, ...[...shared, ...KNOBS].map(name => own[name])].join();
    if (keep[side] === key) return [];
    const x = startOf(target, mesh, own, keep), xi = noiseOf(own, 2, keep)(mesh, own.eta);
    const { states } = run({ target, mesh, table: tableOf(mesh, own), x, xi });
    keep[side] = key;
    return [[side, states]];
  }));
}

// --- the variance explorer -----------------------------------------------------------------------

const TINY = 1e-18; // no variance is below it: where terms cancel, rounding may leave -1e-18

// Both laws of the settings: { midpoint: { spread, error, density }, heun: ... }, where spread and
// error have an entry for each state and density one for each point of the target's grid.
export function laws(s, data, keep = {}) {
  const target = targetOf(data, keep), mesh = meshOf(s);
  const { mean, variance } = momentsOf(target.along([1]));
  const marginal = mesh.sigma.map((sigma, k) =>
    Math.sqrt(mesh.alpha[k] * mesh.alpha[k] * variance + sigma * sigma));
  const law = data.means.length === 1
    ? table => exactLaw(data, mesh, table, mean, variance, marginal)
    : sampledLaw(data, mesh, s, marginal, keep);
  return Object.fromEntries(["midpoint", "heun"].map(solver_type =>
    [solver_type, law(tableOf(mesh, { ...s, solver_type }))]));
}

// Mean and variance of a mixture on the line.
function momentsOf({ means, variances, weights }) {
  const mean = means.reduce((sum, m, j) => sum + weights[j] * m, 0);
  const variance = means.reduce((sum, m, j) =>
    sum + weights[j] * (variances[j] + (m - mean) ** 2), 0);
  return { mean, variance };
}

// Exact means and variances of x[0], ..., x[N] for the data N(mean, variance). The twin of
// gaussian_moments in moments.py, by a shorter way with fewer digits. The denoiser is affine,
// m + g (x - alpha m), so with the deviations u of the state and y of the previous estimate
//
//   u' = a u - C y + D xi,   y' = g u,   a = A + (B + C) g,
//
// and the three entries of their covariance obey the recursion below.
export function gaussianMoments(mesh, table, mean = 0, variance = 1) {
  const steps = mesh.h.length;
  const means = new Float64Array(steps + 1), variances = new Float64Array(steps + 1);
  let uu = mesh.alpha[0] ** 2 * variance + mesh.sigma[0] ** 2, uy = 0, yy = 0;
  means[0] = mesh.alpha[0] * mean;
  variances[0] = uu;
  for (let k = 0; k < steps; k++) {
    const A = table.A[k], B = table.B[k], C = table.C[k], D = table.D[k], alpha = mesh.alpha[k];
    const g = (alpha * variance) / (alpha ** 2 * variance + mesh.sigma[k] ** 2);
    const a = A + (B + C) * g;
    [uu, uy, yy] = [
      Math.max(a * a * uu - 2 * a * C * uy + C * C * yy + D * D, TINY),
      g * (a * uu - C * uy),
      g * g * uu,
    ];
    means[k + 1] = A * means[k] + B * mean;
    variances[k + 1] = uu;
  }
  return { means, variances };
}

function exactLaw(data, mesh, table, mean, variance, marginal) {
  const { means, variances } = gaussianMoments(mesh, table, mean, variance);
  const lastMean = means.at(-1), last = variances.at(-1);
  return {
    spread: Array.from(variances, (v, k) => Math.sqrt(v) / marginal[k]),
    error: Array(variances.length).fill(0),
    density: gridOf(data).map(x =>
      Math.exp((-0.5 * (x - lastMean) ** 2) / last) / Math.sqrt(2 * Math.PI * last)),
  };
}

export const gridOf = ({ low, high, grid }) =>
  Array.from({ length: grid }, (_, i) => low + i * ((high - low) / (grid - 1)));

// Of an ensemble: the particles of `start`, on the Brownian path of their seeds.
function sampledLaw(data, mesh, s, marginal, keep) {
  const target = targetOf(data, keep), x = startOf(target, mesh, s, keep);
  const xi = noiseOf(s, 1, keep)(mesh, s.eta);
  return table => {
    const { states } = run({ target, mesh, table, x, xi });
    const spread = [], error = [];
    states.forEach((state, k) => {
      const [deviation, itsError] = deviationOf(state);
      spread.push(deviation / marginal[k]);
      error.push(itsError / marginal[k]);
    });
    return { spread, error, density: smoothed(states.at(-1), data) };
  };
}

// Standard deviation s of a sample, and its standard error by the delta method:
// Var(s^2) = (m4 - s^4) / n, and Var(s) = Var(s^2) / (4 s^2).
function deviationOf(x) {
  const n = x.length;
  let mean = 0, variance = 0, fourth = 0;
  for (let i = 0; i < n; i++) mean += x[i];
  mean /= n;
  for (let i = 0; i < n; i++) {
    const square = (x[i] - mean) ** 2;
    variance += square;
    fourth += square * square;
  }
  variance /= n;
  fourth /= n;
  const ofSquare = Math.max(fourth - variance ** 2, 0) / n;
  return [Math.sqrt(variance), Math.sqrt(ofSquare / (4 * variance))];
}

// The density of a sample on the target's grid, smoothed by a Gaussian: as smoothed() in
// variance.py.
function smoothed(x, { low, high, grid, width }) {
  const gap = (high - low) / (grid - 1);
  const shares = new Float64Array(grid);
  for (let i = 0; i < x.length; i++) {
    const place = (x[i] - low) / gap;
    if (!(place >= 0 && place < grid - 1)) continue;
    const left = Math.floor(place);
    shares[left] += 1 - (place - left);
    shares[left + 1] += place - left;
  }
  const reach = Math.ceil((5 * width) / gap);
  const total = x.length * width * Math.sqrt(2 * Math.PI);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, i) =>
    Math.exp(-0.5 * (((i - reach) * gap) / width) ** 2) / total);
  return Array.from({ length: grid }, (_, i) => {
    let sum = 0;
    for (let j = Math.max(0, i - reach); j <= Math.min(grid - 1, i + reach); j++) {
      sum += shares[j] * kernel[i - j + reach];
    }
    return sum;
  });
}
