// The sampler in the page: DPM-Solver++(2M) SDE on toy data whose denoiser is known exactly.
//
// The twin of dpmpp_core's schedule, mesh, coefficients, targets and sampler, under the same names
// and in the same order of operations, so that both give the same picture for the same seed. The
// tests compare them in a real browser, state by state.
//
// A batch of n states of d numbers is one Float64Array of n * d numbers, sample after sample.

import * as coefficients from "./coefficients.js";
import { bridgeNoise, bridgeWeights, createNormals } from "./bridge.js";
import { batchNormals, keyWords, philox4x32 } from "./philox.js";

// --- schedules -----------------------------------------------------------------------------------

// Each takes the number of steps n and named options, and returns the noise levels from the highest
// to the last. Only schedules with a formula: those that read a model's table are in Python.
export const SCHEDULES = {
  // Levels evenly spaced in sigma^(1 / rho), then 0.
  karras(n, { sigmaMin = 0.03, sigmaMax = 14.6, rho = 7 } = {}) {
    const low = sigmaMin ** (1 / rho), high = sigmaMax ** (1 / rho);
    return withZero(ramp(n).map(u => (high + u * (low - high)) ** rho));
  },
  // Evenly spaced in log sigma, then 0.
  exponential(n, { sigmaMin = 0.03, sigmaMax = 14.6 } = {}) {
    return SCHEDULES.polyexponential(n, { sigmaMin, sigmaMax, rho: 1 });
  },
  // log sigma = log sigmaMin + (1 - u)^rho log(sigmaMax / sigmaMin), then 0.
  polyexponential(n, { sigmaMin = 0.03, sigmaMax = 14.6, rho = 1 } = {}) {
    const low = Math.log(sigmaMin), span = Math.log(sigmaMax) - low;
    return withZero(ramp(n).map(u => Math.exp(low + (1 - u) ** rho * span)));
  },
  // Evenly spaced in arctan sigma, then 0.
  kl_optimal(n, { sigmaMin = 0.03, sigmaMax = 14.6 } = {}) {
    const low = Math.atan(sigmaMin), high = Math.atan(sigmaMax);
    return withZero(ramp(n).map(u => Math.tan(u * low + (1 - u) * high)));
  },
  // The VP-SDE's levels in VE coordinates at even times, sqrt(exp(betaD t^2 / 2 + betaMin t) - 1),
  // then 0.
  vp(n, { betaD = 19.9, betaMin = 0.1, epsS = 1e-3 } = {}) {
    const times = ramp(n).map(u => 1 + u * (epsS - 1));
    return withZero(times.map(t => Math.sqrt(Math.expm1(0.5 * betaD * t ** 2 + betaMin * t))));
  },
  // Quantiles of a Laplace distribution of log sigma, clipped; a level clipped twice is given once.
  laplace(n, { sigmaMin = 0.03, sigmaMax = 14.6, mu = 0, beta = 0.5 } = {}) {
    const levels = ramp(n).map(u => {
      const c = 0.5 - u;
      const level = Math.exp(mu - beta * Math.sign(c) * Math.log(1 - 2 * Math.abs(c) + 1e-5));
      return Math.min(Math.max(level, sigmaMin), sigmaMax);
    });
    return levels.filter((level, k) => level !== levels[k - 1]);
  },
  // What is removed of sigmaMax: a line in k up to `threshold` at half the steps, then the parabola
  // that goes on with the same slope and reaches 1 at the end.
  linear_quadratic(n, { sigmaMax = 14.6, threshold = 0.025 } = {}) {
    const m = n >> 1, slope = threshold / m;
    const curvature = (1 - threshold - slope * (n - m)) / (n - m) ** 2;
    const removed = k => slope * k + curvature * Math.max(k - m, 0) ** 2;
    return Float64Array.from({ length: n + 1 }, (_, k) =>
      k === n ? 0 : n === 1 ? sigmaMax : (1 - removed(k)) * sigmaMax);
  },
  // Even times from 1 to 0, shifted: a flow model's own.
  flow(n, { shift = 1 } = {}) {
    return Float64Array.from({ length: n + 1 }, (_, k) => shiftTime(1 - k / n, shift));
  },
};

// s t / (1 + (s - 1) t): the time shift of flow models.
export const shiftTime = (t, shift) => (shift * t) / (1 + (shift - 1) * t);

// n numbers from 0 to 1. Counted from the nearer end, as torch.linspace does, so that the last
// digits agree too.
function ramp(n) {
  const width = n > 1 ? 1 / (n - 1) : 0;
  return Float64Array.from({ length: n }, (_, k) =>
    k < n >> 1 || n === 1 ? k * width : 1 - width * (n - 1 - k));
}

function withZero(levels) {
  const out = new Float64Array(levels.length + 1);
  out.set(levels);
  return out;
}

// --- processes and the mesh ----------------------------------------------------------------------

// x = alpha x0 + sigma eps. `lam` is log(alpha / sigma); `gain` is log(alpha(t) / alpha(s)) for a
// step from sigma = s to t, written so that nothing cancels when the two are close.
const PROCESSES = {
  ve: {
    limit: Infinity,
    alpha: () => 1,
    lam: s => -Math.log(s),
    gain: () => 0,
  },
  vp: {
    limit: 1,
    alpha: s => Math.sqrt((1 - s) * (1 + s)),
    lam: s => Math.log(Math.sqrt((1 - s) * (1 + s))) - Math.log(s),
    gain: (s, t) => 0.5 * Math.log1p(((s - t) * (s + t)) / ((1 - s) * (1 + s))),
  },
  flow: {
    limit: 1,
    alpha: s => 1 - s,
    lam: s => Math.log(1 - s) - Math.log(s),
    gain: (s, t) => Math.log1p((s - t) / (1 - s)),
  },
};

// The noise levels and what follows from them: sigma, alpha, lam of N + 1 entries, h of N.
// process: "ve", "vp", "flow" or, for a flow model with a time shift, { name: "flow", shift }.
export function makeMesh(sigmas, process = "ve") {
  const { name, shift = 1 } = typeof process === "string" ? { name: process } : process;
  const rules = PROCESSES[name];
  if (!rules) throw new RangeError(`process must be 've', 'vp' or 'flow', got ${name}`);
  const sigma = Float64Array.from(sigmas);
  // At sigma = 1 a flow has no data left and lambda is -infinity: start a little below, as ComfyUI.
  if (name === "flow" && sigma[0] >= 1) sigma[0] = shiftTime(1 - 1e-4, shift);
  check(sigma, name, rules.limit);

  const alpha = sigma.map(s => rules.alpha(s));
  const lam = sigma.map(s => (s > 0 ? rules.lam(s) : Infinity));
  // log1p of the relative decrease, not a difference of two logarithms: a step of 1e-8 keeps all
  // its digits.
  const h = Float64Array.from({ length: sigma.length - 1 }, (_, k) => {
    const s = sigma[k], t = sigma[k + 1];
    return t > 0 ? Math.log1p((s - t) / t) + rules.gain(s, t) : Infinity;
  });
  return { sigma, alpha, lam, h, process: name };
}

function check(sigma, name, limit) {
  if (sigma.length < 2) throw new RangeError("sigmas must hold at least two levels");
  sigma.forEach((s, k) => {
    const last = k === sigma.length - 1;
    if (!(s > 0 && s < limit && Number.isFinite(s)) && !(s === 0 && last)) {
      throw new RangeError(
        `sigmas must lie between 0 and ${limit} for '${name}', and only the last may be 0, ` +
        `got sigmas[${k}] = ${s}`);
    }
    if (k && s >= sigma[k - 1]) {
      throw new RangeError(
        `sigmas must be strictly decreasing, got sigmas[${k - 1}] = ${sigma[k - 1]} ` +
        `and sigmas[${k}] = ${s}`);
    }
  });
}

// --- coefficients --------------------------------------------------------------------------------

// The four numbers of every step, { A, B, C, D } of N entries each. The formulas are not here: the
// functions of coefficients.js are printed from the expressions that the chapters derive.
export function stepTable(mesh, { eta = 1, sNoise = 1, solverType = "midpoint" } = {}) {
  const steps = mesh.h.length;
  const history = { midpoint: coefficients.C_midpoint, heun: coefficients.C_heun }[solverType];
  if (!history) {
    throw new RangeError(`solverType must be 'midpoint' or 'heun', got ${solverType}`);
  }
  for (const [name, value] of [["eta", eta], ["sNoise", sNoise]]) {
    if (!(Number.isFinite(value) && value >= 0)) {
      throw new RangeError(`${name} must be a finite number >= 0, got ${value}`);
    }
  }
  const column = () => new Float64Array(steps);
  const table = { A: column(), B: column(), C: column(), D: column() };
  for (let k = 0; k < steps; k++) {
    if (mesh.h[k] === Infinity) {
      // A step to sigma = 0 returns the denoised estimate.
      table.B[k] = 1;
      continue;
    }
    const step = {
      h: mesh.h[k], h_prev: mesh.h[k - 1], eta, s_noise: sNoise,
      sigma: mesh.sigma[k], sigma_next: mesh.sigma[k + 1], alpha_next: mesh.alpha[k + 1],
    };
    table.A[k] = coefficients.A(step);
    table.B[k] = coefficients.B(step);
    table.C[k] = k ? history(step) : 0; // the first step has no history
    table.D[k] = coefficients.D(step);
  }
  return table;
}

// --- targets: clean data whose denoiser is known -------------------------------------------------

// The law sum_j w_j N(m_j, S_j). With noise it is sum_j w_j N(alpha m_j, V_j) with
// V_j = alpha^2 S_j + sigma^2 I; Bayes' rule then gives each component's probability r_j(x) and
//
//   E[x0 | x] = sum_j r_j(x) (m_j + alpha S_j V_j^-1 (x - alpha m_j)).
//
// means: K arrays of d numbers. covariances: one number for all, or K of: a number v for v I, d
// numbers for a diagonal, d arrays of d numbers. weights: K numbers, equal if left out.
export function mixture({ means, covariances, weights }) {
  const K = means.length, d = means[0].length;
  const m = Float64Array.from(means.flat());
  const spectra = means.map((_, j) =>
    spectrum(Array.isArray(covariances) ? covariances[j] : covariances, d));
  const spread = Float64Array.from(spectra.flatMap(s => s.values)); // eigenvalues of S_j
  const basis = Float64Array.from(spectra.flatMap(s => s.vectors.flat())); // one a row
  const round = spectra.every(s => s.round);
  const total = (weights ?? means.map(() => 1)).reduce((a, b) => a + b, 0);
  const w = Float64Array.from(means, (_, j) => (weights ? weights[j] : 1) / total);
  const logWeight = w.map(Math.log);

  // Everything that depends on the noise level but not on x, and room for one state: made here,
  // once, so that the loops over states allocate nothing.
  const centre = new Float64Array(K * d); // alpha m_j
  const inverse = new Float64Array(K * d); // eigenvalues of V_j^-1
  const gain = new Float64Array(K * d); // eigenvalues of alpha S_j V_j^-1
  const constant = new Float64Array(K); // log w_j - log det(V_j) / 2
  const joint = new Float64Array(K); // log w_j N(x; alpha m_j, V_j), but for (2 pi)^(d / 2)
  const turned = new Float64Array(K * d); // x - alpha m_j, in the eigenbasis of S_j
  const sum = new Float64Array(d);

  function prepare(sigma, alpha) {
    for (let j = 0; j < K; j++) {
      let logVolume = 0;
      for (let a = j * d; a < (j + 1) * d; a++) {
        const variance = alpha * alpha * spread[a] + sigma * sigma;
        centre[a] = alpha * m[a];
        inverse[a] = 1 / variance;
        gain[a] = (alpha * spread[a]) / variance;
        logVolume += Math.log(variance);
      }
      constant[j] = logWeight[j] - 0.5 * logVolume;
    }
  }

  // Fills `joint` and `turned` for the state that starts at x[at]; returns the largest of `joint`.
  function compare(x, at) {
    let highest = -Infinity;
    for (let j = 0; j < K; j++) {
      const own = j * d;
      let distance = 0;
      for (let a = 0; a < d; a++) {
        let along = 0;
        if (round) along = x[at + a] - centre[own + a];
        else {
          const row = (own + a) * d;
          for (let b = 0; b < d; b++) along += basis[row + b] * (x[at + b] - centre[own + b]);
        }
        turned[own + a] = along;
        distance += along * along * inverse[own + a];
      }
      joint[j] = constant[j] - 0.5 * distance;
      if (joint[j] > highest) highest = joint[j];
    }
    return highest;
  }

  // E[x0 | x] of n states, written to `out`.
  function denoise(x, n, sigma, alpha, out) {
    prepare(sigma, alpha);
    if (d === 1) return denoiseLine(x, n, out);
    if (d === 2) return denoisePlane(x, n, out);
    for (let i = 0; i < n; i++) {
      const at = i * d;
      const highest = compare(x, at);
      let mass = 0;
      sum.fill(0);
      for (let j = 0; j < K; j++) {
        const below = joint[j] - highest;
        if (below < NEGLIGIBLE) continue; // its share would be rounded away
        const r = share(below);
        mass += r;
        const own = j * d;
        for (let a = 0; a < d; a++) {
          sum[a] += r * m[own + a];
          const pull = r * gain[own + a] * turned[own + a];
          if (round) sum[a] += pull;
          else for (let b = 0; b < d; b++) sum[b] += pull * basis[(own + a) * d + b];
        }
      }
      for (let a = 0; a < d; a++) out[at + a] = sum[a] / mass;
    }
    return out;
  }

  // The same in the plane, where every picture is: without the loops over a and b, three times as
  // fast.
  function denoisePlane(x, n, out) {
    for (let i = 0; i < 2 * n; i += 2) {
      const px = x[i], py = x[i + 1];
      let highest = -Infinity;
      for (let j = 0, a = 0; j < K; j++, a += 2) {
        let u = px - centre[a], v = py - centre[a + 1];
        if (!round) {
          const row = 2 * a, ux = u;
          u = basis[row] * ux + basis[row + 1] * v;
          v = basis[row + 2] * ux + basis[row + 3] * v;
        }
        turned[a] = u;
        turned[a + 1] = v;
        const value = constant[j] - 0.5 * (u * u * inverse[a] + v * v * inverse[a + 1]);
        joint[j] = value;
        if (value > highest) highest = value;
      }
      let mass = 0, sumX = 0, sumY = 0;
      for (let j = 0, a = 0; j < K; j++, a += 2) {
        const below = joint[j] - highest;
        if (below < NEGLIGIBLE) continue;
        const r = share(below);
        mass += r;
        const u = gain[a] * turned[a], v = gain[a + 1] * turned[a + 1];
        if (round) {
          sumX += r * (m[a] + u);
          sumY += r * (m[a + 1] + v);
        } else {
          const row = 2 * a;
          sumX += r * (m[a] + basis[row] * u + basis[row + 2] * v);
          sumY += r * (m[a + 1] + basis[row + 1] * u + basis[row + 3] * v);
        }
      }
      out[i] = sumX / mass;
      out[i + 1] = sumY / mass;
    }
    return out;
  }

  // The same on the line.
  function denoiseLine(x, n, out) {
    for (let i = 0; i < n; i++) {
      let highest = -Infinity;
      for (let j = 0; j < K; j++) {
        const u = x[i] - centre[j];
        turned[j] = u;
        joint[j] = constant[j] - 0.5 * u * u * inverse[j];
        if (joint[j] > highest) highest = joint[j];
      }
      let mass = 0, total = 0;
      for (let j = 0; j < K; j++) {
        const below = joint[j] - highest;
        if (below < NEGLIGIBLE) continue;
        const r = share(below);
        mass += r;
        total += r * (m[j] + gain[j] * turned[j]);
      }
      out[i] = total / mass;
    }
    return out;
  }

  // log p_sigma(x) of n states, written to `out`.
  function logDensity(x, n, sigma, alpha, out) {
    prepare(sigma, alpha);
    for (let i = 0; i < n; i++) {
      const highest = compare(x, i * d);
      let mass = 0;
      for (let j = 0; j < K; j++) mass += Math.exp(joint[j] - highest);
      out[i] = highest + Math.log(mass) - 0.5 * d * Math.log(2 * Math.PI);
    }
    return out;
  }

  // n exact samples at a noise level (0: clean data), the same as widgets/start.py draws:
  // component j by the inverse of the cumulative weights at a uniform u, then
  // x = alpha m_j + V_j^(1/2) eps. The symmetric root is unique, so two languages agree on it.
  function sample(seed, n, { sigma = 0, alpha = 1, stream = TARGET } = {}) {
    const { uniform, normals } = draws(seed, n, d, stream);
    const edges = cumulative(w);
    const out = new Float64Array(n * d);
    for (let i = 0; i < n; i++) {
      const j = firstAbove(edges, uniform[i]);
      for (let a = 0; a < d; a++) out[i * d + a] = alpha * m[j * d + a];
      for (let a = 0; a < d; a++) {
        const row = (j * d + a) * d;
        let along = 0;
        for (let b = 0; b < d; b++) along += basis[row + b] * normals[i * d + b];
        along *= Math.sqrt(alpha * alpha * spread[j * d + a] + sigma * sigma);
        for (let b = 0; b < d; b++) out[i * d + b] += along * basis[row + b];
      }
    }
    return out;
  }

  // The law of u . x0 for a direction u, a mixture on the line.
  function along(unit) {
    const dot = (row, at) => unit.reduce((sum, u, a) => sum + u * row[at + a], 0);
    return {
      means: means.map((_, j) => dot(m, j * d)),
      variances: means.map((_, j) => unit.reduce((sum, _, a) =>
        sum + spread[j * d + a] * dot(basis, (j * d + a) * d) ** 2, 0)),
      weights: w,
    };
  }

  return { d, denoise, logDensity, sample, along };
}

// exp(-46) = 1e-20: even ten thousand such shares change no digit of a sum that holds a 1.
const NEGLIGIBLE = -46;

// exp(y) for NEGLIGIBLE <= y <= 0, within a few ulp, in a fourth of the time that Math.exp takes: a
// table at every 64th, which a float64 holds exactly, times a short series for what is left of y.
const EXP = Float64Array.from({ length: 1 - 64 * NEGLIGIBLE }, (_, i) => Math.exp(-i / 64));
function share(y) {
  const nearest = (0.5 - 64 * y) | 0, u = y + nearest / 64; // |u| <= 1 / 128
  return EXP[nearest] * (1 + u * (1 + u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + u / 120)))));
}

// The law of a finite data set, equal mass at each point: a mixture without spread. Its estimate at
// small noise is the nearest point. It has no density at sigma = 0.
export function pointCloud(points) {
  return mixture({ means: points, covariances: 0 });
}

// Eigenvalues, and eigenvectors as rows, of a symmetric matrix in any of its three forms.
// Jacobi's method: turn the plane of two axes until their off-diagonal entry is 0. A 2 x 2 matrix
// needs one turn, which is its closed form; larger ones need a few sweeps over all pairs.
function spectrum(matrix, d) {
  const axes = Array.from({ length: d }, (_, a) => Array.from({ length: d }, (_, b) => +(a === b)));
  if (!Array.isArray(matrix)) return { values: Array(d).fill(matrix), vectors: axes, round: true };
  if (!Array.isArray(matrix[0])) return { values: [...matrix], vectors: axes, round: false };
  const s = matrix.map(row => [...row]);
  const size = Math.max(...s.flat().map(Math.abs));
  for (let sweep = 0; sweep < 30; sweep++) {
    let turned = false;
    for (let p = 0; p < d; p++) {
      for (let q = p + 1; q < d; q++) {
        if (Math.abs(s[p][q]) <= 1e-17 * size) continue;
        turned = true;
        turn(s, axes, p, q);
      }
    }
    if (!turned) break;
  }
  // An eigenvalue that is 0 can come out as a rounding error below it.
  const rounding = d * Number.EPSILON * size;
  const values = s.map((row, a) => (row[a] < 0 && row[a] > -rounding ? 0 : row[a]));
  if (Math.min(...values) < 0) {
    throw new RangeError(`covariances must have eigenvalues >= 0, got ${Math.min(...values)}`);
  }
  return { values, vectors: axes, round: false };
}

function turn(s, axes, p, q) {
  // The tangent t of the angle solves t^2 + 2 c t = 1; the smaller root is the accurate one.
  const c = (s[q][q] - s[p][p]) / (2 * s[p][q]);
  const t = (c < 0 ? -1 : 1) / (Math.abs(c) + Math.hypot(c, 1));
  const cos = 1 / Math.hypot(t, 1), sin = t * cos;
  const rotate = (x, y) => [cos * x - sin * y, sin * x + cos * y];
  for (const row of s) [row[p], row[q]] = rotate(row[p], row[q]);
  for (let b = 0; b < s.length; b++) {
    [s[p][b], s[q][b]] = rotate(s[p][b], s[q][b]);
    [axes[p][b], axes[q][b]] = rotate(axes[p][b], axes[q][b]);
  }
  s[p][q] = s[q][p] = 0;
}

// --- where the particles start -------------------------------------------------------------------

// The third word of Philox's counter. The path has 0; what else is drawn from the same seed has
// another, and is independent of it.
export const START = 1;
export const TARGET = 2;

// n exact samples of the target at the mesh's first noise level. Particle i has the seed + i, as in
// the path: more particles leave the others where they are.
export function start(target, mesh, seed, n) {
  return target.sample(seed, n, { sigma: mesh.sigma[0], alpha: mesh.alpha[0], stream: START });
}

// For each of n particles d unit normals (counter: element // 4, node 0) and a uniform number (node
// 1, first word) of the given stream.
function draws(seed, n, d, stream) {
  const [low, high] = keyWords(seed);
  const words = new Uint32Array(4);
  const uniform = new Float64Array(n), normals = new Float64Array(n * d);
  for (let i = 0; i < n; i++) {
    const k0 = (low + i) >>> 0;
    const k1 = (high + Math.floor((low + i) * 2 ** -32)) >>> 0;
    philox4x32(words, 0, 1, stream, 0, k0, k1);
    uniform[i] = unit(words[0]);
    for (let a = 0; a < d; a++) {
      if (a % 4 === 0) philox4x32(words, a / 4, 0, stream, 0, k0, k1);
      // Box and Muller: two words, two normals.
      const pair = a & 2, radius = Math.sqrt(-2 * Math.log(unit(words[pair])));
      const angle = 2 * Math.PI * unit(words[pair + 1]);
      normals[i * d + a] = radius * (a & 1 ? Math.sin(angle) : Math.cos(angle));
    }
  }
  return { uniform, normals };
}

const unit = word => (word + 0.5) * 2 ** -32; // in (0, 1), never at an end

function cumulative(weights) {
  let total = 0;
  return weights.map(weight => (total += weight));
}

// The first index whose edge lies above u, by halving; the last index if rounding left none.
function firstAbove(edges, u) {
  let low = 0, high = edges.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (edges[middle] > u) high = middle;
    else low = middle + 1;
  }
  return low;
}

// --- noise ---------------------------------------------------------------------------------------

// The unit normals xi of every step, from the Brownian path of a seed: a function (mesh, eta) ->
// array of Float64Arrays. What was drawn is kept, so that only new levels cost anything: moving eta
// reweights and draws nothing, and moving s_noise or the solver does not even reweight.
export function makeNoise(seed, n, d, clock = "tau") {
  const normals = createNormals(batchNormals, seed, n, d);
  let last, xi;
  return (mesh, eta) => {
    if (eta === 0) return []; // D = 0: no step adds noise
    const lam = mesh.lam.filter(l => l < Infinity), key = [mesh.process, eta, ...lam].join();
    if (key !== last) {
      xi = bridgeNoise(bridgeWeights(lam, { clock, eta, process: mesh.process }), normals, n * d);
      last = key;
    }
    return xi;
  };
}

// --- the sampler ---------------------------------------------------------------------------------

// All states and estimates of a run:
//
//   x[k+1] = A x[k] + B x0[k] + C (x0[k] - x0[k-1]) + D xi[k].
//
// x: the first states, n * d numbers. xi: one array a step; none where D = 0.
// Returns states (N + 1 arrays), estimates (N arrays), and xi and d for terms().
export function run({ target, mesh, table, x, xi }) {
  const d = target.d, n = x.length / d, steps = mesh.h.length;
  const array = () => new Float64Array(x.length);
  const states = [x, ...Array.from({ length: steps }, array)];
  const estimates = Array.from({ length: steps }, array);
  for (let k = 0; k < steps; k++) {
    target.denoise(states[k], n, mesh.sigma[k], mesh.alpha[k], estimates[k]);
    advance(table, k, states[k], estimates[k], estimates[k - 1], xi[k], states[k + 1]);
  }
  return { states, estimates, xi, d };
}

function advance(table, k, x, estimate, previous, xi, out) {
  const A = table.A[k], B = table.B[k], C = table.C[k], D = table.D[k];
  for (let i = 0; i < out.length; i++) out[i] = A * x[i] + B * estimate[i];
  // The difference first: two estimates that nearly agree would lose it in a sum with a large C.
  if (C !== 0) for (let i = 0; i < out.length; i++) out[i] += C * (estimate[i] - previous[i]);
  if (D !== 0) for (let i = 0; i < out.length; i++) out[i] += D * xi[i];
}

// The three terms that step k moved particle i by; their sum is x[k+1] - x[k].
export function terms({ states, estimates, xi, d }, table, k, i) {
  const at = a => i * d + a;
  const vector = f => Float64Array.from({ length: d }, (_, a) => f(at(a)));
  const { A, B, C, D } = table;
  return {
    drift: vector(p => (A[k] - 1) * states[k][p] + B[k] * estimates[k][p]),
    history: vector(p => (C[k] ? C[k] * (estimates[k][p] - estimates[k - 1][p]) : 0)),
    noise: vector(p => (D[k] ? D[k] * xi[k][p] : 0)),
  };
}

// --- the numbers beside the picture --------------------------------------------------------------

// The root of the mean squared distance from the mean: sqrt(sum_i |x_i - mean|^2 / n).
export function spread(x, d) {
  const n = x.length / d;
  let squares = 0;
  for (let a = 0; a < d; a++) {
    let mean = 0;
    for (let i = a; i < x.length; i += d) mean += x[i] / n;
    for (let i = a; i < x.length; i += d) squares += (x[i] - mean) ** 2 / n;
  }
  return Math.sqrt(squares);
}

// The sliced Wasserstein distance of n points to a target, as a function of the points:
//
//   sqrt( mean over directions u and ranks i of  (sorted(u . x)_i - q_u((i + 1/2) / n))^2 ).
//
// In one dimension the best way to carry a sample onto a law is by rank, hence the sorting and the
// quantiles q_u of the target along u: the law itself, so that only the points are by chance. The
// directions are even in angle: the same picture always has the same number. n exact samples are
// not at 0 either but near n^(-1/2): show that beside it.
export function slicedDistance(target, n, directions = 16) {
  const { d } = target;
  if (d > 2) throw new RangeError(`slicedDistance takes one or two dimensions, got ${d}`);
  const units = d === 1 ? [[1]] : Array.from({ length: directions }, (_, j) =>
    [Math.cos((Math.PI * j) / directions), Math.sin((Math.PI * j) / directions)]);
  const exact = units.map(unit => quantiles(target.along(unit), n));
  const line = new Float64Array(n);
  return x => {
    let squares = 0;
    units.forEach(([cos, sin], j) => {
      for (let i = 0; i < n; i++) line[i] = d === 1 ? x[i] : cos * x[2 * i] + sin * x[2 * i + 1];
      line.sort();
      for (let i = 0; i < n; i++) squares += (line[i] - exact[j][i]) ** 2 / n;
    });
    return Math.sqrt(squares / units.length);
  };
}

const PLACES = 4096; // at which a distribution function is known

// The quantiles of a mixture on the line at (i + 1/2) / n: its density is summed up on a grid and
// the sum inverted by straight lines. What is narrower than the grid's gap, such as a point, is
// widened to it; so no quantile is off by more than a gap or two, which is 1/4096 of the range.
export function quantiles({ means, variances, weights }, n) {
  const sd = variances.map(Math.sqrt);
  const least = Math.min(...means.map((m, j) => m - 8 * sd[j]));
  const most = Math.max(...means.map((m, j) => m + 8 * sd[j]));
  const room = 0.01 * (most - least) + 1e-9; // for points at the ends to be widened
  const low = least - room, gap = (most + room - low) / (PLACES - 1);
  const below = new Float64Array(PLACES); // half a gap beyond a place; first, the density at it
  means.forEach((m, j) => {
    const width = Math.max(sd[j], gap), reach = 8 * width;
    const first = Math.max(0, Math.ceil((m - reach - low) / gap));
    const last = Math.min(PLACES - 1, Math.floor((m + reach - low) / gap));
    for (let i = first; i <= last; i++) {
      below[i] += weights[j] / width * Math.exp(-0.5 * ((low + i * gap - m) / width) ** 2);
    }
  });
  let total = 0;
  for (let i = 0; i < PLACES; i++) below[i] = total += below[i];
  const out = new Float64Array(n);
  for (let i = 0, at = 1; i < n; i++) {
    const wanted = total * (i + 0.5) / n;
    while (below[at] < wanted) at++;
    out[i] = low + gap * (at + 0.5 - (below[at] - wanted) / (below[at] - below[at - 1]));
  }
  return out;
}
