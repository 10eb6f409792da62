// Side by side: two settings of the sampler on one Brownian path, and what is between them.
//
// In Jupyter the states of both sides come from Python, in the trait `result`. In a page without a
// kernel compare_run.js computes them, in a worker; the rest is the same.

import { mixture, spread } from "./engine.js";
import { SIDES, answer, settingsOf } from "./compare_run.js";
import { meshOf } from "./runs.js";
import { choice, element, picture, targetChoice, targetInPython, write } from "./controls.js";
import { liveModule } from "./frame.js";
import { createPlane, unpack } from "./plane.js";

const KNOBS = ["eta", "s_noise", "solver_type", "steps"];
const DASH = { midpoint: [], heun: [5, 3] }; // as in figures.py

export default liveModule({
  module: "compare_run",
  answer,
  label: "Two settings side by side",
  className: "live-compare",
  run: ["target", "schedule", "sigma_min", "sigma_max", "seed", "particles",
    ...SIDES.flatMap(side => KNOBS.map(knob => `${side}_${knob}`))],
  rest: ["progress", "paths"],
  colours: ["paper", "ink", "muted", "target"],
  view: createView,
});

function createView(state) {
  const { kernel, get, set, settings, changes, ranged, counted } = state;

  // --- the page's part of the figure ---

  const pairs = object => Object.entries(object);
  const two = value => value.toFixed(2);

  const preset = choice({
    label: "Compare",
    options: [...pairs(get("offers").presets).map(([value, { label }]) => [value, label]),
      ["", "settings of your own"]],
    changed: value => {
      if (value) set(get("offers").presets[value].settings);
      else showPreset(); // that is not a choice to be made, but what the rest amounts to
    },
  });
  const controls = { preset: { row: preset.row, show: showPreset } };
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
  controls.target = targetChoice(state);
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
  const canvases = Object.fromEntries(pairs(panels).map(([part, { canvas }]) => [part, canvas]));

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

  const clock = element("p", { className: "live-help compare-clock" });
  const knobs = side => element("fieldset", { className: "compare-side" },
    element("legend", {}, `Side ${side.toUpperCase()}`),
    ...KNOBS.map(knob => controls[`${side}_${knob}`].row));

  const body = [
    preset.row,
    element("div", { className: "compare-panels" },
      ...Object.values(panels).map(part => part.whole)),
    controls.progress.row,
    element("div", { className: "compare-panels compare-knobs" },
      ...SIDES.map(knobs), numbers),
    clock,
  ];

  // --- the runs ---

  let target, ground, result;
  const measured = {}, made = {}; // made: what the parts of the picture were made for

  const differs = (part, key) => {
    if (made[part] === key) return false;
    made[part] = key;
    return true;
  };

  const dataOf = s => get("offers").targets[s.target];

  function take(found) {
    const { settings: s, data = dataOf(s) } = found;
    if (differs("target", JSON.stringify(data))) {
      target = { ...data, ...mixture(data) };
      ground = null;
    }
    const now = { settings: s };
    for (const side of SIDES) {
      const own = settingsOf(side, s);
      const states = kernel ? unpack(found[side], own.steps + 1) : found[side] ?? result[side].states;
      now[side] = { states, mesh: meshOf(own), solverType: own.solver_type };
    }
    result = now;
    const [a, b] = SIDES.map(side => result[side].states.at(-1));
    Object.assign(measured, {
      distance: rms(a, b), a: spread(a, 2), b: spread(b, 2), target: target.spread,
    });
    return result;
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

  function draw(colours, fit) {
    showWords();
    // One plane serves all three, which are equally wide but for rounding.
    const { width: size, unit } = fit(canvases.a);
    if (size) drawPanels(colours, fit, size, unit);
    showNumbers();
  }

  function drawPanels(colours, fit, size, unit) {
    plane.resize(size, halfWidth());
    if (differs("ground", `${size} ${halfWidth()}`) || ground !== colours) {
      plane.setGround(colours.paper, colours.target, target);
    }
    ground = colours; // made anew when the theme changes

    // What is in the plane, on a canvas of its own, with what is drawn on top.
    const finish = (canvas, more) => {
      const { pen, width } = fit(canvas);
      if (!width) return;
      plane.show(pen, width);
      plane.axes(pen, unit, width, target, colours);
      more(pen);
    };
    const shown = Object.fromEntries(SIDES.map(side =>
      [side, result[side].states[shownStep(side)]]));
    const n = shown.a.length / 2, fine = plane.size * unit / size;
    const radius = Math.max(1, Math.min(1.9, 24 / Math.sqrt(n))) * fine;

    for (const side of SIDES) {
      plane.paths([shown[side]], 0, 0);
      plane.develop(colours.ink);
      plane.dots(shown[side], colours.ink, radius, 0.85);
      finish(canvases[side], pen => drawPaths(pen, colours, side, size, unit));
      const words = wordsOf(side);
      canvases[side].setAttribute("aria-label", `${side.toUpperCase()}: ${n} particles, ` +
        `${Math.min(get("paths"), n)} with their paths, ${words}, state ${shownStep(side)} of ${result[side].mesh.h.length}.`);
    }
    plane.paths([shown.a, shown.b], 1, Math.min(1.2, 60 / n + 0.25) * fine);
    plane.develop(colours.ink);
    const dot = Math.max(1, Math.min(2.2, 20 / Math.sqrt(n))) * fine;
    plane.dots(shown.b, colours.ink, dot + 0.7 * fine, 0.9);
    plane.dots(shown.b, colours.paper, dot - 0.3 * fine, 1);
    plane.dots(shown.a, colours.ink, dot, 0.9);
    finish(canvases.between, () => {});
    canvases.between.setAttribute("aria-label", `Each of ${n} particles under A joined to ` +
      `itself under B; root mean square distance ${rms(shown.a, shown.b).toFixed(3)}.`);
  }

  const onto = (x, y, size) => [(x / halfWidth() + 1) / 2 * size, (1 - y / halfWidth()) / 2 * size];

  // The first particles' paths: strong as far as the shown state, faint after it.
  function drawPaths(pen, colours, side, size, unit) {
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

  let rest = 0;
  function showNumbers() {
    numbers.setAttribute("aria-busy", "true");
    clearTimeout(rest);
    rest = setTimeout(() => numbers.setAttribute("aria-busy", "false"), 700);
    const here = rms(...SIDES.map(side => result[side].states[shownStep(side)]));
    for (const [part, value] of pairs({ ...measured, here })) write(results[part], value.toFixed(3));
  }

  function showPreset() {
    const match = pairs(get("offers").presets).find(([, { settings: wanted }]) =>
      pairs(wanted).every(([setting, value]) => get(setting) === value));
    preset.show(match ? match[0] : "");
  }

  function showWords() {
    for (const side of SIDES) {
      write(panels[side].title, `${side.toUpperCase()}: ${wordsOf(side)}`);
    }
    write(clock, clockWords(get("a_eta"), get("b_eta")));
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
      `target = ${targetInPython(s.target, dataOf(s))}`,
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

  function sheet(colours, unit) {
    const size = canvases.a.width;
    const line = 18 * unit, gap = 10 * unit;
    const made = element("canvas", { width: 3 * size + 2 * gap, height: size + 4.8 * line });
    const pen = made.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, made.width, made.height);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    Object.values(canvases).forEach((canvas, column) => {
      const left = column * (size + gap);
      pen.drawImage(canvas, left, line * 1.4, size, size);
      pen.fillText(["A", "B", "From A, a dot, to B, a ring"][column], left + 6 * unit, line);
    });
    const s = settings();
    [
      ...SIDES.map(side => `${side.toUpperCase()}: ${wordsOf(side)}, ` +
        `spread of the results ${measured[side].toFixed(3)}`),
      `${dataOf(s).label}, ${s.schedule}, seed ${s.seed}, ` +
        `${s.particles} particles; RMS distance between the results ${measured.distance.toFixed(3)}`,
    ].forEach((text, index) => pen.fillText(text, 6 * unit, size + (2.4 + index) * line));
    return made;
  }

  return {
    canvases, body, controls, dataOf, take, draw, asPython, sheet,
    more: { measured, shownStep },
    stop: () => clearTimeout(rest),
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
