// What each live figure shows, computed from its settings: the part that may run in a worker.
//
// A question is { settings, data }: the figure's settings, and what its trait `offers` says of the
// chosen target. An answer holds numbers only. `keep` is an object of the caller's, in which what
// can serve the next question is kept.

import {
  SCHEDULES, TARGET, makeMesh, makeNoise, mixture, quantiles, run, slicedDistance, spread, start,
  stepTable,
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
  map: spreadMap,
  line: onTheLine,
  terms: termsOf,
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
  const marginal = marginalSpreads(mesh, variance);
  const law = data.means.length === 1
    ? table => exactLaw(data, mesh, table, mean, variance, marginal)
    : sampledLaw(data, mesh, s, marginal, keep);
  return Object.fromEntries(["midpoint", "heun"].map(solver_type =>
    [solver_type, law(tableOf(mesh, { ...s, solver_type }))]));
}

// Standard deviations of alpha x0 + sigma eps, for data of that variance.
const marginalSpreads = (mesh, variance) => mesh.sigma.map((sigma, k) =>
  Math.sqrt(mesh.alpha[k] * mesh.alpha[k] * variance + sigma * sigma));

// Mean and variance of a mixture on the line.
export function momentsOf({ means, variances, weights }) {
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

// --- the line explorer ---------------------------------------------------------------------------

const EXACT_SAMPLES = 16;

// As LineRun in line.py.
export function onTheLine(s, data, keep = {}) {
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

// --- the sizes of the terms ----------------------------------------------------------------------

const ROUNDING = 1e-12; // of sigma_k: a term below it is what rounding leaves of none

// As TermSizes.compute in terms.py: sigma, drift, history, noise, share and error have an entry for
// each step; start, all_noise and rest are [share, error]; exact says how the shares are known.
export function termsOf(s, data, keep = {}) {
  const target = targetOf(data, keep), mesh = meshOf(s), table = tableOf(mesh, s);
  const x = startOf(target, mesh, s, keep), xi = noiseOf(s, 2, keep)(mesh, s.eta);
  const { states, estimates } = run({ target, mesh, table, x, xi });
  const exact = data.means.length === 1, moments = momentsInPlane(target);
  const shares = exact ? gaussianShares(mesh, table, moments)
    : linearShares(states, xi, mesh, moments);
  return {
    sigma: Array.from(mesh.h, (_, k) => mesh.sigma[k]),
    ...sizesOf(states, estimates, xi, mesh, table),
    share: shares.noise.map(([share]) => share), error: shares.noise.map(([, error]) => error),
    start: shares.start, all_noise: shares.allNoise, rest: shares.rest, exact,
  };
}

// Root mean squares per coordinate of drift, history and noise at every step.
function sizesOf(states, estimates, xi, mesh, table) {
  const sizes = { drift: [], history: [], noise: [] };
  mesh.h.forEach((_, k) => {
    const A = table.A[k], B = table.B[k], C = table.C[k], D = table.D[k];
    const x = states[k], now = estimates[k], before = C ? estimates[k - 1] : now;
    const normals = D ? xi[k] : now;
    let drift = 0, history = 0, noise = 0;
    for (let p = 0; p < x.length; p++) {
      drift += ((A - 1) * x[p] + B * now[p]) ** 2;
      history += (C * (now[p] - before[p])) ** 2;
      noise += (D * normals[p]) ** 2;
    }
    for (const [term, squares] of Object.entries({ drift, history, noise })) {
      const size = Math.sqrt(squares / x.length);
      sizes[term].push(size > ROUNDING * mesh.sigma[k] ? size : 0);
    }
  });
  return sizes;
}

// The mean of a target in the plane, and its covariances [v11, v12, v22].
function momentsInPlane(target) {
  const [first, second, both] = [[1, 0], [0, 1], [Math.SQRT1_2, Math.SQRT1_2]].map(unit =>
    momentsOf(target.along(unit)));
  const half = (first.variance + second.variance) / 2;
  return {
    mean: [first.mean, second.mean],
    covariance: [first.variance, both.variance - half, second.variance],
  };
}

// The shares { noise, start, allNoise, rest }, as Shares in terms.py. Of a Gaussian, exactly: along
// its axes a result is a sum of independent parts.
function gaussianShares(mesh, table, { covariance: [v11, v12, v22] }) {
  const middle = (v11 + v22) / 2, apart = Math.hypot((v11 - v22) / 2, v12);
  const noises = new Float64Array(mesh.h.length);
  let first = 0;
  for (const variance of [Math.max(middle - apart, 0), middle + apart]) {
    const { initial, noise } = noiseResponse(mesh, table, variance);
    first += initial ** 2 * (mesh.alpha[0] ** 2 * variance + mesh.sigma[0] ** 2);
    noise.forEach((weight, k) => { noises[k] += weight ** 2; });
  }
  const all = noises.reduce((sum, part) => sum + part, 0);
  const total = first + all || 1; // the data may be a single point: nothing is left
  return {
    noise: Array.from(noises, part => [part / total, 0]),
    start: [first / total, 0], allNoise: [all / total, 0], rest: [0, 0],
  };
}

// The weights of the first state and of every noise in the last state, for data of that variance on
// the line. The twin of noise_response in moments.py.
function noiseResponse(mesh, table, variance) {
  const noise = new Float64Array(mesh.h.length);
  let initial = 1, later = 0;
  for (let k = noise.length - 1; k >= 0; k--) {
    const A = table.A[k], B = table.B[k], C = table.C[k], alpha = mesh.alpha[k];
    const g = (alpha * variance) / (alpha ** 2 * variance + mesh.sigma[k] ** 2);
    noise[k] = table.D[k] * initial;
    [initial, later] = [(A + B * g) * initial + g * (C * initial - later), C * initial];
  }
  return { initial, noise };
}

// Of other targets, what is linear in one source: as linear_shares in terms.py.
function linearShares(states, xi, mesh, { mean, covariance: [v11, v12, v22] }) {
  const results = states.at(-1).slice(), start = states[0].slice(), n = results.length / 2;
  for (const a of [0, 1]) {
    let middle = 0;
    for (let p = a; p < 2 * n; p += 2) middle += results[p] / n;
    for (let p = a; p < 2 * n; p += 2) results[p] -= middle;
  }
  // The start in units of its own covariance, V = L L': L has rows [l1, 0] and [l2, l3].
  const signal = mesh.alpha[0] ** 2, noise = mesh.sigma[0] ** 2;
  const l1 = Math.sqrt(signal * v11 + noise), l2 = (signal * v12) / l1;
  const l3 = Math.sqrt(signal * v22 + noise - l2 ** 2);
  for (let p = 0; p < 2 * n; p += 2) {
    start[p] = (start[p] - mesh.alpha[0] * mean[0]) / l1;
    start[p + 1] = (start[p + 1] - mesh.alpha[0] * mean[1] - l2 * start[p]) / l3;
  }
  const noises = Array.from(mesh.h, (_, k) => linear(results, xi[k]));
  const ofStart = linear(results, start), ofNoise = together(noises);
  const [explained, error] = withError(together([ofStart, ofNoise]));
  return {
    noise: noises.map(withError), start: withError(ofStart), allNoise: withError(ofNoise),
    rest: [1 - explained, error],
  };
}

// An estimated part is { share, first, second }, as _Part in terms.py.
function withError({ share, first, second }) {
  const n = first.length, squares = first.reduce((sum, part) => sum + part * part, 0);
  return [share, Math.sqrt(Math.max(squares / (n * n) - 2 * second, 0) + second)];
}

function together(parts) {
  const sum = of => parts.reduce((all, part) => all + of(part), 0);
  const first = new Float64Array(parts[0].first.length);
  for (const part of parts) for (let i = 0; i < first.length; i++) first[i] += part.first[i];
  return { share: sum(part => part.share), first, second: sum(part => part.second) };
}

// The part of the results x that is linear in the source z, which may be missing.
function linear(x, z) {
  const n = x.length / 2, first = new Float64Array(n), means = new Float64Array(4);
  let spread = 0;
  for (let p = 0; p < 2 * n; p++) spread += (x[p] * x[p]) / n;
  if (!z || spread === 0) return { share: 0, first, second: 0 };
  for (let p = 0; p < 2 * n; p += 2) {
    for (let j = 0; j < 4; j++) means[j] += (x[p + (j >> 1)] * z[p + (j & 1)]) / n;
  }
  const raw = means.reduce((sum, m) => sum + m * m, 0) / spread;
  const covariance = new Float64Array(16), off = new Float64Array(4);
  for (let i = 0; i < n; i++) {
    const p = 2 * i;
    let change = raw * (spread - x[p] * x[p] - x[p + 1] * x[p + 1]);
    for (let j = 0; j < 4; j++) {
      off[j] = x[p + (j >> 1)] * z[p + (j & 1)] - means[j];
      change += 2 * off[j] * means[j];
    }
    first[i] = change / spread;
    for (let j = 0; j < 4; j++) for (let l = 0; l < 4; l++) covariance[4 * j + l] += off[j] * off[l] / n;
  }
  const trace = [0, 5, 10, 15].reduce((sum, at) => sum + covariance[at], 0);
  const squares = covariance.reduce((sum, value) => sum + value * value, 0);
  return { share: raw - trace / n / spread, first, second: (2 * squares) / (n * spread) ** 2 };
}

// --- the map of the final spread -----------------------------------------------------------------

// { map, chosen }: final standard deviations over that of the data. `map` is row by row for data.rows
// (of s.up) and data.etas; `chosen` is that of the setting itself, by solver. The twin of map.py.
export function spreadMap(s, { etas, rows }, keep = {}) {
  const ratio = ([r, q], { sigma, alpha }, s_noise) =>
    Math.hypot(r * alpha[0] * s.spread, r * sigma[0], s_noise * q) / s.spread;

  // The tables, and then the responses, do not change with s_noise, which is a factor of all noise.
  const stepsOf = s.up === "steps" ? rows : [s.steps];
  const levels = [s.schedule, s.sigma_min, s.sigma_max, s.solver_type, stepsOf.join(" ")].join();
  const runs = once(keep, "tables", levels, () => stepsOf.map(steps => {
    const mesh = meshOf({ ...s, steps });
    return { mesh, tables: etas.map(eta => tableOf(mesh, { ...s, eta, s_noise: 1 })) };
  }));
  const belief = [s.spread, s.model, s.error].join();
  const responses = once(keep, "responses", `${levels} ${belief}`, () =>
    runs.map(({ mesh, tables }) => {
      const gain = believedGain(mesh, s);
      return tables.map(table => response(table, gain));
    }));

  const map = new Float64Array(rows.length * etas.length);
  rows.forEach((row, i) => {
    const run = s.up === "steps" ? i : 0, s_noise = s.up === "steps" ? s.s_noise : row;
    etas.forEach((_, j) => {
      map[i * etas.length + j] = ratio(responses[run][j], runs[run].mesh, s_noise);
    });
  });
  const mesh = meshOf(s), gain = believedGain(mesh, s);
  const chosen = Object.fromEntries(["midpoint", "heun"].map(solver_type => [solver_type,
    ratio(response(tableOf(mesh, { ...s, solver_type, s_noise: 1 }), gain), mesh, s.s_noise)]));
  return { map, chosen };
}

// The gain of a denoiser that is wrong about the data's spread at some of the levels.
function believedGain({ sigma, alpha, h }, { spread, model, error }) {
  return Float64Array.from(h, (_, k) => {
    const high = sigma[k] > spread * alpha[k];
    const wrong = { exact: false, high, low: !high, all: true }[model];
    const variance = (spread * (wrong ? 1 + error : 1)) ** 2;
    return (alpha[k] * variance) / (alpha[k] ** 2 * variance + sigma[k] ** 2);
  });
}

// [r, q]: the last state is r x[0] + q zeta in law, for a denoiser that multiplies by the gain. As in
// gaussianMoments, but for the start and the noise apart.
function response({ A, B, C, D }, gain) {
  let r = 1, y = 0, uu = 0, uy = 0, yy = 0;
  for (let k = 0; k < gain.length; k++) {
    const g = gain[k], c = C[k], d = D[k], a = A[k] + (B[k] + c) * g;
    const across = a * uu - c * uy;
    const now = Math.max(a * across - c * (a * uy - c * yy) + d * d, 0);
    [r, y] = [a * r - c * y, g * r];
    yy = g * g * uu;
    uy = g * across;
    uu = now;
  }
  return [r, Math.sqrt(uu)];
}
