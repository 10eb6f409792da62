// The variance explorer: the law of a 1-D target through the steps, beside the exact marginals.
//
// In Jupyter the laws come from Python, in the trait `result`. In a page without a kernel
// variance_run.js computes them, in a worker; the rest is the same.

import { mixture } from "./engine.js";
import { gridOf } from "./line_law.js";
import { answer } from "./variance_run.js";
import { element, picture, targetChoice, write } from "./controls.js";
import { liveModule } from "./frame.js";
import { inside, key, plotArea, roundUp } from "./plot.js";

// As in figures.py: no solver is told by colour alone.
const SOLVERS = { midpoint: [], heun: [4, 2.5] };
const EXACT_WIDTH = 5; // of the line at 1: broad and pale, as the target's density

export default liveModule({
  module: "variance_run",
  answer,
  label: "Variance explorer",
  run: ["target", "eta", "s_noise", "steps", "schedule", "sigma_min", "sigma_max", "seed",
    "particles"],
  rest: ["solver_type"],
  colours: ["paper", "ink", "muted", "target"],
  view: createView,
});

function createView(state) {
  const { get, settings, counted, knobs } = state;
  // --- the page's part of the figure ---

  const panel = () => picture("live-loupe", { style: "height: 16rem" });
  const canvases = { spread: panel(), density: panel() };

  const controls = {
    target: targetChoice(state),
    ...knobs(),
    seed: counted("seed", "Seed of the sample"),
    particles: counted("particles", "Particles of the sample"),
  };

  const number = () => element("output", { className: "live-number", "aria-live": "polite" });
  const results = { chosen: number(), other: number() };
  const otherName = element("span");
  const how = element("p", { className: "live-help" });

  const side = "display: grid; gap: 0.8rem 1.25rem; " +
    "grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr))";
  const titled = (title, canvas) => element("div", {},
    element("p", { className: "live-title" }, title), canvas);
  const body = [
    element("div", { style: side },
      titled("Spread of the state, over the exact one", canvases.spread),
      titled("Density of the result, and the target's", canvases.density)),
    element("div", { className: "live-results", style: side },
      element("p", {}, element("span", {}, "Final spread"), results.chosen),
      element("p", {}, otherName, results.other)),
    how,
  ];

  // --- the law ---

  let result, target, exact;

  function dataOf({ target: name }) {
    const { targets, grid, width } = get("offers");
    return { ...targets[name], grid, width };
  }

  function take(found) {
    result = found;
    target = dataOf(result.settings);
    const points = Float64Array.from(gridOf(target)), { grid } = target;
    exact = mixture(target).logDensity(points, grid, 0, 1, new Float64Array(grid)).map(Math.exp);
  }

  const chosen = () => get("solver_type");
  const other = () => Object.keys(SOLVERS).find(solver => solver !== chosen());
  const sampled = () => target.means.length > 1;
  const final = solver => {
    const { spread, error } = result.laws[solver];
    const plus = sampled() ? ` ± ${error.at(-1).toFixed(3)}` : "";
    return `${fixed(spread.at(-1))}${plus} of 1`;
  };

  // --- drawing ---

  function draw(colours, fit) {
    drawSpread(colours, fit(canvases.spread));
    drawDensity(colours, fit(canvases.density));
    showNumbers();
  }

  // Axes, with the names of the lines above them: the solvers', and that of what is grey.
  function prepare(fitted, colours, x, y, xName, truth) {
    const place = plotArea(fitted, colours, { x, y, xName });
    if (!place) return null;
    const { pen, unit } = place;
    key(place, [
      ...Object.keys(SOLVERS).map(solver => ({
        text: solver, look: () => look(pen, unit, colours, solver),
        colour: solver === chosen() ? colours.ink : colours.muted,
      })),
      { text: truth, colour: colours.muted, look() {
        pen.setLineDash([]);
        pen.strokeStyle = `${colours.target}60`;
        pen.lineWidth = (truth === "target" ? 9 : EXACT_WIDTH) * unit;
      } },
    ]);
    return place;
  }

  function look(pen, unit, colours, solver) {
    const strong = solver === chosen(), width = (strong ? 2.4 : 1.2) * unit;
    pen.strokeStyle = strong ? colours.ink : colours.muted;
    pen.lineWidth = width;
    pen.setLineDash(SOLVERS[solver].map(part => part * (strong ? 2.4 : 1.8) * unit));
  }

  // A curve of each solver, the chosen one last and above the other.
  function drawCurves(place, colours, valuesOf, xOf) {
    const { pen, unit, px, py } = place;
    inside(place, () => {
      for (const solver of [other(), chosen()]) {
        look(pen, unit, colours, solver);
        pen.beginPath();
        valuesOf(result.laws[solver]).forEach((y, i) => pen.lineTo(px(xOf(i)), py(y)));
        pen.stroke();
      }
    });
  }

  function drawSpread(colours, fitted) {
    const { spread, error } = result.laws[chosen()], steps = spread.length - 1;
    const all = [...Object.values(result.laws).flatMap(law => law.spread),
      ...spread.map((y, k) => y + 2 * error[k]), ...spread.map((y, k) => y - 2 * error[k])];
    const place = prepare(fitted, colours, [0, steps], rangeAboutOne(all), "step k", "exact");
    canvases.spread.setAttribute("aria-label",
      `Spread over ${steps} steps, from ${fixed(spread[0])} to ${final(chosen())} with ` +
      `${chosen()}; to ${final(other())} with ${other()}.`);
    if (!place) return;
    const { pen, unit, px, py, left, right } = place;
    if (sampled()) {
      pen.fillStyle = `${colours.target}40`;
      pen.beginPath();
      spread.forEach((y, k) => pen.lineTo(px(k), py(y + 2 * error[k])));
      for (let k = steps; k >= 0; k--) pen.lineTo(px(k), py(spread[k] - 2 * error[k]));
      pen.fill();
    }
    pen.strokeStyle = `${colours.target}60`;
    pen.lineWidth = EXACT_WIDTH * unit;
    pen.beginPath();
    pen.moveTo(left, py(1));
    pen.lineTo(right, py(1));
    pen.stroke();
    drawCurves(place, colours, law => law.spread, k => k);
    const last = spread.at(-1), x = px(steps), y = py(last);
    pen.fillStyle = colours.ink;
    pen.beginPath();
    pen.arc(x, y, 3.5 * unit, 0, 7);
    pen.fill();
    pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
    pen.textAlign = "right";
    pen.textBaseline = last >= 1 ? "bottom" : "top";
    pen.lineWidth = 4 * unit;
    pen.strokeStyle = colours.paper;
    pen.lineJoin = "round";
    const below = last >= 1 ? -7 * unit : 7 * unit;
    pen.strokeText(fixed(last), right, y + below);
    pen.fillText(fixed(last), right, y + below);
  }

  function drawDensity(colours, fitted) {
    const { low, high } = target, { grid } = get("offers");
    const highest = Math.max(...exact, ...result.laws[chosen()].density);
    const place = prepare(fitted, colours, [low, high], [0, roundUp(1.05 * highest)],
      "x", "target");
    canvases.density.setAttribute("aria-label",
      `Density of the result with ${chosen()} and ${other()}, and of the target; the highest ` +
      `points are ${fixed(Math.max(...result.laws[chosen()].density))}, ` +
      `${fixed(Math.max(...result.laws[other()].density))} and ${fixed(Math.max(...exact))}.`);
    if (!place) return;
    const { pen, px, py } = place;
    const xOf = i => low + (i * (high - low)) / (grid - 1);
    pen.fillStyle = `${colours.target}60`;
    pen.beginPath();
    pen.moveTo(px(low), py(0));
    exact.forEach((y, i) => pen.lineTo(px(xOf(i)), py(y)));
    pen.lineTo(px(high), py(0));
    pen.fill();
    drawCurves(place, colours, law => law.density, xOf);
  }

  // --- numbers and words ---

  function showNumbers() {
    write(results.chosen, `${final(chosen())} (${chosen()})`);
    write(results.other, `${final(other())}`);
    write(otherName, `With ${other()}`);
    const { particles } = result.settings;
    write(how, sampled()
      ? `Estimated from ${particles} particles and given with its standard error; the band is two ` +
        `of them wide on either side. The density is smoothed by a Gaussian of width ` +
        `${get("offers").width}.`
      : "Exact: the sampler is linear on a Gaussian, so nothing here is sampled.");
    // Where nothing is sampled, these would do nothing.
    for (const setting of ["seed", "particles"]) {
      controls[setting].row.style.display = sampled() ? "" : "none";
    }
  }

  // --- taking it away ---

  function asPython() {
    const s = settings(), data = get("offers").targets[s.target];
    const sigmas = `sigmas = dp.schedule.${s.schedule}(${s.steps}, ` +
      `sigma_min=${s.sigma_min}, sigma_max=${s.sigma_max})`;
    const knobs = `eta=${s.eta}, s_noise=${s.s_noise}, solver_type="${s.solver_type}"`;
    const tensor = list => `torch.tensor(${JSON.stringify(list)}, dtype=torch.float64)`;
    const lines = data.means.length === 1 ? [
      "import dpmpp_core as dp",
      "from dpmpp_core.moments import gaussian_moments",
      "",
      sigmas,
      "mesh = dp.Mesh.from_sigmas(sigmas)",
      `law = gaussian_moments(mesh, ${knobs}, mean=${data.means[0][0]}, ` +
        `variance=${data.covariances[0]})`,
      `spread = (law.variance[-1] / ${data.covariances[0]}) ** 0.5`,
      "print(f\"final spread {spread:.3f} of 1\")",
    ] : [
      "import torch",
      "",
      "import dpmpp_core as dp",
      "from dpmpp_core.widgets.start import start",
      "",
      "target = dp.GaussianMixture(",
      ...["means", "covariances", "weights"].map(part => `    ${tensor(data[part])},`),
      ")",
      sigmas,
      `x = start(target, dp.Mesh.from_sigmas(sigmas), seed=${s.seed}, n=${s.particles})`,
      "result = dp.sample(",
      "    target.model(),",
      "    x,",
      "    sigmas,",
      ...knobs.split(", ").map(knob => `    ${knob},`),
      `    noise_sampler=dp.PhiloxBridge(x, sigmas, seed=${s.seed}, eta=${s.eta}),`,
      "    disable=True,",
      ")",
      "spread = float(result.std(correction=0) / target.covariance.sqrt())",
      "print(f\"final spread {spread:.3f} of 1\")",
    ];
    return `${lines.join("\n")}\n`;
  }

  // One panel above the other: a picture that a phone saves as well as a wide screen does.
  function sheet(colours, unit) {
    const { spread, density } = canvases, s = settings(), line = 18 * unit;
    const made = element("canvas", {
      width: Math.max(spread.width, density.width),
      height: spread.height + density.height + 6.4 * line,
    });
    const pen = made.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(spread, 0, line);
    pen.drawImage(density, 0, spread.height + 2 * line);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    const foot = spread.height + density.height + 2.2 * line;
    pen.fillText("Spread of the state, over the exact one", 10 * unit, 0.9 * line);
    pen.fillText("Density of the result", 10 * unit, spread.height + 1.9 * line);
    [
      `Final spread ${final(chosen())} (${chosen()})`,
      `With ${other()} ${final(other())}`,
      `${target.label}${sampled() ? `, ${s.particles} particles, seed ${s.seed}` : ""}`,
      `eta ${s.eta}, s_noise ${s.s_noise}, ${s.steps} steps, ${s.schedule}`,
    ].forEach((text, row) => pen.fillText(text, 10 * unit, foot + (row + 0.6) * line));
    return made;
  }

  return { canvases, body, controls, dataOf, take, draw, asPython, sheet };
}

// --- small things --------------------------------------------------------------------------------

const fixed = value => value.toFixed(3);

// A range that holds 1 and all values. One of a few, so that the axis stands still while a slider
// moves a little.
function rangeAboutOne(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const most = Math.max(high - 1, 1 - low);
  const half = [0.05, 0.1, 0.2, 0.3, 0.5, 1].find(room => room >= 1.08 * most);
  return half ? [1 - half, 1 + half] : [0, roundUp(Math.max(1.08 * high, 2))];
}
