// A Brownian path that any device, any number of steps and any batch size agree on.
//
// The twin of dpmpp_core/noise/bridge.py, which explains it: the same weights, computed in the same
// order. It is given philox.js's batchNormals, and imports nothing.

export const DEPTH = 11;
const LEAVES = 1 << DEPTH;
const FIRST_BLOCK = -(1 << 15);
const MOST = 12e6; // normals that are kept: 96 MB, more than any one run of a figure needs

// --- clocks --------------------------------------------------------------------------------------

// The clock as a function (a, b, origin) of lambdas a <= b: log |t(b) - t(a)|, up to a term that
// depends on origin alone. clock: "tau" or "sigma"; process: "ve", "vp" or "flow".
export function logGap({ clock = "tau", eta = 1, process = "ve" } = {}) {
  if (clock === "tau") return (a, b, origin) => logGapTau(a, b, origin, eta);
  if (process === "ve") return (a, b) => logDrop(b - a) - a;
  if (process === "vp") return logGapVP;
  return (a, b) => logDrop(b - a) - softplus(-b) - softplus(a);
}

function logGapTau(a, b, origin, eta) {
  const y = 2 * eta * (b - a);
  const slope = y > 0 ? -Math.expm1(-y) / y : 1;
  return 2 * eta * (b - origin) + Math.log((b - a) * slope);
}

function logGapVP(a, b) {
  const high = -0.5 * softplus(2 * a), low = -0.5 * softplus(2 * b);
  const squares = logDrop(2 * (b - a)) - softplus(-2 * b) - softplus(2 * a);
  return squares - high - Math.log1p(Math.exp(low - high));
}

const logDrop = x => Math.log(-Math.expm1(-x));
const softplus = x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

// --- weights -------------------------------------------------------------------------------------

export const blockNode = block => (block - FIRST_BLOCK) * 65536;

// The path at lambda, counted from the start of its block and scaled to a unit normal: an array of
// [node, weight].
export function pointRow(lam, gap) {
  const leaf = Math.floor(lam * LEAVES);
  const block = leaf >> DEPTH;
  const start = block;
  if (lam === start) return [];

  // Half the log of |t(b) - t(a)| / |t(d) - t(c)|.
  const share = (a, b, c, d) => 0.5 * (gap(a, b, lam) - gap(c, d, lam));

  const row = [[blockNode(block), Math.exp(share(start, lam, start, start + 1))]];
  for (let level = 0; level < DEPTH; level++) {
    const index = leaf >> (DEPTH - level);
    const width = 2 ** -level;
    const left = index * width, right = (index + 1) * width, middle = (index + 0.5) * width;
    let tent, other;
    if (lam < middle) {
      tent = share(left, lam, left, middle) + share(left, lam, start, lam);
      other = share(middle, right, left, right);
    } else {
      tent = share(lam, right, middle, right) + share(lam, right, start, lam);
      other = share(left, middle, left, right);
    }
    const within = index - block * 2 ** level;
    row.push([blockNode(block) + 2 ** level + within, Math.exp(tent + other)]);
  }
  const left = leaf / LEAVES, right = (leaf + 1) / LEAVES;
  const last = share(left, lam, start, lam) + share(lam, right, left, right);
  row.push([blockNode(block) + LEAVES + leaf - block * LEAVES, Math.exp(last)]);
  return row.filter(([, weight]) => weight > 0);
}

// The unit normal of the step between two lambdas start < end: `end` times the row of the one point,
// less `start` times that of the other, and the blocks between, as [node, weight].
export function increment(start, end, gap) {
  const share = (a, b) => Math.exp(0.5 * (gap(a, b, end) - gap(start, end, end)));
  const first = Math.floor(start), last = Math.floor(end);
  const blocks = [];
  for (let b = first; b < last; b++) blocks.push([blockNode(b), share(b, b + 1)]);
  return { start: share(first, start), end: share(last, end), blocks };
}

// All weights of a mesh, given as its finite lambdas in ascending order.
export function bridgeWeights(lam, clock = {}) {
  const gap = logGap(clock);
  for (let k = 1; k < lam.length; k++) {
    if (Math.floor(lam[k] * LEAVES) <= Math.floor(lam[k - 1] * LEAVES)) {
      throw new RangeError(`lam must ascend by at least 2^-${DEPTH}, got ${lam[k - 1]}, ${lam[k]}`);
    }
  }
  return {
    points: Array.from(lam, l => pointRow(l, gap)),
    increments: Array.from(lam.slice(1), (l, k) => increment(lam[k], l, gap)),
  };
}

// --- noise ---------------------------------------------------------------------------------------

// The normals of the tree for a batch: a function node -> Float64Array that draws each node once.
// They depend on neither mesh nor clock: while a reader moves eta, nothing is drawn. No more than
// MOST numbers are kept: a reader who moves the steps passes by many nodes.
export function createNormals(batchNormals, seed, samples, elements) {
  const drawn = new Map();
  return node => {
    if (!drawn.has(node)) {
      if (drawn.size * samples * elements > MOST) drawn.clear();
      drawn.set(node, batchNormals(seed, node, samples, elements));
    }
    return drawn.get(node);
  };
}

// xi of every step, each a Float64Array of `size` = samples * elements numbers.
export function bridgeNoise(weights, normalsOf, size) {
  const points = weights.points.map(row => addUp(new Float64Array(size), row, normalsOf));
  return weights.increments.map(({ start, end, blocks }, k) => {
    const xi = addUp(new Float64Array(size), blocks, normalsOf);
    const before = points[k], after = points[k + 1];
    for (let i = 0; i < size; i++) xi[i] = xi[i] - start * before[i] + end * after[i];
    return xi;
  });
}

// Adds weight * normals for every node of a row, four nodes in one pass over the batch.
function addUp(sum, row, normalsOf) {
  const size = sum.length;
  let at = 0;
  for (; at + 4 <= row.length; at += 4) {
    const [a, b, c, d] = row.slice(at, at + 4).map(([node]) => normalsOf(node));
    const [u, v, w, z] = row.slice(at, at + 4).map(([, weight]) => weight);
    for (let i = 0; i < size; i++) {
      sum[i] = sum[i] + u * a[i] + v * b[i] + w * c[i] + z * d[i];
    }
  }
  for (; at < row.length; at++) {
    const [node, weight] = row[at];
    const normals = normalsOf(node);
    for (let i = 0; i < size; i++) sum[i] += weight * normals[i];
  }
  return sum;
}
