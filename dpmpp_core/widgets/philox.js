// Unit normals as a pure function of (seed, node, element): Philox4x32-10 and Box-Muller.
//
// The twin of dpmpp_core/noise/philox.py, which explains it. Words are equal bit for bit; normals
// to what two libraries' log, cos and sin differ by, an ulp or so of float64.
// Source: Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405, section 3.3.

const STREAM = 0;
const ROUNDS = 10;
const UNIT = 2 ** -32;

// The high 32 bits of the product of two 32-bit words, in 16-bit halves: a product of two halves
// fits a word, and stays below 2^32 with another half added. `| 0` keeps it an integer.
function mulHigh(a, b) {
  const aHigh = a >>> 16, aLow = a & 0xffff;
  const bHigh = b >>> 16, bLow = b & 0xffff;
  const first = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
  const second = (Math.imul(aLow, bHigh) + (first & 0xffff)) | 0;
  return (Math.imul(aHigh, bHigh) + (first >>> 16) + (second >>> 16)) | 0;
}

// Ten rounds of Philox4x32 on the counter (c0, c1, c2, c3) with the key (k0, k1), all 32-bit words.
// Writes four words into `words`, a Uint32Array.
export function philox4x32(words, c0, c1, c2, c3, k0, k1) {
  for (let round = 0; round < ROUNDS; round++) {
    const left = Math.imul(c0, 0xd2511f53), leftHigh = mulHigh(c0, 0xd2511f53);
    const right = Math.imul(c2, 0xcd9e8d57), rightHigh = mulHigh(c2, 0xcd9e8d57);
    c0 = rightHigh ^ c1 ^ k0;
    c1 = right;
    c2 = leftHigh ^ c3 ^ k1;
    c3 = left;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// A seed, given as a BigInt, an integer below 2^53 or [low, high], as its two 32-bit words.
export function keyWords(seed) {
  if (Array.isArray(seed)) return seed;
  const whole = BigInt(seed);
  return [Number(whole & 0xffffffffn), Number(whole >> 32n)];
}

// The normals of one node for `samples` samples of `elements` elements each, one sample after the
// other: a Float64Array. Sample i has the seed + i, modulo 2^64.
export function batchNormals(seed, node, samples, elements) {
  const [low, high] = keyWords(seed);
  const normals = new Float64Array(samples * elements);
  const words = new Uint32Array(4);
  for (let i = 0; i < samples; i++) {
    const sum = low + i;
    const k0 = sum >>> 0, k1 = sum < 2 ** 32 ? high : high + 1;
    const end = (i + 1) * elements;
    for (let at = i * elements, quad = 0; at < end; at += 4, quad++) {
      philox4x32(words, quad, node, STREAM, 0, k0, k1);
      boxMuller(normals, at, end, words[0], words[1]);
      if (at + 2 < end) boxMuller(normals, at + 2, end, words[2], words[3]);
    }
  }
  return normals;
}

// The normals of one node for the elements 0 to count - 1 of one sample.
export function normals(seed, node, count) {
  return batchNormals(seed, node, 1, count);
}

// sqrt(-2 log u) (cos 2 pi v, sin 2 pi v), written at `at` and, unless that is past the end, behind.
function boxMuller(out, at, end, radius, angle) {
  const r = Math.sqrt(Math.log((radius + 0.5) * UNIT) * -2);
  const phi = (angle + 0.5) * (2 * Math.PI * UNIT);
  out[at] = r * Math.cos(phi);
  if (at + 1 < end) out[at + 1] = Math.sin(phi) * r;
}
