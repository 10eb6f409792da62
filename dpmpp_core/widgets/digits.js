// The digits explorer: 25 pictures from the learned denoiser, beside the images it learned from.
//
// In Jupyter the pictures come from Python, in the trait `result`. In a page without a kernel
// digits_run.js computes them, in a worker; the rest is the same.

import { answer, labelsOf } from "./digits_run.js";
import { choice, element, picture, rgb, write } from "./controls.js";
import { liveModule } from "./frame.js";

const SIDE = 8; // pixels of an image
const CAPTION = 17, GAP = 6; // css pixels below and between the pictures

export default liveModule({
  module: "digits_run",
  answer,
  label: "Digits explorer",
  run: ["label", "w", "eta", "s_noise", "solver_type", "steps", "schedule", "sigma_min",
    "sigma_max", "seed"],
  rest: ["image"],
  colours: ["paper", "ink", "muted", "border", "focus"],
  view: createView,
});

function createView({ get, set, settings, limits, changes, ranged, counted, knobs }) {
  const { rows, columns } = get("offers"), count = rows * columns;

  // --- the page's part of the figure ---

  const canvases = {
    grid: picture("live-loupe", { style: "height: auto; aspect-ratio: 1 / 1.16; cursor: pointer" }),
    pair: picture("live-loupe", { style: "height: auto; aspect-ratio: 2 / 1.12" }),
  };
  canvases.grid.addEventListener("click", ({ offsetX, offsetY }) => {
    const { clientWidth, clientHeight } = canvases.grid;
    const column = Math.floor((columns * offsetX) / clientWidth);
    const row = Math.floor((rows * offsetY) / clientHeight);
    set({ image: Math.min(Math.max(row * columns + column, 0), count - 1) });
  });

  const { names } = limits().label;
  const { schedule, solver_type, ...others } = knobs();
  const controls = {
    label: choice({
      label: "Class", changed: changes("label"),
      options: names.map(name => [name, name === "each" ? "each in turn" : name]),
    }),
    schedule, solver_type,
    w: ranged("w", "Guidance w", 0.1, value => value.toFixed(1)),
    ...others,
    seed: counted("seed", "Seed"),
    image: ranged("image", "Picture to compare", 1),
  };

  const results = Object.fromEntries(["own", "distance", "spread"].map(name =>
    [name, element("output", { className: "live-number", "aria-live": "polite" })]));
  const number = (name, text) => element("p", {}, element("span", {}, text), results[name]);
  const pairTitle = element("p", { className: "live-title" });
  // The knobs that are moved most stand beside the grid, and on a phone right below it.
  const body = [
    element("div", { className: "live-stage" },
      canvases.grid,
      element("div", { style: "display: grid; gap: 0.6rem; align-content: start" },
        ...["label", "w", "eta", "s_noise", "steps"].map(setting => controls[setting].row),
        element("div", { className: "live-results" },
          number("own", "Nearest training image is of the class asked for"),
          number("distance", "Mean distance to that image"),
          number("spread", "Spread of a pixel within a class")))),
  ];
  const foot = [
    element("div", { style: "display: grid; gap: 0.6rem 1.25rem; margin-top: 1rem; " +
      "grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr))" },
      element("div", {}, pairTitle, canvases.pair),
      element("div", {}, controls.image.row,
        element("p", { className: "live-help" },
          "Below each picture of the grid is the class that was asked for and, where it is " +
          "another, that of the nearest training image. Choose a picture by a click or with the " +
          "slider. A pixel is −1 on paper and 1 in full ink; distances are Euclidean, over the " +
          "64 pixels; ± is a standard error of the 25; held out are images that the model has not " +
          "seen."))),
  ];

  // --- what is shown ---

  let result;

  // From the kernel images come as bytes of float32; from here on they are numbers.
  function numbersOf(images) {
    if (!(images instanceof DataView)) return images;
    const { buffer, byteOffset, byteLength } = images;
    return new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength));
  }

  function take(found) {
    const { images, neighbours, settings: s } = found;
    result = {
      ...found, images: numbersOf(images), neighbours: numbersOf(neighbours),
      labels: labelsOf(s, count),
    };
    return result;
  }

  const texts = () => ({
    own: `${result.own} of ${count} (held out: ${(100 * result.held_own).toFixed(1)} %)`,
    distance: `${plusMinus(result.distance, result.distance_error)} ` +
      `(held out: ${fixed(result.held_distance)})`,
    spread: `${plusMinus(result.spread, result.spread_error)} of the training images'`,
  });

  // --- drawing ---

  function draw(colours, fit) {
    drawGrid(colours, fit(canvases.grid));
    drawPair(colours, fit(canvases.pair));
    for (const [name, text] of Object.entries(texts())) write(results[name], text);
  }

  function drawGrid(colours, { pen, unit, width, height }) {
    const { settings: s, labels, found } = result, own = get("image");
    const { distance, spread } = texts();
    canvases.grid.setAttribute("aria-label",
      `${count} pictures of ${SIDE} by ${SIDE} pixels, made in ${s.steps} steps (${s.schedule}) ` +
      `with eta ${s.eta}, s_noise ${s.s_noise}, ${s.solver_type}, guidance w ${s.w} and seed ` +
      `${s.seed}; asked for: ${s.label === "each" ? "each class in turn" : `a ${s.label} each`}. ` +
      `${result.own} are nearest to a training image of that class${strays(labels, found)}. ` +
      `Their mean distance to it is ${distance}, their spread ${spread}.`);
    if (!width || !height) return;
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, width, height);
    const sheet = paint(result.images, colours);
    const cellWide = width / columns, cellHigh = height / rows, caption = CAPTION * unit;
    const side = sideIn(cellWide - GAP * unit, cellHigh - caption - GAP * unit);
    for (let i = 0; i < count; i++) {
      const left = Math.round((i % columns) * cellWide + (cellWide - side) / 2);
      const top = Math.round(Math.floor(i / columns) * cellHigh + GAP * unit);
      show(pen, sheet, i, left, top, side);
      frame(pen, colours, unit, left, top, side, i === own);
      const same = found[i] === labels[i];
      letter(pen, unit, same ? colours.muted : colours.ink, same ? "" : "600 ");
      pen.fillText(same ? labels[i] : `${labels[i]}, near ${found[i]}`, left + side / 2,
        top + side + caption / 2);
    }
  }

  function drawPair(colours, { pen, unit, width, height }) {
    const i = get("image"), { found, labels, distances, images, neighbours } = result;
    const nearest = `a ${found[i]}, at distance ${fixed(distances[i])}`;
    canvases.pair.setAttribute("aria-label",
      `Picture ${i}, asked for as a ${labels[i]}, and the nearest training image, ${nearest}.`);
    write(pairTitle, `Picture ${i}, and the training image nearest to it: ${nearest}`);
    if (!width || !height) return;
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, width, height);
    const caption = CAPTION * unit, half = width / 2;
    const side = sideIn(half - GAP * unit, height - caption - GAP * unit);
    [[images, `picture ${i}`], [neighbours, "nearest"]].forEach(([from, text], column) => {
      const left = Math.round(column * half + (half - side) / 2), top = GAP * unit;
      show(pen, paint(from, colours), i, left, top, side);
      frame(pen, colours, unit, left, top, side, column === 0);
      letter(pen, unit, colours.muted, "");
      pen.fillText(text, left + side / 2, top + side + caption / 2);
    });
  }

  // --- taking it away ---

  function asPython() {
    const s = settings();
    const label = s.label === "each" ? `torch.arange(${count}) % 10`
      : `torch.full((${count},), ${s.label})`;
    return [
      "import torch",
      "",
      "import dpmpp_core as dp",
      "from dpmpp_core import digits",
      "from dpmpp_core.widgets.start import start",
      "",
      `sigmas = dp.schedule.${s.schedule}(${s.steps}, sigma_min=${s.sigma_min}, ` +
        `sigma_max=${s.sigma_max})`,
      "nothing = dp.point_cloud(torch.zeros(1, 64))  # what the noise is added to",
      `x = start(nothing, dp.Mesh.from_sigmas(sigmas), seed=${s.seed}, n=${count})`,
      "result = dp.sample(",
      "    digits.load(),",
      "    x,",
      "    sigmas,",
      `    eta=${s.eta},`,
      `    s_noise=${s.s_noise},`,
      `    solver_type="${s.solver_type}",`,
      `    noise_sampler=dp.PhiloxBridge(x, sigmas, seed=${s.seed}, eta=${s.eta}),`,
      `    extra_args={"label": ${label}, "w": ${s.w}},`,
      "    disable=True,",
      ")",
      "images = result.view(-1, 8, 8)",
      "train = digits.load_images().train.flatten(1).double()",
      "distance = float(torch.cdist(result, train).min(1).values.mean())",
      "print(f\"mean distance to the nearest training image {distance:.2f}\")",
      "",
    ].join("\n");
  }

  function sheet(colours, unit) {
    const { grid } = canvases, s = settings(), line = 18 * unit;
    const { own, distance, spread } = texts();
    const made = element("canvas", { width: grid.width, height: grid.height + 6 * line });
    const pen = made.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, made.width, made.height);
    pen.drawImage(grid, 0, 0);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    [
      `Nearest training image of the class asked for: ${own}`,
      `Distance to it ${distance}`,
      `Spread of a pixel within a class ${spread}`,
      `w ${s.w}, eta ${s.eta}, s_noise ${s.s_noise}, ${s.solver_type}`,
      `${s.steps} steps, ${s.schedule}, seed ${s.seed}`,
    ].forEach((text, row) => pen.fillText(text, 10 * unit, grid.height + (row + 1) * line));
    return made;
  }

  const dataOf = () => ({ rows, columns });
  return { canvases, body, foot, controls, dataOf, take, draw, asPython, sheet };
}

// --- small things --------------------------------------------------------------------------------

const fixed = value => value.toFixed(2);
const plusMinus = (value, error) => `${fixed(value)} ± ${fixed(error)}`;

// Which pictures are nearest to another class, in words.
function strays(labels, found) {
  const list = found.map((label, i) => [i, label]).filter(([i, label]) => label !== labels[i]);
  return list.length ? ` (not: ${list.map(([i, label]) =>
    `picture ${i}, a ${labels[i]} near a ${label}`).join("; ")})` : "";
}

// The side of an image that fits: a whole number of screen pixels for each of its own, so that all
// of these are of one size.
const sideIn = (width, height) =>
  SIDE * Math.max(1, Math.floor(Math.min(width, height) / SIDE));

// Images one below the other, a pixel each: from paper at -1 to ink at 1, and no further.
function paint(images, colours) {
  const low = rgb(colours.paper), high = rgb(colours.ink);
  const made = element("canvas", { width: SIDE, height: images.length / SIDE });
  const pen = made.getContext("2d"), { width, height } = made;
  const pixels = pen.createImageData(width, height);
  images.forEach((value, i) => {
    const part = Math.min(Math.max((value + 1) / 2, 0), 1);
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = low[c] + part * (high[c] - low[c]);
    pixels.data[4 * i + 3] = 255;
  });
  pen.putImageData(pixels, 0, 0);
  return made;
}

function show(pen, sheet, i, left, top, side) {
  pen.imageSmoothingEnabled = false; // the pixels are what is looked at
  pen.drawImage(sheet, 0, i * SIDE, SIDE, SIDE, left, top, side, side);
}

function frame(pen, colours, unit, left, top, side, strong) {
  const width = (strong ? 3 : 1) * unit;
  pen.strokeStyle = strong ? colours.focus : colours.border;
  pen.lineWidth = width;
  pen.strokeRect(left - width / 2, top - width / 2, side + width, side + width);
}

function letter(pen, unit, colour, weight) {
  pen.fillStyle = colour;
  pen.font = `${weight}${11 * unit}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
}
