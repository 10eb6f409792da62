// The noise of one step, against the length of the step: a live figure to begin with.
//
// In Jupyter the numbers come from Python, in the trait `result`. In a page without a kernel
// `answer` computes them, in a worker; the rest is the same.

import { element, picture, write } from "./controls.js";
import { makeMesh, stepTable } from "./engine.js";
import { liveModule } from "./frame.js";
import { inside, plotArea } from "./plot.js";

// From the settings that `run` names and from what dataOf returns. No formula is written twice: the
// engine's coefficients are printed from the expressions that the chapters derive.
export const answer = ({ eta }, { lengths }) => ({
  noise: lengths.map(h => stepTable(makeMesh([1, Math.exp(-h)]), { eta }).D[0]),
});

export default liveModule({
  module: "sketch",
  answer,
  label: "Noise of one step",
  run: ["eta"],
  colours: ["paper", "ink", "muted", "noise"],
  view: createView,
});

// What it returns is told in frame.js.
function createView({ get, settings, ranged }) {
  const canvases = { curve: picture("live-loupe", { style: "height: 16rem" }) };
  const title = element("p", { className: "live-title" }, "Noise of a step from σ = 1");
  const most = element("output", { className: "live-number" });
  const body = [
    title,
    canvases.curve,
    element("div", { className: "live-results" },
      element("p", {}, element("span", {}, "Most noise"), most)),
  ];
  const controls = { eta: ranged("eta", "eta η", 0.01, value => value.toFixed(2)) };

  let result;
  const dataOf = () => get("offers");
  const take = found => { result = found; };

  function draw(colours, fit) {
    const { noise } = result, { lengths } = get("offers");
    const D = Math.max(...noise), h = lengths[noise.indexOf(D)];
    write(most, D ? `D = ${D.toFixed(3)} at h = ${h.toFixed(2)}` : "none: η is 0");
    canvases.curve.setAttribute("aria-label",
      `Size D of the noise, against the length h of the step. ${title.textContent}. The most is ` +
      `${D.toFixed(3)}, at h = ${h.toFixed(2)}.`);
    const place = plotArea(fit(canvases.curve), colours, {
      x: [0, lengths.at(-1)], y: [0, 0.7], xName: "length of the step h", yName: "D",
    });
    if (!place) return;
    const { pen, unit, px, py } = place;
    inside(place, () => {
      pen.strokeStyle = colours.noise;
      pen.lineWidth = 2 * unit;
      pen.setLineDash([2 * unit, 3 * unit]); // noise is dotted: no term is told by colour alone
      pen.beginPath();
      lengths.forEach((h, i) => pen.lineTo(px(h), py(noise[i])));
      pen.stroke();
    });
  }

  const asPython = () => [
    "import math",
    "",
    "import dpmpp_core as dp",
    "",
    "h = 0.5",
    "mesh = dp.Mesh.from_sigmas([1.0, math.exp(-h)])",
    `D = dp.step_table(mesh, eta=${settings().eta})[0].D`,
    "print(f\"{D:.3f}\")",
    "",
  ].join("\n");

  // The picture that "Save PNG" saves: the canvas, and below it the settings.
  function sheet(colours, unit) {
    const { width, height } = canvases.curve, line = 18 * unit;
    const made = element("canvas", { width, height: height + 1.5 * line });
    const pen = made.getContext("2d");
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, width, made.height);
    pen.drawImage(canvases.curve, 0, 0);
    pen.fillStyle = colours.ink;
    pen.font = `${12 * unit}px system-ui, sans-serif`;
    pen.fillText(`${title.textContent}, eta ${settings().eta}`, 10 * unit, height + line);
    return made;
  }

  return { canvases, body, controls, dataOf, take, draw, asPython, sheet };
}
