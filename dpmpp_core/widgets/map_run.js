// The answer of the map of the final spread.

import { meshOf, once, tableOf } from "./runs.js";

// { map, chosen }: final standard deviations over that of the data. `map` is row by row for data.rows
// (of s.up) and data.etas; `chosen` is that of the setting itself, by solver. The twin of map.py.
export function answer(s, { etas, rows }, keep) {
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
// gaussianMoments in variance_run.js, but for the start and the noise apart.
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
