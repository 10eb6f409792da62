// The trajectory explorer: particles on their way to a target in the plane.
//
// In Jupyter the trajectories come from Python, in the trait `result`. In a page without a kernel
// explorer_run.js computes them, in a worker; the rest is the same.

import { mixture } from "./engine.js";
import { answer, measure } from "./explorer_run.js";
import { meshOf, tableOf } from "./runs.js";
import {
  button, calm, count, element, picture, slider, targetChoice, targetInPython,
} from "./controls.js";
import { liveModule } from "./frame.js";
import { arrow, createPlane, unpack } from "./plane.js";

// Line styles as in figures.py, in units of the line's width: no term is told by colour alone.
const TERMS = { drift: [], history: [3, 1.6], noise: [1, 1.4] };

export default liveModule({
  module: "explorer_run",
  answer,
  apart: true,
  label: "Trajectory explorer",
  run: ["target", "eta", "s_noise", "solver_type", "steps", "schedule", "sigma_min", "sigma_max",
    "seed", "particles", "noise"],
  rest: ["step", "particle"],
  colours: ["paper", "ink", "muted", "target", "drift", "history", "noise"],
  view: createView,
});

function createView(state) {
  const { name, get, set, settings, changes, counted, inSight, knobs } = state;

  // --- the page's part of the figure ---

  const canvas = picture("live-canvas", { tabIndex: 0, "aria-describedby": `live-${name}-help` });
  const loupe = picture("live-loupe");
  const position = slider({
    label: "State", min: 0, max: 1, step: 1, format: describeStep,
    changed: value => { pause(); set({ step: value }); },
  });
  const playing = button("Play", () => (timer ? pause() : play()), { className: "live-play" });
  const chosen = count({ label: "Particle", min: 0, max: 1, changed: changes("particle") });

  const controls = {
    target: targetChoice(state),
    ...knobs(),
    noise: state.chosen("noise", "Noise when steps change", {
      path: "the same path", fresh: "independent",
    }),
    seed: counted("seed", "Seed"),
    particles: counted("particles", "Particles"),
  };

  const numbers = Object.fromEntries(["drift", "history", "noise"].map(term =>
    [term, element("output", { className: "live-number" })]));
  const results = { spread: element("output"), distance: element("output") };

  const legend = element("table", { className: "live-terms" },
    element("caption", {}, "Length of each term in this step"),
    element("tbody", {}, ...Object.keys(TERMS).map(term => element("tr", {},
      element("th", { scope: "row" },
        element("span", { className: `live-key live-key-${term}`, "aria-hidden": "true" }), term),
      element("td", {}, numbers[term])))));

  const body = [element("div", { className: "live-stage" },
    element("div", { className: "live-plane" }, canvas,
      element("div", { className: "live-time" }, playing, position.row)),
    element("div", { className: "live-side" },
      element("p", { className: "live-title" }, "The step to this state, enlarged"),
      loupe, legend, chosen.row,
      element("div", { className: "live-results" },
        element("p", {}, element("span", {}, "Spread of the results"), results.spread),
        element("p", {}, element("span", {}, "Distance to the target"), results.distance))))];
  const heard = element("p", { className: "live-heard", role: "status" });
  const help = element("p", { className: "live-help", id: `live-${name}-help` },
    "Choose a particle by a click, or with the arrow keys when the picture has the focus.");

  // --- the run ---

  let colours, target, mesh, table, result;
  let key, ground; // what the target and the plane's ground were made for
  const measured = {}, kept = {};

  const dataOf = s => get("offers").targets[s.target];

  function take({ settings: s, data = dataOf(s), states, estimates, steps }) {
    const now = JSON.stringify(data);
    if (key !== now) {
      key = now;
      target = { ...data, ...mixture(data) };
      ground = "";
    }
    mesh = meshOf(s);
    table = tableOf(mesh, s);
    // The kernel sends them in one piece.
    const apart = (sent, length) => (Array.isArray(sent) ? sent : unpack(sent, length));
    result = {
      settings: s, states: apart(states, steps + 1), estimates: apart(estimates, steps),
    };
    // The picture first, the numbers when it is on the screen.
    clearTimeout(sums);
    sums = setTimeout(() => showNumbers(measure(result.states.at(-1), data, kept)));
    return result;
  }

  const shownStep = () => Math.min(get("step"), result.states.length - 1);
  const shownParticle = () => Math.min(get("particle"), result.states[0].length / 2 - 1);

  // The three terms of step k of a particle. The noise is what is left, so that they add up to the
  // step whoever computed it.
  function termsOf(k, i) {
    const { states, estimates } = result;
    const vector = f => [f(2 * i), f(2 * i + 1)];
    const drift = vector(p => (table.A[k] - 1) * states[k][p] + table.B[k] * estimates[k][p]);
    const history = vector(p => (k ? table.C[k] * (estimates[k][p] - estimates[k - 1][p]) : 0));
    const whole = vector(p => states[k + 1][p] - states[k][p]);
    const noise = table.D[k] ? whole.map((w, a) => w - drift[a] - history[a]) : [0, 0];
    return { drift, history, noise };
  }

  // --- drawing ---

  const plane = createPlane();
  const halfWidth = () => target.extent + 0.5 * Math.min(result.settings.sigma_max, 4);
  // A point of the plane in the pixels of its canvas.
  const toCanvas = ([x, y]) => [(x / halfWidth() + 1) * 0.5 * canvas.width,
    (1 - y / halfWidth()) * 0.5 * canvas.width];

  function draw(inks, fit) {
    if (colours !== inks) ground = "";
    colours = inks;
    position.show(shownStep(), result.states.length - 1);
    chosen.show(shownParticle(), result.states[0].length / 2 - 1);
    drawPlane(fit(canvas));
    drawLoupe(fit(loupe));
  }

  function drawPlane({ pen, unit, width: size }) {
    if (!size) return;
    plane.resize(size, halfWidth());
    const now = `${size} ${halfWidth()}`;
    if (ground !== now) {
      ground = now;
      plane.setGround(colours.paper, colours.target, target);
    }
    const { states } = result, n = states[0].length / 2;
    const k = shownStep(), i = shownParticle();
    // Few paths are drawn strongly, many faintly: about the same ink in all.
    const fine = plane.size * unit / size;
    plane.paths(states, k, Math.min(0.5, 30 / n + 0.012) * fine);
    plane.develop(colours.ink);
    plane.dots(states[k], colours.ink, Math.max(1.1, Math.min(2, 30 / Math.sqrt(n))) * fine, 0.85);
    plane.show(pen, size);
    plane.axes(pen, unit, size, target, colours);

    for (let j = 0; j < k; j++) {
      drawStep(pen, j, i, toCanvas, unit, j === k - 1 ? 2.6 : 1.3);
    }
    const [x, y] = toCanvas([states[k][2 * i], states[k][2 * i + 1]]);
    ring(pen, x, y, 5 * unit, unit);
    canvas.setAttribute("aria-label", `Paths of ${n} particles in the plane, ${describeStep(k)}.`);
  }

  // The terms of step j, head to tail.
  function drawStep(pen, j, i, place, unit, width) {
    const { states } = result;
    let tail = [states[j][2 * i], states[j][2 * i + 1]];
    for (const [term, vector] of Object.entries(termsOf(j, i))) {
      const head = [tail[0] + vector[0], tail[1] + vector[1]];
      arrow(pen, place(tail), place(head), { colour: colours[term], dash: TERMS[term], width, unit });
      tail = head;
    }
  }

  function ring(pen, x, y, radius, unit) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.fillStyle = colours.paper;
    pen.fill();
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.6 * unit;
    pen.stroke();
  }

  function drawLoupe({ pen, unit, width, height }) {
    if (!width) return;
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, width, height);
    const k = shownStep() - 1, i = shownParticle();
    if (k < 0) {
      pen.fillStyle = colours.muted;
      pen.font = `${13 * unit}px system-ui, sans-serif`;
      pen.textAlign = "center";
      pen.fillText("the start: no step yet", width / 2, height / 2);
      loupe.setAttribute("aria-label", "No step has been made yet.");
      for (const output of Object.values(numbers)) output.value = "–";
      return;
    }
    const { states, estimates } = result;
    const old = [states[k][2 * i], states[k][2 * i + 1]];
    const next = [states[k + 1][2 * i], states[k + 1][2 * i + 1]];
    const estimate = [estimates[k][2 * i], estimates[k][2 * i + 1]];
    const parts = termsOf(k, i);
    const drifted = old.map((x, a) => x + parts.drift[a]);
    const corners = [old, next, estimate, drifted, drifted.map((x, a) => x + parts.history[a])];
    const low = [0, 1].map(a => Math.min(...corners.map(corner => corner[a])));
    const high = [0, 1].map(a => Math.max(...corners.map(corner => corner[a])));
    const room = 26 * unit;
    const scale = Math.min((width - 2 * room) / Math.max(high[0] - low[0], 1e-9),
      (height - 2 * room) / Math.max(high[1] - low[1], 1e-9));
    const place = ([x, y]) => [
      width / 2 + (x - (low[0] + high[0]) / 2) * scale,
      height / 2 - (y - (low[1] + high[1]) / 2) * scale,
    ];

    // A bar that says how far the loupe enlarges: a round length of the plane.
    const wanted = 0.3 * width / scale, power = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].map(digit => digit * power).find(round => round <= wanted) ?? power;
    pen.strokeStyle = pen.fillStyle = colours.muted;
    pen.lineWidth = unit;
    pen.beginPath();
    pen.moveTo(width - 8 * unit, height - 8 * unit);
    pen.lineTo(width - 8 * unit - length * scale, height - 8 * unit);
    pen.stroke();
    pen.font = `${11 * unit}px system-ui, sans-serif`;
    pen.textAlign = "right";
    pen.textBaseline = "bottom";
    pen.fillText(String(+length.toPrecision(1)), width - 8 * unit, height - 11 * unit);

    const [ex, ey] = place(estimate), arm = 5 * unit;
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.8 * unit;
    pen.beginPath();
    pen.moveTo(ex - arm, ey - arm);
    pen.lineTo(ex + arm, ey + arm);
    pen.moveTo(ex - arm, ey + arm);
    pen.lineTo(ex + arm, ey - arm);
    pen.stroke();
    drawStep(pen, k, i, place, unit, 2.6);
    ring(pen, ...place(old), 3.5 * unit, unit);
    ring(pen, ...place(next), 3.5 * unit, unit);
    pen.fillStyle = colours.ink;
    pen.font = `${13 * unit}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const centre = [width / 2, height / 2];
    for (const [point, text] of [[old, `x${lowered(k)}`], [next, `x${lowered(k + 1)}`],
      [estimate, "estimate"]]) {
      if (point === estimate && distance(place(estimate), place(next)) < 30 * unit) continue;
      const [x, y] = place(point), away = distance([x, y], centre) || 1;
      const half = pen.measureText(text).width / 2 + 2 * unit;
      const tx = x + (x - centre[0]) / away * 15 * unit, ty = y + (y - centre[1]) / away * 15 * unit;
      const inside = Math.min(Math.max(tx, half), width - half);
      // The cross has arms: its name stands above or below.
      const beside = point === estimate ? y + (y < centre[1] ? -14 : 14) * unit : ty;
      pen.fillText(text, point === estimate ? Math.min(Math.max(x, half), width - half) : inside,
        beside);
    }
    const lengths = Object.entries(parts).map(([term, vector]) => [term, Math.hypot(...vector)]);
    for (const [term, size] of lengths) numbers[term].value = size ? size.toFixed(3) : "none";
    loupe.setAttribute("aria-label",
      `Step ${k + 1} of particle ${i}: ${lengths.map(([term, size]) =>
        `${term} ${size.toFixed(3)}`).join(", ")}.`);
  }

  // --- numbers and words ---

  function describeStep(k) {
    const steps = mesh ? mesh.h.length : 0, sigma = mesh?.sigma[Math.min(k, steps)] ?? 0;
    return `${k} of ${steps}, σ = ${sigma ? sigma.toPrecision(2) : 0}`;
  }

  let sums = 0, speech = 0;
  function showNumbers(found) {
    sums = 0;
    Object.assign(measured, found);
    const fixed = value => value.toFixed(3);
    results.spread.value = `${fixed(measured.spread)} (target ${fixed(measured.targetSpread)})`;
    results.distance.value =
      `${fixed(measured.distance)} (exact samples ${fixed(measured.exactDistance)})`;
    // Read out once, when the reader has come to rest.
    clearTimeout(speech);
    speech = setTimeout(() => {
      heard.textContent = `Spread ${results.spread.value}. Distance ${results.distance.value}.`;
    }, 700);
  }

  // --- play ---

  let timer = 0;
  function play() {
    if (!result) return;
    const steps = result.states.length - 1;
    if (shownStep() === steps) set({ step: 0 });
    playing.textContent = "Pause";
    // From state to state, without made-up states between. Slower where motion is unwelcome.
    const pace = calm() ? 1000 : Math.min(450, Math.max(60, 5000 / steps));
    timer = setInterval(() => {
      const next = shownStep() + 1;
      if (!inSight() || next >= result.states.length - 1) pause();
      if (inSight() && next < result.states.length) set({ step: next });
    }, pace);
  }

  function pause() {
    clearInterval(timer);
    timer = 0;
    playing.textContent = "Play";
  }

  // --- choosing a particle ---

  const nearest = cost => {
    const x = result.states[shownStep()];
    let best = -1, lowest = Infinity;
    for (let i = 0; i < x.length / 2; i++) {
      const value = cost(x[2 * i], x[2 * i + 1], i);
      if (value < lowest) [best, lowest] = [i, value];
    }
    if (best >= 0) set({ particle: best });
  };

  canvas.addEventListener("click", event => {
    if (!result) return;
    const across = place => (2 * place / canvas.clientWidth - 1) * halfWidth();
    const px = across(event.offsetX), py = -across(event.offsetY);
    nearest((x, y) => Math.hypot(x - px, y - py));
  });

  canvas.addEventListener("keydown", event => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (!(event.key in way) || !result) return;
    event.preventDefault();
    const [ux, uy] = way[event.key], own = shownParticle(), x = result.states[shownStep()];
    // The next particle that way; one that lies off to the side counts as farther.
    nearest((px, py, i) => {
      const dx = px - x[2 * own], dy = py - x[2 * own + 1], along = dx * ux + dy * uy;
      return i === own || along <= 0 ? Infinity : along + 2 * Math.abs(dx * uy - dy * ux);
    });
  });

  // --- taking it away ---

  function asPython() {
    const s = settings();
    const noise = s.noise === "path"
      ? `dp.PhiloxBridge(x, sigmas, seed=${s.seed}, eta=${s.eta})`
      : `widgets.FreshNoise(x, sigmas, seed=${s.seed})`;
    const lines = [
      "import torch",
      "",
      "import dpmpp_core as dp",
      "from dpmpp_core import widgets",
      "from dpmpp_core.widgets.start import start",
      "",
      `target = ${targetInPython(s.target, dataOf(s))}`,
      `sigmas = dp.schedule.${s.schedule}(${s.steps}, sigma_min=${s.sigma_min}, sigma_max=${s.sigma_max})`,
      `x = start(target, dp.Mesh.from_sigmas(sigmas), seed=${s.seed}, n=${s.particles})`,
      `noise = ${noise}`,
      "result = dp.sample(",
      "    target.model(),",
      "    x,",
      "    sigmas,",
      `    eta=${s.eta},`,
      `    s_noise=${s.s_noise},`,
      `    solver_type="${s.solver_type}",`,
      "    noise_sampler=noise,",
      "    disable=True,",
      ")",
    ];
    return `${lines.join("\n")}\n`;
  }

  function sheet(_, unit) {
    const { width } = canvas, line = 18 * unit;
    const made = element("canvas", { width, height: width + 3.4 * line });
    const pen = made.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, width, made.height);
    pen.drawImage(canvas, 0, 0);
    const s = settings();
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    [
      `${dataOf(s).label}, state ${describeStep(shownStep())}, seed ${s.seed}`,
      `eta ${s.eta}, s_noise ${s.s_noise}, ${s.solver_type}, ${s.schedule}, ${s.particles} particles`,
    ].forEach((text, row) => pen.fillText(text, 10 * unit, width + (1.2 + row) * line));
    let left = 10 * unit;
    for (const [term, dash] of Object.entries(TERMS)) {
      const y = width + 2.95 * line;
      arrow(pen, [left, y], [left + 32 * unit, y], { colour: colours[term], dash, width: 2.2, unit });
      pen.fillStyle = colours.ink;
      pen.fillText(term, left + 38 * unit, y + 4 * unit);
      left += 100 * unit;
    }
    return made;
  }

  return {
    canvases: { canvas, loupe }, body, foot: [heard, help], controls, dataOf, take, draw, asPython,
    sheet, pause, busy: () => sums,
    more: { measured, terms: termsOf },
    stop() {
      pause();
      clearTimeout(sums);
      clearTimeout(speech);
    },
  };
}

const distance = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);
const lowered = number => String(number).replace(/\d/g, digit => "₀₁₂₃₄₅₆₇₈₉"[digit]);
