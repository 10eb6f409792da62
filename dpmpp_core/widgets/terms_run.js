// The answer of the sizes of the terms.

import { run } from "./engine.js";
import { meshOf, momentsOf, noiseOf, startOf, tableOf, targetOf } from "./runs.js";

const ROUNDING = 1e-12; // of sigma_k: a term below it is what rounding leaves of none

// As TermSizes.compute in terms.py: sigma, drift, history, noise, share and error have an entry for
// each step; start, all_noise and rest are [share, error]; exact says how the shares are known.
export function answer(s, data, keep) {
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
