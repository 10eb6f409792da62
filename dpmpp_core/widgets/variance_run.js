// The variance explorer's answer.

import { run } from "./engine.js";
import { deviationOf, gridOf, marginalSpreads, smoothed } from "./line_law.js";
import { meshOf, momentsOf, noiseOf, startOf, tableOf, targetOf } from "./runs.js";

const TINY = 1e-18; // no variance is below it: where terms cancel, rounding may leave -1e-18

// { laws: { midpoint: { spread, error, density }, heun: ... } }, where spread and error have an entry
// for each state and density one for each point of the target's grid.
export function answer(s, data, keep) {
  const target = targetOf(data, keep), mesh = meshOf(s);
  const { mean, variance } = momentsOf(target.along([1]));
  const marginal = marginalSpreads(mesh, variance);
  const law = data.means.length === 1
    ? table => exactLaw(data, mesh, table, mean, variance, marginal)
    : sampledLaw(data, mesh, s, marginal, keep);
  return { laws: Object.fromEntries(["midpoint", "heun"].map(solver_type =>
    [solver_type, law(tableOf(mesh, { ...s, solver_type }))])) };
}

// Exact means and variances of x[0], ..., x[N] for the data N(mean, variance). The twin of
// gaussian_moments in moments.py, by a shorter way with fewer digits. The denoiser is affine,
// m + g (x - alpha m), so with the deviations u of the state and y of the previous estimate
//
//   u' = a u - C y + D xi,   y' = g u,   a = A + (B + C) g,
//
// and the three entries of their covariance obey the recursion below.
function gaussianMoments(mesh, table, mean, variance) {
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
