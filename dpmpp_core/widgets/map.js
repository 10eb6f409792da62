// The map of the final spread: a heat map over eta and s_noise, or eta and steps, and a cross on it.
//
// In Jupyter its numbers come from Python, in the trait `result`. In a page without a kernel
// map_run.js computes them, in a worker; the rest is the same.

import { element, picture, rgb, write } from "./controls.js";
import { liveModule } from "./frame.js";
import { answer } from "./map_run.js";
import { contour, inside, key, plotArea } from "./plot.js";

const SOLVERS = ["midpoint", "heun"];
const BELOW = "too narrow", ABOVE = "too wide";

export default liveModule({
  module: "map_run",
  answer,
  label: "Map of the final spread",
  run: ["up", "eta", "s_noise", "steps", "solver_type", "schedule", "sigma_min", "sigma_max",
    "spread", "model", "error"],
  colours: ["paper", "ink", "muted", "narrow", "wide"],
  view: createView,
});

function createView({ get, set, settings, chosen, knobs, ranged, limits, name }) {
  const { etas, rows, levels, ticks, models, schedules } = get("offers");

  // --- the page's part of the figure ---

  const canvas = picture("live-loupe", {
    tabIndex: 0, "aria-describedby": `live-${name}-help`,
    style: "height: clamp(17rem, 55cqw, 24rem); cursor: crosshair; touch-action: pan-y",
  });
  const controls = {
    up: chosen("up", "Up the map", Object.keys(rows)),
    ...knobs(),
    spread: ranged("spread", "Spread of the data", 0.01, value => value.toFixed(2)),
    model: chosen("model", "Denoiser", models),
    error: ranged("error", "The denoiser's error", 0.01,
      value => `${value < 0 ? "−" : "+"}${Math.round(Math.abs(100 * value))} %`),
  };

  const number = style => element("output", { className: "live-number", style });
  const here = number("font-size: 2.2rem; font-weight: 600; line-height: 1.2");
  const there = number("font-size: 1.2rem");
  here.setAttribute("aria-live", "polite");
  const words = { here: element("span"), there: element("span") };
  const belief = element("p", { className: "live-help" });
  const body = [
    element("p", { className: "live-title" }, "Final spread, over the spread of the data"),
    canvas,
    element("div", {
      className: "live-results",
      style: "display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: end",
    }, element("p", {}, words.here, here), element("p", {}, words.there, there)),
    belief,
    element("p", { className: "live-help", id: `live-${name}-help` },
      "Exact, nothing is sampled. Click or drag on the map, or use its arrow keys, to move the cross."),
  ];

  // --- the numbers ---

  let result, map;

  function take(found) {
    result = found;
    const { map: values } = found;
    map = values instanceof Float64Array ? values : new Float64Array( // the kernel's bytes
      values.buffer.slice(values.byteOffset, values.byteOffset + values.byteLength));
  }

  const rowsOf = s => rows[s.up];
  const rangeOf = list => [list[0], list.at(-1)];
  const byRatio = s => s.up === "steps"; // the axis upwards is logarithmic
  const otherOf = s => SOLVERS.find(solver => solver !== s.solver_type);
  const setting = s => `eta ${s.eta}, s_noise ${s.s_noise}, ${s.steps} steps`;
  const denoiser = s => models[s.model] + (s.model === "exact" ? ""
    : `, there it believes in a spread of ${+((1 + s.error) * s.spread).toFixed(4)}`);

  // --- drawing ---

  let place; // of the last drawing: the pointer asks where it is

  function draw(colours, fit) {
    const s = result.settings;
    place = plotArea(fit(canvas), colours, {
      x: rangeOf(etas), y: rangeOf(rowsOf(s)), xName: "eta η", log: byRatio(s),
      yTicks: byRatio(s) ? ticks : undefined, margin: 50,
    });
    showNumbers(s);
    if (!place) return;
    inside(place, () => {
      drawColours(colours, s);
      drawLevels(colours, s);
    });
    drawCross(colours, s);
    drawKey(colours, s);
  }

  // A pixel for each number, which the browser blends. Where the axis is logarithmic the rows lie
  // closer and closer: numbers of rows at even distances are taken between them.
  function drawColours(colours, s) {
    const own = rowsOf(s), width = etas.length, height = byRatio(s) ? 3 * own.length : own.length;
    const image = new ImageData(width, height), [low, high] = rangeOf(own);
    const paper = rgb(colours.paper), narrow = rgb(colours.narrow), wide = rgb(colours.wide);
    for (let i = 0; i < height; i++) {
      const up = 1 - i / (height - 1);
      const at = byRatio(s) ? low * (high / low) ** up - low : up * (height - 1);
      const row = Math.min(Math.floor(at), own.length - 2), part = at - row;
      for (let j = 0; j < width; j++) {
        const below = map[row * width + j], above = map[(row + 1) * width + j];
        const ratio = below + part * (above - below), end = ratio < 1 ? narrow : wide;
        const share = depth(ratio), pixel = 4 * (i * width + j);
        for (let c = 0; c < 3; c++) image.data[pixel + c] = paper[c] + share * (end[c] - paper[c]);
        image.data[pixel + 3] = 255;
      }
    }
    const small = element("canvas", { width, height });
    small.getContext("2d").putImageData(image, 0, 0);
    const { pen, left, right, top, bottom } = place;
    // From the middle of the first pixel to the middle of the last: there the numbers are.
    pen.drawImage(small, 0.5, 0.5, width - 1, height - 1, left, top, right - left, bottom - top);
  }

  // Each line bears its number once, where it is farthest from the numbers already there.
  function drawLevels(colours, s) {
    const { pen, unit, px, py, left, right, top, bottom } = place;
    const xs = etas.map(px), ys = rowsOf(s).map(py);
    pen.strokeStyle = pen.fillStyle = colours.ink;
    pen.lineCap = "round";
    // In the middle is the cross, until a reader moves it: no number there.
    const labels = [{ x: (left + right) / 2, y: (top + bottom) / 2, text: "" }];
    const first = levels.filter(level => level === 1), rest = levels.filter(level => level !== 1);
    for (const level of [...first, ...rest]) {
      const lines = contour(map, xs, ys, level);
      pen.lineWidth = (level === 1 ? 3 : 0.8) * unit;
      pen.beginPath();
      let best, most = 30 * unit;
      for (const [ax, ay, bx, by] of lines) {
        pen.moveTo(ax, ay);
        pen.lineTo(bx, by);
        const x = (ax + bx) / 2, y = (ay + by) / 2;
        const room = Math.min(1.6 * (x - left), 1.6 * (right - x), 4 * (y - top), 4 * (bottom - y),
          ...labels.map(label => Math.hypot(x - label.x, 2.5 * (y - label.y))));
        if (room > most) [best, most] = [{ x, y, text: String(level) }, room];
      }
      pen.stroke();
      if (best) labels.push(best);
    }
    for (const { x, y, text } of labels) haloed(colours, text, x, y, "center", "middle");
  }

  function haloed(colours, text, x, y, align, baseline) {
    const { pen, unit } = place;
    pen.font = `600 ${11 * unit}px system-ui, sans-serif`;
    pen.textAlign = align;
    pen.textBaseline = baseline;
    pen.lineJoin = "round";
    pen.lineWidth = 4 * unit;
    pen.strokeStyle = colours.paper;
    pen.strokeText(text, x, y);
    pen.fillStyle = colours.ink;
    pen.fillText(text, x, y);
  }

  function drawCross(colours, s) {
    const { pen, unit, px, py } = place, x = px(s.eta), y = py(s[s.up]);
    pen.lineCap = "butt";
    for (const [colour, width, arm] of [[colours.paper, 6, 12], [colours.ink, 2.4, 11]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width * unit;
      pen.beginPath();
      pen.moveTo(x - arm * unit, y);
      pen.lineTo(x + arm * unit, y);
      pen.moveTo(x, y - arm * unit);
      pen.lineTo(x, y + arm * unit);
      pen.stroke();
    }
  }

  function drawKey(colours, s) {
    const { pen, unit } = place;
    const line = (colour, width) => () => {
      pen.strokeStyle = colour;
      pen.lineWidth = width * unit;
    };
    key(place, [
      { text: BELOW, colour: colours.muted, look: line(colours.narrow, 9) },
      { text: "1", colour: colours.ink, look: line(colours.ink, 3) },
      { text: ABOVE, colour: colours.muted, look: line(colours.wide, 9) },
    ]);
    pen.textAlign = "left";
    pen.textBaseline = "top";
    pen.fillStyle = colours.muted;
    pen.fillText(s.up, 2 * unit, 2 * unit);
  }

  function showNumbers(s) {
    const { chosen } = result, other = otherOf(s), own = rowsOf(s);
    const low = Math.min(...map), high = Math.max(...map);
    write(here, fixed(chosen[s.solver_type]));
    write(words.here, `Over the data's, with ${s.solver_type}, at ${setting(s)}`);
    write(there, fixed(chosen[other]));
    write(words.there, `With ${other}`);
    write(belief, `The denoiser is ${denoiser(s)}.`);
    belief.hidden = s.model === "exact";
    controls.error.row.style.display = s.model === "exact" ? "none" : "";
    canvas.setAttribute("aria-label",
      `Map of the final spread over the data's, from ${fixed(low)} to ${fixed(high)}: eta from 0 ` +
      `to 2 across, ${s.up} from ${own[0]} to ${own.at(-1)} up. The cross is at ${setting(s)}: ` +
      `${fixed(chosen[s.solver_type])} with ${s.solver_type}, ${fixed(chosen[other])} with ${other}.`);
  }

  // --- moving the cross ---

  // To the nearest setting that the sliders have too.
  function moveTo(eta, up) {
    const name = get("up"), rounded = (value, { low, high, whole }) => {
      const round = whole ? Math.round(value) : Math.round(100 * value) / 100;
      return Math.min(Math.max(round, low), high);
    };
    set({ eta: rounded(eta, limits().eta), [name]: rounded(up, limits()[name]) });
  }

  function point(event) {
    if (!place || !result) return;
    const { unit, left, right, top, bottom } = place, [low, high] = rangeOf(rows[get("up")]);
    const across = (event.offsetX * unit - left) / (right - left);
    const up = (bottom - event.offsetY * unit) / (bottom - top);
    moveTo(2 * across, get("up") === "steps" ? low * (high / low) ** up : low + up * (high - low));
  }

  canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    point(event);
  });
  canvas.addEventListener("pointermove", event => {
    if (canvas.hasPointerCapture(event.pointerId)) point(event);
  });
  canvas.addEventListener("keydown", event => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (!(event.key in way)) return;
    event.preventDefault();
    const [across, up] = way[event.key], name = get("up");
    moveTo(get("eta") + 0.02 * across, get(name) + (name === "steps" ? 1 : 0.02) * up);
  });

  // --- taking it away ---

  function asPython() {
    const s = settings(), exact = s.model === "exact";
    const lines = [
      ...(exact ? [] : ["import torch", ""]),
      "import dpmpp_core as dp",
      "from dpmpp_core.moments import affine_moments, gaussian_denoiser",
      "",
      `sigmas = dp.schedule.${s.schedule}(${s.steps}, ` +
        `sigma_min=${s.sigma_min}, sigma_max=${s.sigma_max})`,
      "mesh = dp.Mesh.from_sigmas(sigmas)",
      `table = dp.step_table(mesh, eta=${s.eta}, s_noise=${s.s_noise}, ` +
        `solver_type="${s.solver_type}")`,
      `spread = ${s.spread}`,
      "gain = gaussian_denoiser(mesh, variance=spread**2).gain",
      ...believing(s),
      "start = mesh.alpha[0] ** 2 * spread**2 + mesh.sigma[0] ** 2",
      "law = affine_moments(table, gain, initial=(0.0, start))",
      "ratio = float(law.variance[-1]) ** 0.5 / spread",
      "print(f\"final spread {ratio:.3f} of the data's\")",
    ];
    return `${lines.join("\n")}\n`;
  }

  function believing({ model, error }) {
    const wrong = `gaussian_denoiser(mesh, variance=((1 + ${error}) * spread) ** 2).gain`;
    if (model === "exact") return [];
    if (model === "all") return [`gain = ${wrong}  # what it believes in`];
    const where = model === "high" ? "high" : "~high";
    return [
      `wrong = ${wrong}`,
      "high = torch.tensor(mesh.sigma[:-1]) > spread * torch.tensor(mesh.alpha[:-1])",
      `gain = torch.where(${where}, wrong, gain)`,
    ];
  }

  function sheet(colours, unit) {
    const s = result.settings, line = 18 * unit, { chosen } = result;
    const made = element("canvas", { width: canvas.width, height: canvas.height + 6.6 * line });
    const pen = made.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(canvas, 0, 1.2 * line);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    pen.fillText("Final spread, over the spread of the data", 10 * unit, 0.9 * line);
    [
      `At the cross ${fixed(chosen[s.solver_type])} (${s.solver_type}); ` +
        `with ${otherOf(s)} ${fixed(chosen[otherOf(s)])}`,
      setting(s),
      `${schedules[s.schedule]}, σ from ${s.sigma_max} to ${s.sigma_min}, data of spread ${s.spread}`,
      `Denoiser: ${denoiser(s)}`,
    ].forEach((text, row) =>
      pen.fillText(text, 10 * unit, canvas.height + (row + 2.4) * line));
    return made;
  }

  return {
    canvases: { map: canvas }, body, controls, take, draw, asPython, sheet,
    dataOf: s => ({ etas, rows: rowsOf(s) }),
  };
}

// --- small things --------------------------------------------------------------------------------

const fixed = value => value.toFixed(3);

// How far from paper a ratio is drawn, as in map.py.
const depth = ratio => Math.min(Math.abs(Math.log2(Math.max(ratio, 1e-9))), 1) ** 0.5;
