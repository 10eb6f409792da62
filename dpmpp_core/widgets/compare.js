// Side by side: two settings of the sampler on one Brownian path, and what is between them.
//
// In Jupyter the states of both sides come from Python, in the trait `result`. In a page without a
// kernel engine.js computes them here; the rest is the same.

import { SCHEDULES, makeMesh, makeNoise, mixture, run, spread, start, stepTable } from "./engine.js";
import {
  button, choice, count, element, frames, onTheme, readColours, sharing, slider,
} from "./controls.js";
import { createPlane } from "./plane.js";

const COLOURS = ["paper", "ink", "muted", "target"];
const SIDES = ["a", "b"];
const KNOBS = ["eta", "s_noise", "solver_type", "steps"];
const SHARED = ["target", "schedule", "sigma_min", "sigma_max", "seed", "particles"];
const RUN = [...SHARED, ...SIDES.flatMap(side => KNOBS.map(knob => `${side}_${knob}`))];
const SETTINGS = [...RUN, "progress", "paths"];
const DASH = { midpoint: [], heun: [5, 3] }; // as in figures.py
const GRID = 141; // points along one side at which the target's density is computed

export default {
  async render({ model, el }) {
    const figure = createFigure(model, el);
    el.figure = figure; // what the tests read
    return figure.remove;
  },
};

function createFigure(model, el) {
  const kernel = typeof model.send === "function";
  const name = model.get("name");
  const get = setting => model.get(setting);
  const limits = () => get("offers").limits;
  const settings = () => Object.fromEntries(SETTINGS.map(setting => [setting, get(setting)]));
  const initial = settings();

  function set(values) {
    for (const [setting, value] of Object.entries(values)) model.set(setting, value);
    model.save_changes();
  }

  // --- the page's part of the figure ---

  const changes = setting => value => set({ [setting]: value });
  const ranged = (setting, label, step, format) => {
    const { low, high } = limits()[setting];
    return slider({ label, min: low, max: high, step, format, changed: changes(setting) });
  };
  const counted = (setting, label) => {
    const { low, high } = limits()[setting];
    return count({ label, min: low, max: high, changed: changes(setting) });
  };
  const pairs = object => Object.entries(object);
  const two = value => value.toFixed(2);

  const preset = choice({
    label: "Compare",
    options: [...pairs(get("offers").presets).map(([value, { label }]) => [value, label]),
      ["", "settings of your own"]],
    changed: value => {
      if (value) set(get("offers").presets[value].settings);
      else showSettings(); // that is not a choice to be made, but what the rest amounts to
    },
  });
  const controls = {};
  for (const side of SIDES) {
    controls[`${side}_eta`] = ranged(`${side}_eta`, "eta η", 0.01, two);
    controls[`${side}_s_noise`] = ranged(`${side}_s_noise`, "s_noise", 0.01, two);
    controls[`${side}_steps`] = ranged(`${side}_steps`, "Steps", 1);
    controls[`${side}_solver_type`] = choice({
      label: "History term",
      options: [["midpoint", "midpoint (solid)"], ["heun", "heun (dashed)"]],
      changed: changes(`${side}_solver_type`),
    });
  }
  controls.target = choice({ label: "Target", options: [], changed: changes("target") });
  controls.schedule = choice({
    label: "Schedule", options: pairs(get("offers").schedules), changed: changes("schedule"),
  });
  controls.seed = counted("seed", "Seed");
  controls.particles = counted("particles", "Particles");
  controls.paths = counted("paths", "Paths drawn");
  controls.progress = ranged("progress", "Progress", 1, describeProgress);

  const panel = side => {
    const title = element("p", { className: "live-title" });
    const canvas = element("canvas", { className: "live-canvas", role: "img" });
    return { title, canvas, whole: element("div", {}, title, canvas), side };
  };
  const panels = { a: panel("a"), b: panel("b"), between: panel("between") };
  panels.between.title.append("From A, a dot, to B, a ring");

  // The numbers are read out when they have come to rest: until then the list is "busy".
  const results = Object.fromEntries(["distance", "here", "a", "b", "target"].map(part =>
    [part, element("output", { "aria-live": "polite" })]));
  const row = (label, part) => element("p", {}, element("span", {}, label), results[part]);
  const numbers = element("div", { className: "live-results", "aria-busy": "false" },
    row("RMS distance between the results", "distance"),
    row("RMS distance where it is shown", "here"),
    row("Spread of A's results", "a"),
    row("Spread of B's results", "b"),
    row("Spread of the target", "target"));

  const note = element("p", { className: "live-note", role: "alert", hidden: true });
  const clock = element("p", { className: "live-help compare-clock" });
  const said = element("span", { className: "live-said", role: "status" });
  const code = element("textarea", {
    className: "live-code", readOnly: true, hidden: true, spellcheck: false,
    "aria-label": "What was to be copied",
  });
  const { copyLink, forgetLink, followLink, offer } = sharing({
    name, note, code, say, settings, limits, set, initial,
  });
  const knobs = side => element("fieldset", { className: "compare-side" },
    element("legend", {}, `Side ${side.toUpperCase()}`),
    ...KNOBS.map(knob => controls[`${side}_${knob}`].row));

  const whole = element("div", { className: "live-explorer live-compare", role: "group",
    "aria-label": "Two settings side by side" },
    element("style", {}, STYLE),
    note,
    preset.row,
    element("div", { className: "compare-panels" },
      ...Object.values(panels).map(part => part.whole)),
    controls.progress.row,
    element("div", { className: "compare-panels compare-knobs" },
      ...SIDES.map(knobs), numbers),
    clock,
    element("div", { className: "live-controls" },
      ...["target", "schedule", "seed", "particles", "paths"].map(part => controls[part].row)),
    element("div", { className: "live-buttons" },
      button("Reset", () => { forgetLink(); set(initial); say("Back to the start."); }),
      kernel ? "" : button("Copy link", copyLink),
      button("Copy as Python", () => offer(asPython(), "Python copied.")),
      button("Save PNG", savePicture),
      said),
    code);
  el.classList.add("live-root");
  el.append(whole);

  // --- the runs ---

  let stale = true, groundStale = true, coloursStale = true;
  let colours, density, target, first, noiseOf, result, measured;
  let made = {}; // the settings that the parts above were made for
  const timing = { run: 0, draw: 0 };

  const differs = (part, key) => {
    if (made[part] === key) return false;
    made[part] = key;
    return true;
  };

  // result: for each side { states, mesh }.
  function compute() {
    // Python's answer may be to the question before: it says which settings it was computed for.
    const answer = kernel ? get("result") : null;
    if (kernel && answer === null) return false;
    const s = answer?.settings ?? settings();
    const data = get("offers").targets[s.target];
    if (differs("target", data)) {
      target = { ...data, ...mixture(data) };
      density = null;
      groundStale = true;
    }
    const meshOf = side => makeMesh(SCHEDULES[s.schedule](s[`${side}_steps`],
      { sigmaMin: s.sigma_min, sigmaMax: s.sigma_max }));
    const meshes = { a: meshOf("a"), b: meshOf("b") };
    if (!kernel && differs("noise", `${s.seed} ${s.particles}`)) {
      noiseOf = makeNoise(s.seed, s.particles, 2);
    }
    if (!kernel && differs("start", `${s.target} ${s.seed} ${s.particles} ${s.sigma_max}`)) {
      first = start(target, meshes.a, s.seed, s.particles);
    }
    result = { ...result };
    for (const side of SIDES) {
      const mesh = meshes[side], own = knob => s[`${side}_${knob}`];
      // Who moves one side does not wait for the other.
      const key = [...SHARED.map(setting => s[setting]), ...KNOBS.map(own)].join(" ");
      if (!kernel && !differs(side, key)) continue;
      const states = kernel ? unpack(answer[side], own("steps")) : run({
        target, mesh, x: first, xi: noiseOf(mesh, own("eta")),
        table: stepTable(mesh,
          { eta: own("eta"), sNoise: own("s_noise"), solverType: own("solver_type") }),
      }).states;
      result[side] = { states, mesh, solverType: own("solver_type") };
    }
    measured = {
      distance: rms(result.a.states.at(-1), result.b.states.at(-1)),
      a: spread(result.a.states.at(-1), 2), b: spread(result.b.states.at(-1), 2),
      target: target.spread,
    };
    return true;
  }

  function unpack(view, steps) {
    const all = Float64Array.from(new Float32Array(
      view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)));
    const size = all.length / (steps + 1);
    return Array.from({ length: steps + 1 }, (_, k) => all.subarray(k * size, (k + 1) * size));
  }

  // The twin of SideBySide.shown_step: 0 to 99 is even in lambda, 100 is the result.
  function shownStep(side) {
    const { lam, h } = result[side].mesh, steps = h.length, progress = get("progress");
    if (progress === 100) return steps;
    const reached = lam[0] + progress / 99 * (lam[steps - 1] - lam[0]) + 1e-9;
    let k = 0;
    while (k + 1 < steps && lam[k + 1] <= reached) k++;
    return k;
  }

  // --- drawing ---

  const plane = createPlane();
  const halfWidth = () => target.extent + 0.5 * Math.min(get("sigma_max"), 4);
  const loop = frames(whole, draw);
  const redraw = () => loop.request();

  function draw() {
    const began = performance.now();
    if (coloursStale) {
      colours = readColours(whole, COLOURS);
      coloursStale = false;
      groundStale = true;
    }
    if (stale) {
      if (compute()) stale = false;
      showSettings();
    }
    const computed = performance.now();
    if (result) {
      controls.progress.show(get("progress"));
      drawPanels();
      showNumbers();
    }
    timing.run = computed - began;
    timing.draw = performance.now() - computed;
  }

  // The sizes are those last observed: to ask for them here would make the browser lay out the page.
  const sizes = new Map();
  const observer = new ResizeObserver(entries => {
    for (const { target: of, contentRect } of entries) sizes.set(of, contentRect.width);
    redraw();
  });
  for (const { canvas } of Object.values(panels)) observer.observe(canvas);

  // A canvas as large in pixels as it is on the screen, up to two pixels for each of css.
  function fit(canvas) {
    const unit = Math.min(devicePixelRatio || 1, 2);
    const size = Math.round((sizes.get(canvas) ?? 0) * unit);
    if (canvas.width !== size) canvas.width = canvas.height = size;
    return { pen: canvas.getContext("2d", { alpha: false }), unit, size };
  }

  function drawPanels() {
    // One plane serves all three, which are equally wide but for rounding.
    const { size, unit } = fit(panels.a.canvas);
    if (!size) return;
    plane.resize(size, halfWidth());
    if (differs("ground", `${size} ${halfWidth()}`) || groundStale) drawGround();
    groundStale = false;
    const shown = Object.fromEntries(SIDES.map(side =>
      [side, result[side].states[shownStep(side)]]));
    const n = shown.a.length / 2, fine = plane.size * unit / size;
    const radius = Math.max(1, Math.min(1.9, 24 / Math.sqrt(n))) * fine;

    for (const side of SIDES) {
      plane.paths([shown[side]], 0, 0);
      plane.develop(colours.ink);
      plane.dots(shown[side], colours.ink, radius, 0.85);
      finish(panels[side].canvas, pen => drawPaths(pen, side, size, unit));
      const words = wordsOf(side);
      panels[side].canvas.setAttribute("aria-label", `${side.toUpperCase()}: ${n} particles, ` +
        `${words}, state ${shownStep(side)} of ${result[side].mesh.h.length}.`);
    }
    plane.paths([shown.a, shown.b], 1, Math.min(1.2, 60 / n + 0.25) * fine);
    plane.develop(colours.ink);
    const dot = Math.max(1, Math.min(2.2, 20 / Math.sqrt(n))) * fine;
    plane.dots(shown.b, colours.ink, dot + 0.7 * fine, 0.9);
    plane.dots(shown.b, colours.paper, dot - 0.3 * fine, 1);
    plane.dots(shown.a, colours.ink, dot, 0.9);
    finish(panels.between.canvas, () => {});
    panels.between.canvas.setAttribute("aria-label", `Each of ${n} particles under A joined to ` +
      `itself under B; root mean square distance ${rms(shown.a, shown.b).toFixed(3)}.`);
  }

  // What is in the plane, on a canvas of its own, with what is drawn on top.
  function finish(canvas, more) {
    const { pen, unit, size } = fit(canvas);
    if (!size) return;
    plane.show(pen, size);
    if (!target.smooth) drawPoints(pen, unit, size);
    drawAxes(pen, unit, size);
    more(pen);
  }

  function drawGround() {
    const wide = halfWidth();
    if (!target.smooth) density = null;
    else if (differs("density", wide) || density === null) {
      const points = new Float64Array(2 * GRID * GRID);
      for (let j = 0, at = 0; j < GRID; j++) {
        for (let i = 0; i < GRID; i++) {
          points[at++] = (2 * i / (GRID - 1) - 1) * wide;
          points[at++] = (2 * j / (GRID - 1) - 1) * wide;
        }
      }
      density = target.logDensity(points, GRID * GRID, 0, 1, new Float64Array(GRID * GRID));
    }
    plane.setGround(colours.paper, colours.target, density, GRID);
  }

  const onto = (x, y, size) => [(x / halfWidth() + 1) / 2 * size, (1 - y / halfWidth()) / 2 * size];

  // The first particles' paths: strong as far as the shown state, faint after it.
  function drawPaths(pen, side, size, unit) {
    const { states, solverType } = result[side], k = shownStep(side);
    const few = Math.min(get("paths"), states[0].length / 2);
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.3 * unit;
    for (const [from, to, opacity] of [[k, states.length - 1, 0.3], [0, k, 1]]) {
      pen.globalAlpha = opacity;
      pen.setLineDash(DASH[solverType].map(length => length * unit));
      pen.beginPath();
      for (let i = 0; i < few; i++) {
        for (let j = from; j <= to; j++) {
          const [x, y] = onto(states[j][2 * i], states[j][2 * i + 1], size);
          if (j === from) pen.moveTo(x, y);
          else pen.lineTo(x, y);
        }
      }
      pen.stroke();
    }
    pen.setLineDash([]);
    pen.globalAlpha = 1;
    pen.fillStyle = colours.paper;
    for (let i = 0; i < few; i++) {
      const [x, y] = onto(states[k][2 * i], states[k][2 * i + 1], size);
      pen.beginPath();
      pen.arc(x, y, 3 * unit, 0, 7);
      pen.fill();
      pen.stroke();
    }
  }

  function drawPoints(pen, unit, size) {
    pen.strokeStyle = colours.target;
    pen.lineWidth = 1.2 * unit;
    for (const [px, py] of target.means) {
      const [x, y] = onto(px, py, size);
      pen.beginPath();
      pen.arc(x, y, 4 * unit, 0, 7);
      pen.stroke();
    }
  }

  function drawAxes(pen, unit, size) {
    pen.strokeStyle = pen.fillStyle = colours.muted;
    pen.lineWidth = unit;
    pen.font = `${11 * unit}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    const wide = halfWidth(), gap = wide > 6 ? 4 : wide > 2.5 ? 2 : 1;
    pen.beginPath();
    for (let tick = -gap * Math.floor(wide / gap); tick < wide; tick += gap) {
      const [x, y] = onto(tick, tick, size);
      pen.moveTo(x, size);
      pen.lineTo(x, size - 4 * unit);
      pen.moveTo(0, y);
      pen.lineTo(4 * unit, y);
      if (Math.abs(tick) < wide * 0.75) {
        pen.textAlign = "center";
        pen.fillText(minus(tick), x, size - 11 * unit);
        pen.textAlign = "left";
        pen.fillText(minus(tick), 7 * unit, y);
      }
    }
    pen.stroke();
    pen.textAlign = "left";
    for (const [index, x, y] of [[1, size - 26 * unit, size - 13 * unit], [2, 7 * unit, 16 * unit]]) {
      pen.font = `italic ${14 * unit}px serif`;
      pen.fillText("x", x, y);
      pen.font = `${10 * unit}px serif`;
      pen.fillText(`(${index})`, x + 7 * unit, y - 5 * unit);
    }
  }

  // --- numbers and words ---

  const wordsOf = side => {
    const own = knob => get(`${side}_${knob}`);
    return `${own("solver_type")}, η ${own("eta")}, s_noise ${own("s_noise")}, ${own("steps")} steps`;
  };

  function describeProgress(value) {
    if (!result) return `${value} %`;
    const at = side => `${side.toUpperCase()} ${shownStep(side)} of ${result[side].mesh.h.length}`;
    return `${value} %: ${SIDES.map(at).join(", ")}`;
  }

  function say(text) {
    said.textContent = text;
  }
  const put = (output, text) => { if (output.value !== text) output.value = text; };

  let rest = 0;
  function showNumbers() {
    numbers.setAttribute("aria-busy", "true");
    clearTimeout(rest);
    rest = setTimeout(() => numbers.setAttribute("aria-busy", "false"), 700);
    const here = rms(...SIDES.map(side => result[side].states[shownStep(side)]));
    for (const [part, value] of pairs({ ...measured, here })) put(results[part], value.toFixed(3));
  }

  function showSettings() {
    const { targets, presets } = get("offers");
    if (differs("list", Object.keys(targets).join())) {
      controls.target.offer(pairs(targets).map(([value, { label }]) => [value, label]));
    }
    for (const [setting, control] of pairs(controls)) control.show(get(setting));
    const match = pairs(presets).find(([, { settings: wanted }]) =>
      pairs(wanted).every(([setting, value]) => get(setting) === value));
    preset.show(match ? match[0] : "");
    for (const side of SIDES) {
      const text = `${side.toUpperCase()}: ${wordsOf(side)}`;
      if (panels[side].title.textContent !== text) panels[side].title.textContent = text;
    }
    const text = clockWords(get("a_eta"), get("b_eta"));
    if (clock.textContent !== text) clock.textContent = text;
  }

  // --- taking it away ---

  function asPython() {
    const s = settings();
    const data = get("offers").targets[s.target];
    const tensor = list => `torch.tensor(${JSON.stringify(list)}, dtype=torch.float64)`;
    const own = `dp.GaussianMixture(${["means", "covariances", "weights"].map(part =>
      `\n    ${tensor(data[part])},`).join("")}\n)`;
    const named = s.target === "triangle" ? "dp.triangle()" : `widgets.target("${s.target}")`;
    const levels = `dp.schedule.${s.schedule}(steps, sigma_min=${s.sigma_min}, sigma_max=${s.sigma_max})`;
    const call = side => `result(eta=${s[`${side}_eta`]}, s_noise=${s[`${side}_s_noise`]}, ` +
      `solver_type="${s[`${side}_solver_type`]}", steps=${s[`${side}_steps`]})`;
    const lines = [
      "import torch",
      "",
      "import dpmpp_core as dp",
      "from dpmpp_core import widgets",
      "from dpmpp_core.widgets.start import start",
      "",
      `target = ${s.target === "own" ? own : named}`,
      "",
      "",
      "def result(eta, s_noise, solver_type, steps):",
      `    sigmas = ${levels}`,
      `    x = start(target, dp.Mesh.from_sigmas(sigmas), seed=${s.seed}, n=${s.particles})`,
      "    return dp.sample(",
      "        target.model(),",
      "        x,",
      "        sigmas,",
      "        eta=eta,",
      "        s_noise=s_noise,",
      "        solver_type=solver_type,",
      `        noise_sampler=dp.PhiloxBridge(x, sigmas, seed=${s.seed}, eta=eta),`,
      "        disable=True,",
      "    )",
      "",
      "",
      ...SIDES.map(side => `${side} = ${call(side)}`),
      "distance = (a - b).square().sum(-1).mean().sqrt()",
    ];
    return `${lines.join("\n")}\n`;
  }

  function savePicture() {
    if (!result || !panels.a.canvas.width) return;
    const size = panels.a.canvas.width, unit = size / sizes.get(panels.a.canvas);
    const line = 18 * unit, gap = 10 * unit;
    const sheet = element("canvas", { width: 3 * size + 2 * gap, height: size + 4.8 * line });
    const pen = sheet.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    Object.values(panels).forEach(({ canvas }, column) => {
      const left = column * (size + gap);
      pen.drawImage(canvas, left, line * 1.4, size, size);
      pen.fillText(["A", "B", "From A, a dot, to B, a ring"][column], left + 6 * unit, line);
    });
    const s = settings();
    [
      ...SIDES.map(side => `${side.toUpperCase()}: ${wordsOf(side)}, ` +
        `spread of the results ${measured[side].toFixed(3)}`),
      `${get("offers").targets[s.target].label}, ${s.schedule}, seed ${s.seed}, ` +
        `${s.particles} particles; RMS distance between the results ${measured.distance.toFixed(3)}`,
    ].forEach((text, index) => pen.fillText(text, 6 * unit, size + (2.4 + index) * line));
    sheet.toBlob(blob => {
      const link = element("a", { href: URL.createObjectURL(blob), download: `${name}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      say("Picture saved.");
    }, "image/png");
  }

  // --- what makes it draw ---

  const rerun = () => { stale = true; redraw(); };
  const heed = [
    ...RUN.map(setting => [`change:${setting}`, rerun]),
    ["change:offers", rerun], ["change:result", rerun], ["change:progress", redraw],
    ["change:paths", () => { controls.paths.show(get("paths")); redraw(); }],
  ];
  for (const [event, listener] of heed) model.on(event, listener);
  const forgetTheme = onTheme(() => { coloursStale = true; redraw(); });
  if (kernel) model.send("shown");
  else {
    addEventListener("hashchange", followLink);
    followLink();
  }
  redraw();

  return {
    get result() { return result; },
    get measured() { return measured; },
    get frames() { return loop.state.count; },
    timing, settings, asPython, shownStep,
    remove() {
      clearTimeout(rest);
      loop.stop();
      observer.disconnect();
      forgetTheme();
      removeEventListener("hashchange", followLink);
      for (const [event, listener] of heed) model.off(event, listener);
    },
  };
}

// What the reader must know about the noise of the two sides.
function clockWords(a, b) {
  if (a === b) {
    return a === 0
      ? "With η = 0 no noise is added on either side."
      : "Both sides read one Brownian path: over each stretch of λ they get the same noise, " +
        "however many steps it is cut into.";
  }
  if (a === 0 || b === 0) {
    return `With η = 0 no noise is added: only side ${a === 0 ? "B" : "A"} reads the Brownian path.`;
  }
  return "The sides' η differ, and with it the clock τ = exp(2ηλ): both read the same random " +
    "numbers, but the two Brownian paths are alike, not equal.";
}

// The root mean square distance between two batches, particle by particle.
function rms(x, y) {
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += (x[i] - y[i]) ** 2;
  return Math.sqrt(squares / (x.length / 2));
}

const minus = number => String(number).replace("-", "−");

// What the other figures' style sheet does not have.
const STYLE = `
.live-compare .live-canvas { cursor: default; touch-action: auto; }
.compare-panels { display: grid; gap: 0.8rem; margin: 0.8rem 0 0.5rem; align-items: end; }
.compare-panels > * { min-width: 0; }
.compare-knobs { align-items: start; }
.live-compare .live-title { overflow-wrap: anywhere; }
.live-compare .compare-side {
  display: grid;
  gap: 0.4rem;
  min-width: 0;
  margin: 0;
  padding: 0.3rem 0.7rem 0.7rem;
  border: 1px solid var(--live-border);
  border-radius: 0.4rem;
}
.live-compare .compare-side legend {
  float: none;
  width: auto;
  margin: 0;
  padding: 0 0.3rem;
  font-size: 0.9rem;
  font-weight: 600;
}
.live-compare .live-results p { margin: 0 0 0.45rem; }
@container (min-width: 34rem) {
  .compare-panels { grid-template-columns: repeat(3, minmax(0, 1fr)); }
}
`;
