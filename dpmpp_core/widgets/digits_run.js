// The digits explorer's answer.

import { DATA } from "./digits_data.js";
import { createNet, readTensors } from "./digits_net.js";
import { makeNoise, pointCloud, run, start } from "./engine.js";
import { meshOf, once, tableOf } from "./runs.js";

const CLASSES = 10;

// As DigitsRun in digits.py. The images are one array of 64 numbers each, and so are their
// neighbours.
export function answer(s, { rows, columns }, keep) {
  const n = rows * columns, labels = labelsOf(s, n), mesh = meshOf(s);
  const net = once(keep, "net", "", () => createNet(readTensors(DATA), DATA.spread)), { d } = net;
  const nearest = once(keep, "nearest", "", () => nearestIn(readImages(DATA), d));
  const x = once(keep, "start", `${s.seed} ${mesh.sigma[0]}`, () =>
    start(pointCloud([Array(d).fill(0)]), mesh, s.seed, n)).slice();
  const xi = once(keep, "noise", s.seed, () => makeNoise(s.seed, n, d))(mesh, s.eta);
  const target = { d, denoise: (x, n, sigma, alpha, out) =>
    net.denoise(x, n, sigma, labels, s.w, out) };
  const images = run({ target, mesh, table: tableOf(mesh, s), x, xi }).states.at(-1);
  return { images, ...measure(images, labels, d, nearest) };
}

// The class that is asked for of each of n images.
export const labelsOf = ({ label }, n) =>
  Array.from({ length: n }, (_, i) => (label === "each" ? i % CLASSES : Number(label)));

// The numbers of the images: see digits.py.
function measure(images, labels, d, nearest) {
  const n = labels.length, { references } = DATA;
  const neighbours = new Float64Array(n * d), distances = [], found = [];
  for (let i = 0; i < n; i++) {
    const [distance, which] = nearest.to(images, i * d);
    neighbours.set(nearest.data.subarray(which * d, (which + 1) * d), i * d);
    distances.push(distance);
    found.push(Number(DATA.labels[which]));
  }
  const counts = labels.map(label => labels.filter(other => other === label).length);
  const [spread, error] = spreadWithin(images, labels, counts, d);
  const of = name => labels.map(label => references[name][label]);
  const shares = counts.map(count => (count - 1) / count); // n images: n - 1 degrees of freedom
  const unit = Math.sqrt(sum(of("variance").map((v, i) => shares[i] * v)) / sum(shares));
  return {
    neighbours, distances, found, own: found.filter((label, i) => label === labels[i]).length,
    distance: average(distances), distance_error: deviation(distances) / Math.sqrt(n),
    spread: spread / unit, spread_error: error / unit,
    held_distance: average(of("distance")), held_own: average(of("own")),
  };
}

// The standard deviation of a pixel within a class, and its standard error.
function spreadWithin(images, labels, counts, d) {
  const n = labels.length, means = new Float64Array(CLASSES * d);
  const each = use => labels.forEach((label, i) => {
    for (let a = 0; a < d; a++) use(i, label * d + a, images[i * d + a]);
  });
  each((i, at, pixel) => { means[at] += pixel / counts[i]; });
  const scale = n / (n - new Set(labels).size), parts = Array(n).fill(0);
  each((i, at, pixel) => { parts[i] += (scale * (pixel - means[at]) ** 2) / d; });
  const spread = Math.sqrt(average(parts));
  return [spread, deviation(parts) / Math.sqrt(n) / (2 * Math.max(spread, 1e-12))];
}

// The training images, one after the other: a letter is a pixel, from "a" for -1.
const readImages = ({ images, greys }) =>
  Float64Array.from(images, letter => (2 * (letter.charCodeAt(0) - 97)) / greys - 1);

// The nearest of the images in `data` to the one that starts at x[at]: [distance, number].
function nearestIn(data, d) {
  function to(x, at) {
    let least = Infinity, which = 0;
    for (let start = 0; start < data.length; start += d) {
      let squares = 0;
      // After each row: most images are soon farther away than the nearest.
      for (let a = 0; a < d && squares < least; a += 8) {
        for (let b = a; b < a + 8; b++) squares += (x[at + b] - data[start + b]) ** 2;
      }
      if (squares < least) [least, which] = [squares, start / d];
    }
    return [Math.sqrt(least), which];
  }
  return { data, to };
}

const sum = numbers => numbers.reduce((total, number) => total + number, 0);
const average = numbers => sum(numbers) / numbers.length;
const deviation = numbers => {
  const mean = average(numbers);
  return Math.sqrt(sum(numbers.map(x => (x - mean) ** 2)) / (numbers.length - 1));
};
