// Side by side: two settings of the sampler on one Brownian path, and what is between them.
//
// In Jupyter the states of both sides come from Python, in the trait `result`. In a page without a
// kernel runs.js computes them, in a worker; the rest is the same.

import { mixture, spread } from "./engine.js";
import { SIDES, meshOf, settingsOf } from "./runs.js";
import { createRunner } from "./worker.js";
import {
  button, canvasSizes, choice, createState, element, frames, heed, onTheme, picture,
  readColours, save, settled, sharing, targetInPython,
} from "./controls.js";
import { createPlane } from "./plane.js";

const COLOURS = ["paper", "ink", "muted", "target"];
const KNOBS = ["eta", "s_noise", "solver_type", "steps"];
const SHARED = ["target", "schedule", "sigma_min", "sigma_max", "seed", "particles"];
const RUN = [...SHARED, ...SIDES.flatMap(side => KNOBS.map(knob => `${side}_${knob}`))];
const SETTINGS = [...RUN, "progress", "paths"];
const DASH = { midpoint: [], heun: [5, 3] }; // as in figures.py

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
    const canvas = picture("live-canvas");
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
  const { copyLink, forgetLink, followLink, offer, showTrouble } = sharing({
    name, note, code, say, settings, limits, set, initial,
  });
  const knobs = side => element("fieldset", { className: "compare-side" },
    element("legend", {}, `Side ${side.toUpperCase()}`),
    ...KNOBS.map(knob => controls[`${side}_${knob}`].row));

  const whole = element("div", { className: "live-explorer live-compare", role: "group",
    "aria-label": "Two settings side by side" },
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

  let stale = true, unpainted = true, groundStale = true, coloursStale = true;
  let colours, target, result, measured, painted = 0;
  const made = {}; // what the parts of the picture were made for
  const timing = { run: 0, draw: 0, at: 0 };

  const differs = (part, key) => {
    if (made[part] === key) return false;
    made[part] = key;
    return true;
  };

  const runner = kernel ? null : createRunner("compare", textOf, answer => {
    take(answer);
    loop.now();
  });

  // Asks for what the settings are now. The kernel needs no asking.
  function ask() {
    const s = Object.fromEntries(RUN.map(setting => [setting, get(setting)]));
    if (runner) runner.ask({ settings: s, data: get("offers").targets[s.target] });
    else if (get("result")) take(get("result"));
  }

  // An answer may be to the question before: it says which settings it was computed for.
  function take(answer) {
    showTrouble(answer.trouble);
    if (answer.trouble) return;
    const { settings: s, time = 0 } = answer;
    const data = answer.data ?? get("offers").targets[s.target];
    if (differs("target", JSON.stringify(data))) {
      target = { ...data, ...mixture(data) };
      groundStale = true;
    }
    const now = { settings: s };
    for (const side of SIDES) {
      const own = settingsOf(side, s);
      const states = kernel ? unpack(answer[side], own.steps) : answer[side] ?? result[side].states;
      now[side] = { states, mesh: meshOf(own), solverType: own.solver_type };
    }
    result = now;
    measured = {
      distance: rms(result.a.states.at(-1), result.b.states.at(-1)),
      a: spread(result.a.states.at(-1), 2), b: spread(result.b.states.at(-1), 2),
      target: target.spread,
    };
    timing.run = time;
    unpainted = true;
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
  const halfWidth = () => target.extent + 0.5 * Math.min(result.settings.sigma_max, 4);
  const loop = frames(whole, draw);
  const redraw = () => { unpainted = true; loop.request(); };
  const sizes = canvasSizes(Object.values(panels).map(({ canvas }) => canvas), redraw);

  function draw() {
    const began = performance.now();
    if (stale) {
      stale = false;
      showSettings();
      ask();
    }
    if (!unpainted || !result) return;
    unpainted = false;
    if (coloursStale) {
      colours = readColours(whole, COLOURS);
      coloursStale = false;
      groundStale = true;
    }
    controls.progress.show(get("progress"));
    drawPanels();
    showNumbers();
    painted++;
    timing.at = performance.now();
    timing.draw = timing.at - began;
  }

  function drawPanels() {
    // One plane serves all three, which are equally wide but for rounding.
    const { width: size, unit } = sizes.fit(panels.a.canvas);
    if (!size) return;
    plane.resize(size, halfWidth());
    if (differs("ground", `${size} ${halfWidth()}`) || groundStale) {
      plane.setGround(colours.paper, colours.target, target);
    }
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
    const { pen, unit, width: size } = sizes.fit(canvas);
    if (!size) return;
    plane.show(pen, size);
    plane.axes(pen, unit, size, target, colours);
    more(pen);
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
      `target = ${targetInPython(s.target, get("offers").targets[s.target])}`,
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
    const size = panels.a.canvas.width, unit = sizes.unit(panels.a.canvas);
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
    save(sheet, name);
    say("Picture saved.");
  }

  // --- what makes it draw ---

  const rerun = () => { stale = true; loop.request(); };
  const events = [
    ...RUN.map(setting => [`change:${setting}`, rerun]),
    ["change:offers", rerun], ["change:result", rerun], ["change:progress", redraw],
    ["change:paths", () => { controls.paths.show(get("paths")); redraw(); }],
  ];
  const forgetTheme = onTheme(() => { coloursStale = true; redraw(); });
  const forgetModel = heed({ model, kernel, events, showTrouble, followLink });
  rerun();

  return {
    get result() { return result; },
    get measured() { return measured; },
    get frames() { return painted; },
    settled: () => settled(() => runner?.busy || loop.pending),
    timing, settings, asPython, shownStep,
    remove() {
      clearTimeout(rest);
      loop.stop();
      runner?.stop();
      sizes.stop();
      forgetTheme();
      forgetModel();
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
