// Axes and lines, for the figures that show curves or a map.

import { minus } from "./controls.js";

// Clears the canvas that `fitted` tells of (what canvasSizes(...).fit gives), draws axes on it, and
// returns what turns numbers into places on it; null while it has no size. x and y are ranges; with
// `log`, y is drawn on a logarithmic scale. `xTicks` and `yTicks` may name the numbers at the ticks,
// and `margin` the room on the left.
export function plotArea(
  { pen, unit, width, height }, colours,
  { x, y, xName, yName, log, xTicks = ticks(x), yTicks, margin = 40 },
) {
  if (!width || !height) return null;
  const left = margin * unit, right = width - 14 * unit;
  const top = 30 * unit, bottom = height - 32 * unit;
  const scale = log ? Math.log10 : Number;
  const [low, high] = y.map(scale);
  const px = value => left + ((value - x[0]) / (x[1] - x[0])) * (right - left);
  const py = value => bottom - ((scale(value) - low) / (high - low)) * (bottom - top);

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
  for (const tick of xTicks) {
    pen.moveTo(px(tick), bottom);
    pen.lineTo(px(tick), bottom + 4 * unit);
    pen.fillText(minus(tick), px(tick), bottom + 6 * unit);
  }
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const tick of yTicks ?? (log ? powers(y) : ticks(y))) {
    pen.moveTo(left - 4 * unit, py(tick));
    pen.lineTo(left, py(tick));
    pen.fillText(log && !yTicks ? powerOfTen(tick) : minus(tick), left - 6 * unit, py(tick));
  }
  pen.stroke();
  pen.textBaseline = "bottom";
  pen.fillText(xName, right, height - 1 * unit);
  if (yName) {
    pen.textAlign = "left";
    pen.fillText(yName, 2 * unit, top - 6 * unit);
  }
  return { pen, unit, px, py, left, right, top, bottom };
}

// What `drawing` draws, and nothing of it beside the axes.
export function inside({ pen, unit, left, right, top, bottom }, drawing) {
  pen.save();
  pen.beginPath();
  pen.rect(left, top - 2 * unit, right - left + 3 * unit, bottom - top + 3 * unit);
  pen.clip();
  drawing();
  pen.restore();
}

// Names of lines, above the axes, from left to right: { text, look, colour }, where look() sets the
// pen to the line's style.
export function key({ pen, unit, left }, names) {
  const y = 13 * unit, length = 26 * unit;
  let at = left;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.font = `${11 * unit}px system-ui, sans-serif`;
  for (const { text, look, colour } of names) {
    look();
    pen.beginPath();
    pen.moveTo(at, y);
    pen.lineTo(at + length, y);
    pen.stroke();
    pen.fillStyle = colour;
    pen.fillText(text, at + length + 6 * unit, y + 0.5 * unit);
    at += length + pen.measureText(text).width + 20 * unit;
  }
  pen.setLineDash([]);
}

// Where a map has a value: lines [x, y, x, y], one or two in each of its cells that the value
// crosses. `map` holds the numbers at the points of xs and ys, row by row.
export function contour(map, xs, ys, level) {
  const lines = [], width = xs.length;
  for (let i = 0; i + 1 < ys.length; i++) {
    for (let j = 0; j + 1 < width; j++) {
      const at = i * width + j, a = map[at], b = map[at + 1];
      const c = map[at + width + 1], d = map[at + width], above = a >= level;
      if (above === b >= level && above === c >= level && above === d >= level) continue;
      const crossings = [];
      const edge = (u, ux, uy, v, vx, vy) => {
        if (u >= level === v >= level) return;
        const part = (level - u) / (v - u);
        crossings.push([ux + part * (vx - ux), uy + part * (vy - uy)]);
      };
      const [x, right, y, next] = [xs[j], xs[j + 1], ys[i], ys[i + 1]];
      edge(a, x, y, b, right, y);
      edge(b, right, y, c, right, next);
      edge(c, right, next, d, x, next);
      edge(d, x, next, a, x, y);
      for (let k = 0; k < crossings.length; k += 2) lines.push(crossings.slice(k, k + 2).flat());
    }
  }
  return lines;
}

// Round numbers within a range, about five of them.
export function ticks([low, high]) {
  const wanted = (high - low) / 6, power = 10 ** Math.floor(Math.log10(wanted));
  const gap = [1, 2, 5, 10].map(digit => digit * power).find(round => round >= wanted);
  const first = Math.ceil(low / gap - 1e-9);
  const count = Math.floor(high / gap + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => +((first + i) * gap).toPrecision(6));
}

// Powers of ten within a range, every second or third where they are many.
function powers([low, high]) {
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
  const gap = Math.max(1, Math.ceil((last - first) / 6));
  return Array.from({ length: Math.floor((last - first) / gap) + 1 },
    (_, i) => 10 ** (first + i * gap));
}

const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const powerOfTen = value => {
  const power = Math.round(Math.log10(value));
  if (power === 0) return "1";
  if (power === 1) return "10";
  const digits = [...String(Math.abs(power))].map(digit => RAISED[digit]).join("");
  return `10${power < 0 ? "⁻" : ""}${digits}`;
};

// The least 1, 1.5, 2, 3, 5 or 7 times a power of ten that is not below x.
export function roundUp(x) {
  const power = 10 ** Math.floor(Math.log10(x));
  return [1, 1.5, 2, 3, 5, 7, 10].map(digit => digit * power).find(round => round >= x);
}
