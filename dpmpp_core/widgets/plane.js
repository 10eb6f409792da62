// Drawing thousands of paths in the plane, fast.
//
// A canvas strokes 40,000 short lines in some 50 ms. Adding their ink up in an array of numbers, one
// for each pixel, takes a tenth of that, and where many paths lie on each other the picture stays
// legible, because ink can be mapped to a shade afterwards.

import { minus, rgb } from "./controls.js";

// The square of a half width about the origin, `size` pixels along a side. More than MOST are drawn
// no finer, but enlarged.
const MOST = 640;

// States as the kernel sends them, float32 and one after another, as `length` arrays.
export function unpack({ buffer, byteOffset, byteLength }, length) {
  const all = Float64Array.from(
    new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength)));
  const size = all.length / length;
  return Array.from({ length }, (_, k) => all.subarray(k * size, (k + 1) * size));
}

export function createPlane() {
  let size = 0, coarse = 1, ink, pixels, words, ground, halfWidth = 1;
  const shades = Uint8Array.from({ length: 1024 }, (_, i) => 256 * 0.85 * (1 - Math.exp(-i / 256)));
  const own = document.createElement("canvas");

  function resize(side, newHalfWidth) {
    halfWidth = newHalfWidth;
    if (size === Math.min(side, MOST)) return;
    size = Math.min(side, MOST);
    ink = new Float32Array(size * size);
    pixels = new ImageData(size, size);
    words = new Uint32Array(pixels.data.buffer);
    ground = new Uint32Array(size * size);
  }

  // The ground: paper, with the target's density in bands of equal ratio, as figures.density draws
  // it, or nothing for a target without a density.
  function setGround(paper, grey, target) {
    const [pr, pg, pb] = rgb(paper), [gr, gg, gb] = rgb(grey);
    const bands = Uint32Array.from({ length: 11 }, (_, band) => {
      const part = band * 0.055;
      return pack(pr + (gr - pr) * part, pg + (gg - pg) * part, pb + (gb - pb) * part);
    });
    if (!target.smooth) {
      ground.fill(bands[0]);
      return;
    }
    const across = 141, points = new Float64Array(2 * across * across); // rows from the bottom
    for (let j = 0, at = 0; j < across; j++) {
      for (let i = 0; i < across; i++) {
        points[at++] = (2 * i / (across - 1) - 1) * halfWidth;
        points[at++] = (2 * j / (across - 1) - 1) * halfWidth;
      }
    }
    const density = new Float64Array(across * across);
    target.logDensity(points, across * across, 0, 1, density);
    const highest = density.reduce((a, b) => Math.max(a, b), -Infinity);
    const level = density.map(log => 10 + (log - highest) / Math.LN2);
    const scale = (across - 1) / (size - 1);
    for (let row = 0; row < size; row++) {
      const y = (size - 1 - row) * scale, j = Math.min(Math.floor(y), across - 2), v = y - j;
      for (let column = 0; column < size; column++) {
        const x = column * scale, i = Math.min(Math.floor(x), across - 2), u = x - i;
        const at = j * across + i;
        const low = level[at] * (1 - u) + level[at + 1] * u;
        const high = level[at + across] * (1 - u) + level[at + across + 1] * u;
        const band = Math.ceil(low * (1 - v) + high * v);
        ground[row * size + column] = bands[band > 0 ? Math.min(band, 10) : 0];
      }
    }
  }

  // Paths of all particles up to state `until`; what comes later is fainter. `states`: arrays of
  // n * 2 numbers.
  function paths(states, until, weight) {
    // Where thousands of faint lines lie on each other, one place for four pixels is fine enough.
    coarse = (states.length - 1) * states[0].length > 30000 ? 2 : 1;
    ink.fill(0);
    const grid = ink, side = size / coarse | 0;
    let from = inPixels(states[0], coarse, 0);
    for (let k = 1; k < states.length; k++) {
      const to = inPixels(states[k], coarse, k % 2);
      const own = (k <= until ? weight : weight * 0.2) / coarse;
      for (let i = 0; i < to.length; i += 2) {
        line(grid, side, from[i], from[i + 1], to[i], to[i + 1], own);
      }
      from = to;
    }
  }

  // Positions in pixels, counted from the middle of the first; written to the one or the other of
  // two arrays, which are kept: what is made anew in every frame must be cleared away.
  const places = [new Float64Array(0), new Float64Array(0)];
  function inPixels(x, coarse = 1, which = 0) {
    if (places[which].length !== x.length) places[which] = new Float64Array(x.length);
    const out = places[which];
    const scale = size / (2 * halfWidth) / coarse, middle = (size - coarse) / (2 * coarse);
    for (let i = 0; i < x.length; i += 2) {
      out[i] = middle + x[i] * scale;
      out[i + 1] = middle - x[i + 1] * scale;
    }
    return out;
  }

  // Ink becomes shade, 1 - exp(-ink), so that it never runs over. A pixel is a word of four bytes:
  // red and blue are mixed in one multiplication, as they are 16 bits apart, and green in another.
  function develop(colour) {
    const [r, g, b] = rgb(colour), both = (b << 16) | r;
    const side = size / coarse | 0;
    words.set(ground);
    for (let row = 0, from = 0; row < side; row++) {
      for (let column = 0; column < side; column++, from++) {
        const amount = ink[from];
        if (amount === 0) continue;
        const part = shades[Math.min(1023, (amount * 256) | 0)], own = 256 - part;
        const outer = Math.imul(both, part), green = Math.imul(g, part);
        for (let y = coarse * row; y < coarse * (row + 1); y++) {
          for (let at = y * size + coarse * column, end = at + coarse; at < end; at++) {
            const word = words[at];
            words[at] = 0xff000000 | (((Math.imul(word & 0xff00ff, own) + outer) >>> 8) & 0xff00ff) |
              ((Math.imul((word >>> 8) & 0xff, own) + green) & 0xff00);
          }
        }
      }
    }
  }

  // Discs of a radius in pixels, one for each particle.
  function dots(x, colour, radius, opacity) {
    const [r, g, b] = rgb(colour);
    const reach = Math.ceil(radius), outer = (radius + 0.5) ** 2, inner = (radius - 0.5) ** 2;
    const place = inPixels(x);
    for (let i = 0; i < place.length; i += 2) {
      const cx = Math.round(place[i]), cy = Math.round(place[i + 1]);
      if (!(cx > reach && cy > reach && cx < size - reach - 1 && cy < size - reach - 1)) continue;
      for (let py = cy - reach; py <= cy + reach; py++) {
        for (let px = cx - reach; px <= cx + reach; px++) {
          const squared = (px - place[i]) ** 2 + (py - place[i + 1]) ** 2;
          if (squared >= outer) continue;
          const cover = squared <= inner ? 1 : radius + 0.5 - Math.sqrt(squared);
          const at = py * size + px;
          words[at] = mix(words[at], r, g, b, cover * opacity);
        }
      }
    }
  }

  // On a canvas of `side` pixels: axes, and the points of a target that has no density. `unit` is
  // a css pixel.
  function axes(pen, unit, side, target, colours) {
    const onto = (x, y) => [(x / halfWidth + 1) / 2 * side, (1 - y / halfWidth) / 2 * side];
    pen.strokeStyle = colours.target;
    pen.lineWidth = 1.2 * unit;
    for (const point of target.smooth ? [] : target.means) {
      pen.beginPath();
      pen.arc(...onto(...point), 4 * unit, 0, 7);
      pen.stroke();
    }
    pen.strokeStyle = pen.fillStyle = colours.muted;
    pen.lineWidth = unit;
    pen.font = `${11 * unit}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    const apart = side / unit / (2 * halfWidth);
    const gap = [1, 2, 4, 8].find(round => round * apart >= 50) ?? 16;
    pen.beginPath();
    for (let tick = -gap * Math.floor(halfWidth / gap); tick < halfWidth; tick += gap) {
      const [x, y] = onto(tick, tick);
      pen.moveTo(x, side);
      pen.lineTo(x, side - 5 * unit);
      pen.moveTo(0, y);
      pen.lineTo(5 * unit, y);
      if (Math.abs(tick) > halfWidth * 0.8) continue;
      pen.textAlign = "center";
      pen.fillText(minus(tick), x, side - 12 * unit);
      pen.textAlign = "left";
      pen.fillText(minus(tick), 8 * unit, y);
    }
    pen.stroke();
    const end = side / unit;
    for (const [index, x, y] of [[1, end - 28, end - 14], [2, 8, 17]]) {
      pen.font = `italic ${15 * unit}px serif`;
      pen.fillText("x", x * unit, y * unit);
      pen.font = `${10 * unit}px serif`;
      pen.fillText(`(${index})`, (x + 8) * unit, (y - 6) * unit);
    }
  }

  // `side`: of the canvas to draw to, in its pixels.
  function show(pen, side) {
    if (side === size) {
      pen.putImageData(pixels, 0, 0);
      return;
    }
    own.width = own.height = size;
    own.getContext("2d", { alpha: false }).putImageData(pixels, 0, 0);
    pen.drawImage(own, 0, 0, side, side);
  }

  return { resize, setGround, paths, develop, dots, axes, show, get size() { return size; } };
}

// One line of ink between two points of the grid `ink`, `side` places wide and high. Along its
// longer axis it touches the two nearest places of every column (or row), each by its share. Here a
// frame spends most of its time: no arrays are made, and only the columns in which the line is on
// the picture are visited.
function line(ink, side, x0, y0, x1, y1, weight) {
  const steep = Math.abs(y1 - y0) > Math.abs(x1 - x0);
  const along = steep ? side : 1, across = steep ? 1 : side;
  if (steep) {
    let other = x0; x0 = y0; y0 = other;
    other = x1; x1 = y1; y1 = other;
  }
  if (x0 > x1) {
    let other = x0; x0 = x1; x1 = other;
    other = y0; y0 = y1; y1 = other;
  }
  const slope = x1 > x0 ? (y1 - y0) / (x1 - x0) : 0;
  const origin = y0 - slope * x0;
  let first = Math.max(0, Math.round(x0)), last = Math.min(side - 1, Math.round(x1));
  const edge = side - 1.001;
  if (!(y0 >= 1 && y1 >= 1 && y0 < edge - 1 && y1 < edge - 1)) {
    if (slope === 0 && !(y0 >= 0 && y0 < edge)) return;
    if (slope !== 0) {
      const enter = -origin / slope, leave = (edge - origin) / slope;
      first = Math.max(first, Math.ceil(Math.min(enter, leave)));
      last = Math.min(last, Math.floor(Math.max(enter, leave)));
    }
  }
  let y = origin + slope * first, at = first * along;
  for (let x = first; x <= last; x++, y += slope, at += along) {
    const low = y | 0, share = weight * (y - low), place = at + low * across;
    ink[place] += weight - share;
    ink[place + across] += share;
  }
}

// A pixel as ImageData keeps it on every machine in use: red in the lowest byte.
const pack = (r, g, b) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;

function mix(word, r, g, b, part) {
  const own = 1 - part;
  return (0xff000000 |
    (((word >>> 16) & 255) * own + b * part) << 16 |
    (((word >>> 8) & 255) * own + g * part) << 8 |
    ((word & 255) * own + r * part)) >>> 0;
}

// An arrow of a canvas, from (ax, ay) to (bx, by) in its pixels; `unit` is a css pixel.
export function arrow(pen, [ax, ay], [bx, by], { colour, dash, width, unit }) {
  const length = Math.hypot(bx - ax, by - ay);
  if (length < 0.5 * unit) return;
  const [ux, uy] = [(bx - ax) / length, (by - ay) / length];
  const head = Math.min((3 * width + 3) * unit, length);
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = width * unit;
  pen.setLineDash(dash.map(part => part * width * unit));
  pen.beginPath();
  pen.moveTo(ax, ay);
  pen.lineTo(bx - ux * head * 0.8, by - uy * head * 0.8);
  pen.stroke();
  pen.setLineDash([]);
  pen.beginPath();
  pen.moveTo(bx, by);
  pen.lineTo(bx - ux * head - uy * head * 0.42, by - uy * head + ux * head * 0.42);
  pen.lineTo(bx - ux * head + uy * head * 0.42, by - uy * head - ux * head * 0.42);
  pen.fill();
}
