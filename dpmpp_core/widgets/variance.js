// The variance explorer: the law of a 1-D target through the steps, beside the exact marginals.
//
// In Jupyter the laws come from Python, in the trait `result`. In a page without a kernel runs.js
// computes them, in a worker; the rest is the same.

import { mixture } from "./engine.js";
import { gridOf } from "./runs.js";
import { createRunner } from "./worker.js";
import {
  button, canvasSizes, choice, createState, element, frames, heed, minus, onTheme, picture,
  readColours, save, settled, sharing,
} from "./controls.js";

const COLOURS = ["paper", "ink", "muted", "target"];
// As in figures.py: no solver is told by colour alone.
const SOLVERS = { midpoint: [], heun: [4, 2.5] };
const RUN = ["target", "eta", "s_noise", "steps", "schedule", "sigma_min", "sigma_max", "seed",
  "particles"];
const SETTINGS = [...RUN, "solver_type"];
const EXACT_WIDTH = 5; // of the line at 1: broad and pale, as the target's density

// --- the figure ----------------------------------------------------------------------------------

export default {
  async render({ model, el, textOf }) {
    const figure = createFigure(model, el, textOf);
    el.figure = figure; // what the tests read
    return figure.remove;
  },
};

function createFigure(model, el, textOf) {
  const {
    kernel, name, get, set, limits, settings, initial, changes, ranged, counted,
  } = createState(model, SETTINGS);

  // --- the page's part of the figure ---

  const panel = () => picture("live-loupe", { style: "height: 16rem" });
  const canvases = { spread: panel(), density: panel() };

  const controls = {
    target: choice({
      label: "Target",
      options: Object.entries(get("offers").targets).map(([value, { label }]) => [value, label]),
      changed: changes("target"),
    }),
    schedule: choice({
      label: "Schedule", options: Object.entries(get("offers").schedules),
      changed: changes("schedule"),
    }),
    solver_type: choice({
      label: "History term", options: Object.keys(SOLVERS).map(solver => [solver, solver]),
      changed: changes("solver_type"),
    }),
    eta: ranged("eta", "eta η", 0.01, value => value.toFixed(2)),
    s_noise: ranged("s_noise", "s_noise", 0.01, value => value.toFixed(2)),
    steps: ranged("steps", "Steps", 1),
    seed: counted("seed", "Seed of the sample"),
    particles: counted("particles", "Particles of the sample"),
  };

  const number = () => element("output", { className: "live-number", "aria-live": "polite" });
  const results = { chosen: number(), other: number() };
  const otherName = element("span");
  const how = element("p", { className: "live-help" });
  const note = element("p", { className: "live-note", role: "alert", hidden: true });
  const said = element("span", { className: "live-said", role: "status" });
  const code = element("textarea", {
    className: "live-code", readOnly: true, hidden: true, spellcheck: false,
    "aria-label": "What was to be copied",
  });
  const { copyLink, forgetLink, followLink, offer, showTrouble } = sharing({
    name, note, code, say, settings, limits, set, initial,
  });

  const buttons = element("div", { className: "live-buttons" },
    button("Reset", () => { forgetLink(); set(initial); say("Back to the start."); }),
    kernel ? "" : button("Copy link", copyLink),
    button("Copy as Python", () => offer(asPython(), "Python copied.")),
    button("Save PNG", savePicture),
    said);

  const side = "display: grid; gap: 0.8rem 1.25rem; " +
    "grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr))";
  const titled = (title, canvas) => element("div", {},
    element("p", { className: "live-title" }, title), canvas);
  const whole = element("div", { className: "live-explorer", role: "group",
    "aria-label": "Variance explorer" },
    note,
    element("div", { style: side },
      titled("Spread of the state, over the exact one", canvases.spread),
      titled("Density of the result, and the target's", canvases.density)),
    element("div", { className: "live-results", style: side },
      element("p", {}, element("span", {}, "Final spread"), results.chosen),
      element("p", {}, otherName, results.other)),
    how,
    element("div", { className: "live-controls" },
      ...Object.values(controls).map(control => control.row)),
    buttons, code);
  el.classList.add("live-root");
  el.append(whole);

  // --- the law ---

  let stale = true, unpainted = true, coloursStale = true;
  let colours, result, target, exact, painted = 0;
  const timing = { run: 0, draw: 0, at: 0 };

  const runner = kernel ? null : createRunner("variance", textOf, answer => {
    take(answer);
    loop.now();
  });

  function dataOf(name) {
    const { targets, grid, width } = get("offers");
    return { ...targets[name], grid, width };
  }

  // Asks for what the settings are now. The kernel needs no asking.
  function ask() {
    const s = Object.fromEntries(RUN.map(setting => [setting, get(setting)]));
    if (runner) runner.ask({ settings: s, data: dataOf(s.target) });
    else if (get("result")) take(get("result"));
  }

  // An answer may be to the question before: it says which settings it was computed for.
  function take(answer) {
    showTrouble(answer.trouble);
    if (answer.trouble) return;
    result = answer;
    target = dataOf(result.settings.target);
    const points = Float64Array.from(gridOf(target)), { grid } = target;
    exact = mixture(target).logDensity(points, grid, 0, 1, new Float64Array(grid)).map(Math.exp);
    timing.run = result.time ?? 0;
    unpainted = true;
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

  const loop = frames(whole, draw);
  const redraw = () => { unpainted = true; loop.request(); };
  const sizes = canvasSizes(Object.values(canvases), redraw);

  function draw() {
    const began = performance.now();
    showSettings();
    if (stale) {
      stale = false;
      ask();
    }
    if (!unpainted || !result) return;
    unpainted = false;
    if (coloursStale) {
      colours = readColours(whole, COLOURS);
      coloursStale = false;
    }
    drawSpread();
    drawDensity();
    showNumbers();
    painted++;
    timing.at = performance.now();
    timing.draw = timing.at - began;
  }

  // Clears a canvas, draws its axes, and returns what turns numbers into places on it; null while
  // it has no size. x, y: the ranges; truth: what is grey.
  function prepare(of, x, y, xName, truth) {
    const { pen, unit, width, height } = sizes.fit(of);
    if (!width || !height) return null;
    const left = 40 * unit, right = width - 14 * unit;
    const top = 30 * unit, bottom = height - 32 * unit;
    const px = value => left + ((value - x[0]) / (x[1] - x[0])) * (right - left);
    const py = value => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - top);

    pen.setLineDash([]);
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, width, height);
    pen.fillStyle = pen.strokeStyle = colours.muted;
    pen.lineWidth = unit;
    pen.font = `${11 * unit}px system-ui, sans-serif`;
    pen.beginPath();
    pen.moveTo(left, top);
    pen.lineTo(left, bottom);
    pen.lineTo(right, bottom);
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const tick of ticks(x)) {
      pen.moveTo(px(tick), bottom);
      pen.lineTo(px(tick), bottom + 4 * unit);
      pen.fillText(minus(tick), px(tick), bottom + 6 * unit);
    }
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const tick of ticks(y)) {
      pen.moveTo(left - 4 * unit, py(tick));
      pen.lineTo(left, py(tick));
      pen.fillText(minus(tick), left - 6 * unit, py(tick));
    }
    pen.stroke();
    pen.textBaseline = "bottom";
    pen.fillText(xName, right, height - 1 * unit);
    drawKey(pen, unit, left, truth);
    return { pen, unit, px, py, left, right, top, bottom };
  }

  function drawKey(pen, unit, left, truth) {
    const y = 13 * unit, length = 26 * unit;
    let at = left;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    const line = () => {
      pen.beginPath();
      pen.moveTo(at, y);
      pen.lineTo(at + length, y);
      pen.stroke();
    };
    const named = text => {
      pen.fillText(text, at + length + 6 * unit, y + 0.5 * unit);
      at += length + pen.measureText(text).width + 20 * unit;
    };
    for (const solver of Object.keys(SOLVERS)) {
      look(pen, unit, solver);
      line();
      pen.fillStyle = solver === chosen() ? colours.ink : colours.muted;
      named(solver);
    }
    pen.setLineDash([]);
    pen.strokeStyle = `${colours.target}60`;
    pen.lineWidth = (truth === "target" ? 9 : EXACT_WIDTH) * unit;
    line();
    pen.fillStyle = colours.muted;
    named(truth);
  }

  function look(pen, unit, solver) {
    const strong = solver === chosen(), width = (strong ? 2.4 : 1.2) * unit;
    pen.strokeStyle = strong ? colours.ink : colours.muted;
    pen.lineWidth = width;
    pen.setLineDash(SOLVERS[solver].map(part => part * (strong ? 2.4 : 1.8) * unit));
  }

  // A curve of each solver, the chosen one last and above the other, clipped to the panel.
  function drawCurves(place, valuesOf, xOf) {
    const { pen, unit, px, py, left, right, top, bottom } = place;
    pen.save();
    pen.beginPath();
    pen.rect(left, top - 2 * unit, right - left + 3 * unit, bottom - top + 3 * unit);
    pen.clip();
    for (const solver of [other(), chosen()]) {
      look(pen, unit, solver);
      pen.beginPath();
      valuesOf(result.laws[solver]).forEach((y, i) => pen.lineTo(px(xOf(i)), py(y)));
      pen.stroke();
    }
    pen.restore();
  }

  function drawSpread() {
    const { spread, error } = result.laws[chosen()], steps = spread.length - 1;
    const all = [...Object.values(result.laws).flatMap(law => law.spread),
      ...spread.map((y, k) => y + 2 * error[k]), ...spread.map((y, k) => y - 2 * error[k])];
    const place = prepare(canvases.spread, [0, steps], rangeAboutOne(all), "step k", "exact");
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
    drawCurves(place, law => law.spread, k => k);
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

  function drawDensity() {
    const { low, high } = target, { grid } = get("offers");
    const highest = Math.max(...exact, ...result.laws[chosen()].density);
    const place = prepare(canvases.density, [low, high], [0, roundUp(1.05 * highest)], "x",
      "target");
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
    drawCurves(place, law => law.density, xOf);
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

  function showSettings() {
    for (const [setting, control] of Object.entries(controls)) control.show(get(setting));
  }

  function say(text) {
    said.textContent = text;
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
  function savePicture() {
    if (!result) return;
    const { spread, density } = canvases, s = settings();
    const unit = sizes.unit(spread), line = 18 * unit;
    const sheet = element("canvas", {
      width: Math.max(spread.width, density.width),
      height: spread.height + density.height + 6.4 * line,
    });
    const pen = sheet.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, sheet.width, sheet.height);
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
    save(sheet, name);
    say("Picture saved.");
  }

  // --- what makes it draw ---

  const rerun = () => { stale = true; loop.request(); };
  const events = [
    ...RUN.map(setting => [`change:${setting}`, rerun]),
    ["change:offers", rerun], ["change:result", rerun], ["change:solver_type", redraw],
  ];
  const forgetTheme = onTheme(() => { coloursStale = true; redraw(); });
  const forgetModel = heed({ model, kernel, events, showTrouble, followLink });
  rerun();

  return {
    get result() { return result; },
    get frames() { return painted; },
    settled: () => settled(() => runner?.busy || loop.pending),
    timing, settings, asPython,
    remove() {
      loop.stop();
      runner?.stop();
      sizes.stop();
      forgetTheme();
      forgetModel();
    },
  };
}

// --- small things --------------------------------------------------------------------------------

const fixed = value => value.toFixed(3);

// The page is not to be laid out anew, nor read out, for nothing.
function write(of, text) {
  if (of.textContent !== text) of.textContent = text;
}

// The least 1, 1.5, 2, 3, 5 or 7 times a power of ten that is not below x.
function roundUp(x) {
  const power = 10 ** Math.floor(Math.log10(x));
  return [1, 1.5, 2, 3, 5, 7, 10].map(digit => digit * power).find(round => round >= x);
}

// A range that holds 1 and all values. One of a few, so that the axis stands still while a slider
// moves a little.
function rangeAboutOne(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const most = Math.max(high - 1, 1 - low);
  const half = [0.05, 0.1, 0.2, 0.3, 0.5, 1].find(room => room >= 1.08 * most);
  return half ? [1 - half, 1 + half] : [0, roundUp(Math.max(1.08 * high, 2))];
}

// Round numbers within a range, about five of them.
function ticks([low, high]) {
  const wanted = (high - low) / 6, power = 10 ** Math.floor(Math.log10(wanted));
  const gap = [1, 2, 5, 10].map(digit => digit * power).find(round => round >= wanted);
  const first = Math.ceil(low / gap - 1e-9);
  const count = Math.floor(high / gap + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => +((first + i) * gap).toPrecision(6));
}
