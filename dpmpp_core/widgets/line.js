// The line explorer: particles of a 1-D target on their way, over the exact marginals.
//
// In Jupyter the numbers come from Python, in the trait `result`. In a page without a kernel
// line_run.js computes them, in a worker; the rest is the same.

import { mixture } from "./engine.js";
import { gridOf } from "./line_law.js";
import { answer, lengthOf } from "./line_run.js";
import { meshOf, momentsOf } from "./runs.js";
import { element, minus, picture, rgb, targetChoice, targetInPython, write } from "./controls.js";
import { liveModule } from "./frame.js";
import { inside, plotArea, roundUp, ticks } from "./plot.js";

const SOLVERS = { midpoint: [], heun: [4, 2.5] }; // as in figures.py
const GAP = 0.1; // place of sigma = 0 behind the last finite lambda, as a part of their range
const STRIP = 0.035; // half of the width of what is drawn there
const COLUMNS = 160, ROWS = 150; // of the shades
const DARKEST = 190; // their opacity, of 255

export default liveModule({
  module: "line_run",
  answer,
  label: "Line explorer",
  run: ["target", "eta", "s_noise", "solver_type", "steps", "schedule", "sigma_min", "sigma_max",
    "seed", "particles"],
  rest: ["particle"],
  colours: ["paper", "ink", "muted", "target"],
  view: createView,
});

function createView(state) {
  const { get, settings, ranged, counted, knobs } = state;
  // --- the page's part of the figure ---

  const panel = () => picture("live-loupe", { style: "height: 20rem" });
  const canvases = { paths: panel(), density: panel() };

  const controls = {
    target: targetChoice(state),
    ...knobs(),
    particle: ranged("particle", "Particle drawn strongly", 1),
    seed: counted("seed", "Seed"),
    particles: counted("particles", "Particles"),
  };

  const results = Object.fromEntries(["spread", "distance", "length"].map(name =>
    [name, element("output", { className: "live-number", "aria-live": "polite" })]));
  const how = element("p", { className: "live-help" });

  // Side by side on a phone too: the panels share their vertical axis.
  const sides = "display: grid; gap: 0.4rem; align-items: end; " +
    "grid-template-columns: minmax(0, 1fr) clamp(6rem, 27%, 12rem)";
  const columns = "display: grid; gap: 0 1.25rem; " +
    "grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr))";
  const titled = (title, canvas) => element("div", {},
    element("p", { className: "live-title" }, title), canvas);
  const body = [
    element("div", { style: sides },
      titled("State, scaled by its exact law, on the way to σ = 0", canvases.paths),
      titled("At the end", canvases.density)),
    element("div", { className: "live-results", style: columns },
      element("p", {}, element("span", {}, "Final spread"), results.spread),
      element("p", {}, element("span", {}, "Wasserstein-1 distance to the target"),
        results.distance),
      element("p", {}, element("span", {}, "Mean length of a path"), results.length)),
    how,
  ];

  // --- what is shown ---

  let result, target, range, exact, lam, shades;

  function dataOf({ target: name }) {
    const { targets, grid, width, paths } = get("offers");
    return { ...targets[name], grid, width, paths };
  }

  function take(found) {
    result = found;
    const data = dataOf(result.settings), law = mixture(data);
    const { mean, variance } = momentsOf(law.along([1])), unit = Math.sqrt(variance);
    target = { ...data, law, mean, variance, unit };
    range = [data.low, data.high].map(x => (x - mean) / unit);
    const points = Float64Array.from(gridOf(data)), density = new Float64Array(data.grid);
    // Smoothed as the particles' density is: by noise of that width.
    exact = law.logDensity(points, data.grid, data.width, 1, density).map(p => unit * Math.exp(p));
    lam = meshOf(result.settings).lam.slice(0, -1);
  }

  const numbers = () => ({
    spread: `${plusMinus(result.spread, result.error)} of 1`,
    distance: `${fixed(result.distance)} spreads (exact sample: ` +
      `${plusMinus(result.exact_distance, result.exact_scatter)})`,
    length: `${result.length.toFixed(1)} spreads`,
  });

  // --- drawing ---

  function draw(colours, fit) {
    drawPaths(colours, fit(canvases.paths));
    drawDensity(colours, fit(canvases.density));
    for (const [name, text] of Object.entries(numbers())) write(results[name], text);
    write(how,
      `Grey: the exact density at every λ, by its root, so that rare states show; at σ = 0 the ` +
      `target's. Thin: the paths of ${target.paths} particles. Strong: one of them, with a dot for ` +
      `each state. At the end, both densities are smoothed by a Gaussian of width ` +
      `${target.width}. The numbers come from ${result.settings.particles} particles; ± is a ` +
      `standard error, for exact samples the scatter of one.`);
  }

  function drawPaths(colours, fitted) {
    const { paths } = result, own = get("particle"), from = lam[0], to = lam.at(-1);
    const end = to + GAP * (to - from), half = STRIP * (to - from);
    const label = (y, i) => `${y[i] < 0 ? "−" : ""}${Math.abs(y[i]).toFixed(2)}`;
    canvases.paths.setAttribute("aria-label",
      `Paths of ${target.paths} particles over ${lam.length} steps, from λ ` +
      `${minus(from.toFixed(1))} to ${minus(to.toFixed(1))} and then to σ = 0, on the exact ` +
      `density. Their mean length is ${numbers().length}. The strong one, number ${own}, goes from ` +
      `${label(paths[0], own)} to ${label(paths.at(-1), own)} and is ` +
      `${lengthOf(paths, own).toFixed(1)} spreads long.`);
    const place = plotArea(fitted, colours, {
      x: [from, end + half], y: range, xName: "λ", yName: "(x − mean) / spread",
      xTicks: ticks([from, to - 0.03 * (to - from)]), // room for the name of the end
    });
    if (!place) return;
    const { pen, unit, px, py, top, bottom } = place;
    const image = shadesFor(colours), height = bottom - top;
    pen.drawImage(image, 0, 0, COLUMNS, ROWS, px(from), top, px(to) - px(from), height);
    pen.drawImage(image, COLUMNS, 0, 1, ROWS, px(end - half), top, px(2 * half) - px(0), height);
    pen.fillStyle = colours.muted;
    pen.textAlign = "center";
    pen.textBaseline = "top";
    pen.fillText("σ = 0", px(end), bottom + 6 * unit);
    pen.fillStyle = colours.paper; // lambda is cut here
    pen.fillRect(px((to + end - half) / 2) - 2 * unit, bottom - 2 * unit, 4 * unit, 4 * unit);

    const at = [...lam, end].map(px);
    const follow = i => paths.forEach((state, k) =>
      (k ? pen.lineTo(at[k], py(state[i])) : pen.moveTo(at[k], py(state[i]))));
    inside(place, () => {
      pen.lineJoin = "round";
      pen.strokeStyle = `${colours.ink}70`;
      pen.lineWidth = 0.8 * unit;
      pen.beginPath();
      for (let i = 0; i < target.paths; i++) follow(i);
      pen.stroke();
      pen.beginPath();
      follow(own);
      pen.strokeStyle = colours.paper;
      pen.lineWidth = 5 * unit;
      pen.stroke();
      strong(pen, unit, colours);
      pen.stroke();
      pen.fillStyle = colours.ink;
      pen.beginPath();
      paths.forEach((state, k) => {
        pen.moveTo(at[k], py(state[own]));
        pen.arc(at[k], py(state[own]), 2.6 * unit, 0, 7);
      });
      pen.fill();
    });
  }

  function strong(pen, unit, colours) {
    pen.setLineDash(SOLVERS[result.settings.solver_type].map(part => 2 * part * unit));
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 2 * unit;
  }

  // The exact densities of the scaled state, a column for each lambda and one for sigma = 0.
  function shadesFor({ target: colour }) {
    const key = [result.settings.target, lam[0], lam.at(-1), colour].join();
    if (shades?.key === key) return shades.image;
    const places = Float64Array.from({ length: ROWS }, (_, row) =>
      range[1] - ((row + 0.5) / ROWS) * (range[1] - range[0]));
    const densities = Array.from({ length: COLUMNS + 1 }, (_, column) => {
      const part = (column + 0.5) / COLUMNS;
      const sigma = part > 1 ? 0 : Math.exp(-lam[0] - part * (lam.at(-1) - lam[0]));
      const scale = Math.sqrt(target.variance + sigma * sigma);
      return target.law.logDensity(places.map(y => target.mean + scale * y), ROWS, sigma, 1,
        new Float64Array(ROWS)).map(p => scale * Math.exp(p));
    });
    const highest = Math.max(...densities.map(column => Math.max(...column)));
    const image = element("canvas", { width: COLUMNS + 1, height: ROWS });
    const pen = image.getContext("2d"), pixels = pen.createImageData(COLUMNS + 1, ROWS);
    densities.forEach((column, i) => column.forEach((density, row) =>
      pixels.data.set([...rgb(colour), DARKEST * Math.sqrt(density / highest)],
        4 * (row * (COLUMNS + 1) + i))));
    pen.putImageData(pixels, 0, 0);
    shades = { key, image };
    return image;
  }

  function drawDensity(colours, fitted) {
    const { density } = result, tops = [Math.max(...density), Math.max(...exact)];
    canvases.density.setAttribute("aria-label",
      `Density of the last states and, in grey, of the target; their highest points are ` +
      `${tops.map(fixed).join(" and ")}. The final spread is ${numbers().spread}.`);
    const x = [0, +roundUp(1.05 * Math.max(...tops)).toPrecision(3)];
    const place = plotArea(fitted, colours, {
      x, y: range, xName: "density", xTicks: x, yTicks: [], margin: 8,
    });
    if (!place) return;
    const { pen, unit, px, py } = place;
    const trace = values => values.forEach((p, i) =>
      pen.lineTo(px(p), py(range[0] + (i / (target.grid - 1)) * (range[1] - range[0]))));
    inside(place, () => {
      pen.fillStyle = `${colours.target}60`;
      pen.beginPath();
      pen.moveTo(px(0), py(range[0]));
      trace(exact);
      pen.lineTo(px(0), py(range[1]));
      pen.fill();
      strong(pen, unit, colours);
      pen.beginPath();
      trace(density);
      pen.stroke();
    });
  }

  // --- taking it away ---

  function asPython() {
    const s = settings(), data = get("offers").targets[s.target];
    return [
      "import torch",
      "",
      "import dpmpp_core as dp",
      "from dpmpp_core.transport import quantiles",
      "from dpmpp_core.widgets.start import start",
      "",
      `target = ${targetInPython("own", data)}`,
      `sigmas = dp.schedule.${s.schedule}(${s.steps}, sigma_min=${s.sigma_min}, ` +
        `sigma_max=${s.sigma_max})`,
      `x = start(target, dp.Mesh.from_sigmas(sigmas), seed=${s.seed}, n=${s.particles})`,
      "result = dp.sample(",
      "    target.model(),",
      "    x,",
      "    sigmas,",
      `    eta=${s.eta},`,
      `    s_noise=${s.s_noise},`,
      `    solver_type="${s.solver_type}",`,
      `    noise_sampler=dp.PhiloxBridge(x, sigmas, seed=${s.seed}, eta=${s.eta}),`,
      "    disable=True,",
      ")[:, 0]",
      "unit = float(target.covariance.sqrt())",
      "spread = float(result.std(correction=0)) / unit",
      "levels = (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)",
      "exact = quantiles(target, torch.special.ndtri(levels))",
      "distance = float((result.sort().values - exact).abs().mean()) / unit",
      "print(f\"final spread {spread:.3f} of 1, Wasserstein-1 distance {distance:.3f} spreads\")",
      "",
    ].join("\n");
  }

  function sheet(colours, unit) {
    const { paths, density } = canvases, s = settings(), line = 18 * unit;
    const made = element("canvas", {
      width: paths.width + density.width, height: paths.height + 5 * line,
    });
    const pen = made.getContext("2d"), { spread, distance, length } = numbers();
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(paths, 0, 0);
    pen.drawImage(density, paths.width, 0);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    [
      `Final spread ${spread}; mean length of a path ${length}`,
      `Wasserstein-1 distance ${distance}`,
      `${target.label}, ${s.particles} particles, seed ${s.seed}, ${s.solver_type}`,
      `eta ${s.eta}, s_noise ${s.s_noise}, ${s.steps} steps, ${s.schedule}`,
    ].forEach((text, row) => pen.fillText(text, 10 * unit, paths.height + (row + 1) * line));
    return made;
  }

  return { canvases, body, controls, dataOf, take, draw, asPython, sheet };
}

const fixed = value => value.toFixed(3);
const plusMinus = (value, error) => `${fixed(value)} ± ${fixed(error)}`;
