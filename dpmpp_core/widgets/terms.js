// The sizes of the three terms at every step, and which step's noise the result still holds.
//
// In Jupyter the numbers come from Python, in the trait `result`. In a page without a kernel
// terms_run.js computes them, in a worker; the rest is the same.

import { element, picture, slider, targetChoice, targetInPython, write } from "./controls.js";
import { liveModule } from "./frame.js";
import { inside, key, plotArea, roundUp, ticks } from "./plot.js";
import { answer } from "./terms_run.js";

// As in figures.py: no term is told by colour alone. Dashes are in units of the line's width.
const TERMS = { drift: [], history: [3, 1.6], noise: [1, 1.4] };
const UNITS = { sigma: "divided by σₖ", absolute: "as they are" };
const DECADES = 6; // at most, on the axis of the sizes
const WIDTH = 1.8; // of the lines

export default liveModule({
  module: "terms_run",
  answer,
  label: "Sizes of the terms",
  run: ["target", "eta", "s_noise", "solver_type", "steps", "schedule", "sigma_min", "sigma_max",
    "seed", "particles"],
  rest: ["unit", "step"],
  colours: ["paper", "ink", "muted", "drift", "history", "noise"],
  view: createView,
});

function createView(state) {
  const { name, get, set, settings, changes, chosen, counted, knobs } = state;

  // --- the page's part of the figure ---

  const panel = () => picture("live-loupe", {
    style: "height: 16rem; cursor: crosshair", tabIndex: 0, "aria-describedby": `live-${name}-help`,
  });
  const canvases = { sizes: panel(), shares: panel() };
  const position = slider({
    label: "Step", min: 0, max: 1, step: 1, format: describeStep, changed: changes("step"),
  });
  const controls = {
    target: targetChoice(state),
    ...knobs(),
    sigma_min: counted("sigma_min", "Lowest σ above 0"),
    sigma_max: counted("sigma_max", "First σ"),
    unit: chosen("unit", "Sizes", UNITS),
    seed: counted("seed", "Seed"),
    particles: counted("particles", "Particles"),
  };

  const title = element("p", { className: "live-title" });
  const caption = element("caption");
  const rows = {}; // of the table: an output by name
  const row = (id, ...label) => element("tr", {},
    element("th", { scope: "row" }, ...label),
    element("td", {}, rows[id] = element("output", { className: "live-number" })));
  const mark = term =>
    element("span", { className: `live-key live-key-${term}`, "aria-hidden": "true" });
  const table = element("table", { className: "live-terms" }, caption,
    element("tbody", {},
      ...Object.keys(TERMS).map(term => row(term, mark(term), term)),
      row("ratio", "history / drift"),
      row("share", "share of its noise in the result")));
  const totals = Object.fromEntries(["start", "all_noise", "rest"].map(part =>
    [part, element("output", { className: "live-number" })]));
  const total = (part, label) => element("p", {}, element("span", {}, label), totals[part]);
  const rest = total("rest", "Of several of them together");
  const absent = element("p", { className: "live-help" });
  const how = element("p", { className: "live-help" });

  const side = "display: grid; gap: 0.8rem 1.25rem; " +
    "grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr))";
  const body = [
    element("div", { style: side },
      element("div", {}, title, canvases.sizes),
      element("div", {},
        element("p", { className: "live-title" }, "Share of step k's noise in the results' variance"),
        canvases.shares)),
    element("div", { style: "margin-top: 0.6rem" }, position.row),
    element("div", { style: side },
      table,
      element("div", { className: "live-results" },
        total("start", "Share of the start in the results' variance"),
        total("all_noise", "Share of all noise"),
        rest)),
    absent, how,
  ];
  const foot = [element("p", { className: "live-help", id: `live-${name}-help` },
    "Choose a step by a click on a plot, or with the arrow keys when one has the focus.")];

  // --- the numbers ---

  let result, area;

  const dataOf = ({ target }) => get("offers").targets[target];

  function take(found) {
    result = found;
  }

  const steps = () => result.sigma.length;
  const shown = () => Math.min(get("step"), steps() - 1);
  const scaled = (term, k) =>
    (get("unit") === "sigma" ? result[term][k] / result.sigma[k] : result[term][k]);
  const unitName = () => (get("unit") === "sigma" ? " / σₖ" : "");
  const sampled = () => !result.exact;
  const shareOf = (share, error) => share.toFixed(3) + (error ? ` ± ${error.toFixed(3)}` : "");

  // --- drawing ---

  function draw(colours, fit) {
    position.show(shown(), steps() - 1);
    drawSizes(colours, fit(canvases.sizes));
    drawShares(colours, fit(canvases.shares));
    showNumbers();
  }

  // Axes with a line at the chosen step.
  function prepare(fitted, colours, options) {
    const last = steps() - 1;
    const place = plotArea(fitted, colours, {
      x: [-0.5, last + 0.5], xTicks: ticks([0, last]).filter(Number.isInteger), xName: "step k",
      ...options,
    });
    if (!place) return null;
    area = { ...place, width: fitted.width };
    const { pen, unit, px, top, bottom } = place;
    pen.strokeStyle = colours.muted;
    pen.lineWidth = unit;
    pen.beginPath();
    pen.moveTo(px(shown()), top);
    pen.lineTo(px(shown()), bottom);
    pen.stroke();
    return place;
  }

  function drawSizes(colours, fitted) {
    const values = Object.fromEntries(Object.keys(TERMS).map(term =>
      [term, result[term].map((_, k) => scaled(term, k))]));
    canvases.sizes.setAttribute("aria-label",
      `Root mean square${get("unit") === "sigma" ? " over sigma" : ""} by step, on a log axis. ` +
      Object.entries(values).map(([term, list]) => spoken(term, list)).join(" "));
    const place = prepare(fitted, colours, { y: decades(Object.values(values).flat()), log: true });
    if (!place) return;
    const { pen, unit, px, py } = place;
    const look = term => () => {
      pen.strokeStyle = pen.fillStyle = colours[term];
      pen.lineWidth = WIDTH * unit;
      pen.setLineDash(TERMS[term].map(part => part * WIDTH * unit));
    };
    key(place, Object.keys(TERMS).map(term =>
      ({ text: term, look: look(term), colour: colours.ink })));
    const radius = Math.max(1, Math.min(3 * unit, 0.3 * (px(1) - px(0))));
    inside(place, () => {
      for (const [term, list] of Object.entries(values)) {
        look(term)();
        pen.beginPath();
        // A step without the term is a gap in its line.
        list.forEach((y, k) => {
          if (y && list[k - 1]) pen.lineTo(px(k), py(y));
          else if (y) pen.moveTo(px(k), py(y));
        });
        pen.stroke();
        list.forEach((y, k) => { if (y) MARKERS[term](pen, px(k), py(y), radius); });
      }
    });
  }

  function drawShares(colours, fitted) {
    const { share, error } = result, most = share.indexOf(Math.max(...share));
    const reach = share.map((y, k) => y + 2 * error[k]);
    canvases.shares.setAttribute("aria-label", get("eta") === 0 ? "No step adds noise."
      : `Share of each step's noise in the variance of the results: the most, ` +
        `${shareOf(share[most], error[most])}, from step ${most}; ` +
        `${shareOf(share[shown()], error[shown()])} from step ${shown()}.`);
    const place = prepare(fitted, colours, { y: [0, roundUp(Math.max(0.01, ...reach))] });
    if (!place) return;
    const { pen, unit, px, py, bottom, left, right, top } = place;
    if (!share.some(Boolean)) {
      pen.fillStyle = colours.muted;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillText("no noise", (left + right) / 2, (top + bottom) / 2);
    }
    const half = 0.35 * (px(1) - px(0));
    inside(place, () => {
      pen.fillStyle = `${colours.noise}99`;
      share.forEach((y, k) => pen.fillRect(px(k) - half, py(y), 2 * half, bottom - py(y)));
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 1.2 * unit;
      pen.beginPath();
      if (sampled()) {
        share.forEach((y, k) => {
          pen.moveTo(px(k), py(y - 2 * error[k]));
          pen.lineTo(px(k), py(y + 2 * error[k]));
        });
      }
      pen.stroke();
    });
  }

  // --- numbers and words ---

  function describeStep(k) {
    if (!result) return String(k);
    const { sigma } = result, next = sigma[k + 1];
    return `${k}: σ = ${sigma[k]?.toPrecision(2)} to ${next ? next.toPrecision(2) : 0}`;
  }

  // A term's line in words: where it stands, and the steps that have none.
  function spoken(term, list) {
    const k = shown(), some = list.filter(Boolean);
    if (!some.length) return `No ${term} at any step.`;
    const from = Math.min(...some), to = Math.max(...some);
    return `${capital(term)} from ${from.toPrecision(3)} to ${to.toPrecision(3)}, ` +
      `${list[k] ? list[k].toPrecision(3) : "none"} at step ${k}.`;
  }

  function showNumbers() {
    const k = shown(), n = steps(), { share, error } = result;
    const { eta, particles } = result.settings;
    write(title, `Root mean square per coordinate${unitName()}`);
    write(caption, `Step ${describeStep(k)}`);
    for (const term of Object.keys(TERMS)) {
      const size = scaled(term, k);
      write(rows[term], size ? size.toPrecision(3) : "none");
    }
    const { drift, history } = result;
    write(rows.ratio, history[k] && drift[k] ? (history[k] / drift[k]).toPrecision(3) : "none");
    write(rows.share, result.noise[k] ? shareOf(share[k], error[k]) : "none");
    for (const part of Object.keys(totals)) write(totals[part], shareOf(...result[part]));
    rest.style.display = sampled() ? "" : "none";
    write(absent, `Step 0 has no history: there is no earlier estimate. Step ${n - 1} goes to ` +
      `σ = 0 and returns the estimate: no history, no noise.` +
      (eta === 0 ? " With η = 0 no step has noise." : ""));
    write(how, sampled()
      ? `A share is what a linear fit in one source explains of the variance of the results, ` +
        `estimated from ${particles} particles, with its standard error; a whisker is two of them ` +
        `either way. What the start and several noises decide together, such as the mode in which ` +
        `a particle ends, belongs to no single one: the rest.`
      : "The shares are exact: on a Gaussian the result is a sum of the start and of every step's " +
        "noise, each with a weight, and the shares add up to 1.");
  }

  // --- choosing a step ---

  const choose = k => set({ step: Math.min(Math.max(k, 0), steps() - 1) });
  for (const canvas of Object.values(canvases)) {
    canvas.addEventListener("click", event => {
      if (!area) return;
      const along = (event.offsetX / canvas.clientWidth) * area.width;
      const gap = area.px(1) - area.px(0);
      choose(Math.round((along - area.px(0)) / gap));
    });
    canvas.addEventListener("keydown", event => {
      if (!result) return;
      const to = { ArrowRight: shown() + 1, ArrowLeft: shown() - 1, Home: 0, End: steps() - 1 };
      if (!(event.key in to)) return;
      event.preventDefault();
      choose(to[event.key]);
    });
  }

  // --- taking it away ---

  function asPython() {
    const s = settings(), k = shown();
    const over = s.unit === "sigma" ? " / t.sigma" : "";
    const knobs = `eta=${s.eta}, s_noise=${s.s_noise}, solver_type="${s.solver_type}"`;
    const [shares, given] = result.exact ? ["gaussian_shares", `target, mesh, ${knobs}`]
      : ["linear_shares", "run, target, mesh"];
    const lines = [
      "import torch",
      "",
      "import dpmpp_core as dp",
      "from dpmpp_core import widgets",
      "from dpmpp_core.widgets.start import start",
      `from dpmpp_core.widgets.terms import ${shares}`,
      "",
      `target = ${targetInPython(s.target, dataOf(s))}`,
      `sigmas = dp.schedule.${s.schedule}(${s.steps}, sigma_min=${s.sigma_min}, ` +
        `sigma_max=${s.sigma_max})`,
      "mesh = dp.Mesh.from_sigmas(sigmas)",
      `x = start(target, mesh, seed=${s.seed}, n=${s.particles})`,
      "run = list(",
      "    dp.trajectory(",
      "        target.model(),",
      "        x,",
      "        sigmas,",
      ...knobs.split(", ").map(knob => `        ${knob},`),
      `        noise_sampler=dp.PhiloxBridge(x, sigmas, seed=${s.seed}, eta=${s.eta}),`,
      "    )",
      ")",
      "sizes = [",
      `    {name: float(getattr(t, name).square().mean().sqrt())${over}`,
      "     for name in (\"drift\", \"history\", \"noise\")}",
      "    for t in run",
      "]",
      `share, error = ${shares}(${given}).noise[${k}]`,
      `print(sizes[${k}], f"share of its noise {share:.3f} ± {error:.3f}")`,
    ];
    return `${lines.join("\n")}\n`;
  }

  // One panel above the other: a picture that a phone saves as well as a wide screen does.
  function sheet(colours, unit) {
    const { sizes, shares } = canvases, s = settings(), k = shown(), line = 18 * unit;
    const made = element("canvas", {
      width: Math.max(sizes.width, shares.width),
      height: sizes.height + shares.height + 6.4 * line,
    });
    const pen = made.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(sizes, 0, line);
    pen.drawImage(shares, 0, sizes.height + 2 * line);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    pen.fillText(title.textContent, 10 * unit, 0.9 * line);
    pen.fillText("Share of step k's noise in the results' variance", 10 * unit,
      sizes.height + 1.9 * line);
    const foot = sizes.height + shares.height + 2.2 * line;
    [
      `Step ${describeStep(k)}; ${Object.keys(TERMS).map(term =>
        `${term} ${rows[term].textContent}`).join(", ")}`,
      `${dataOf(s).label}, ${s.particles} particles, seed ${s.seed}`,
      `eta ${s.eta}, s_noise ${s.s_noise}, ${s.solver_type}`,
      `${s.steps} steps, ${s.schedule}, σ ${s.sigma_max} to ${s.sigma_min}`,
    ].forEach((text, at) => pen.fillText(text, 10 * unit, foot + (at + 0.6) * line));
    return made;
  }

  return { canvases, body, foot, controls, dataOf, take, draw, asPython, sheet };
}

// --- small things --------------------------------------------------------------------------------

const capital = word => word[0].toUpperCase() + word.slice(1);

// Whole decades that hold all sizes above 0, but no more than DECADES of them: then the axis stands
// still while a slider moves a little.
function decades(values) {
  const some = values.filter(Boolean);
  const high = Math.ceil(Math.log10(Math.max(...some)));
  const low = Math.floor(Math.log10(Math.min(...some)));
  return [10 ** Math.max(Math.min(low, high - 1), high - DECADES), 10 ** high];
}

const MARKERS = {
  drift(pen, x, y, r) {
    pen.beginPath();
    pen.arc(x, y, r, 0, 7);
    pen.fill();
  },
  history: (pen, x, y, r) => pen.fillRect(x - r, y - r, 2 * r, 2 * r),
  noise(pen, x, y, r) {
    pen.beginPath();
    pen.moveTo(x, y - 1.3 * r);
    pen.lineTo(x + 1.2 * r, y + r);
    pen.lineTo(x - 1.2 * r, y + r);
    pen.fill();
  },
};
