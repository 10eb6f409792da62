// The learned denoiser of the digits: the network of dpmpp_core/digits.py, written to be fast.
//
// It is given the tensors of the file of weights, by name, and reads all sizes from their shapes.
// Numbers are doubles: a typed array of them is read without conversion. A batch of n vectors is
// one array, one vector after the other.

const ROOM = 5; // images for which a weight is read at once; a batch is filled up to a multiple
const MOST = 4e6; // numbers of modulations that are kept: 32 MB

// Tensors by name, { shape, data }. `shapes`: [name, shape] in the order of `bytes`, which is
// base64 of float16 numbers, little end first.
export function readTensors({ shapes, bytes }) {
  const text = atob(bytes);
  let at = 0;
  return Object.fromEntries(shapes.map(([name, shape]) => {
    const data = new Float64Array(shape.reduce((size, length) => size * length, 1));
    for (let i = 0; i < data.length; i++, at += 2) {
      data[i] = half(text.charCodeAt(at) | (text.charCodeAt(at + 1) << 8));
    }
    return [name, { shape, data }];
  }));
}

// The number that 16 bits stand for: a sign, five bits of exponent, ten of the fraction.
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24
    : exponent === 31 ? (fraction ? NaN : Infinity)
      : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

// The denoiser with these tensors: { d, none, denoise }. `d` numbers are an image, `none` is the
// label of no class, and `spread` the standard deviation of the images it has learned from.
export function createNet(tensors, spread) {
  const data = name => tensors[name].data;
  const layer = name => ({ weight: data(`${name}.weight`), bias: data(`${name}.bias`) });
  const blocks = [];
  for (let l = 0; `block.${l}.up.weight` in tensors; l++) {
    const [modulation, up, down] = ["modulation", "up", "down"].map(part =>
      layer(`block.${l}.${part}`));
    blocks.push({ modulation, up, down });
  }
  const first = layer("in"), last = layer("out");
  const [width, d] = tensors["in.weight"].shape, none = tensors["class.weight"].shape[0] - 1;
  const middle = Math.max(0, ...blocks.map(({ up }) => up.bias.length));

  // What a level and a class make of the blocks' layer norms: for each block, 1 + scale of every
  // number and then the shifts. No image changes it: while a reader moves eta, none is computed.
  const made = new Map();
  function modulation(sigma, label) {
    const key = `${sigma} ${label}`;
    if (!made.has(key)) {
      if (made.size * blocks.length * 2 * width > MOST) made.clear();
      const e = embedding(sigma, label);
      made.set(key, blocks.map(({ modulation }) => {
        const both = linear(modulation, e, new Float64Array(2 * width));
        for (let i = 0; i < width; i++) both[i]++;
        return both;
      }));
    }
    return made.get(key);
  }

  function embedding(sigma, label) {
    const angles = data("time.frequencies").map(f => (2 * Math.PI * f * Math.log(sigma)) / 4);
    const waves = Float64Array.of(...angles.map(Math.cos), ...angles.map(Math.sin));
    const time = layer("time"), size = time.bias.length, classes = data("class.weight");
    const e = linear(time, waves, new Float64Array(size));
    return e.map((number, i) => silu(number + classes[label * size + i]));
  }

  let room = 0, y, u, v, w, F; // arrays for `room` images

  function makeRoom(n) {
    if (n <= room) return;
    room = n;
    [y, u, v, w, F] = [d, width, width, middle, d].map(size => new Float64Array(n * size));
  }

  // F(y; level, label of each) of the images y; n is a multiple of ROOM.
  function network(n, sigma, labels) {
    const all = labels.map(label => modulation(sigma, label));
    batch(first, y, u, n, false);
    blocks.forEach(({ up, down }, l) => {
      for (let i = 0; i < n; i++) normalise(u, v, i * width, all[i][l]);
      batch(up, v, w, n, false);
      for (let i = 0, end = n * up.bias.length; i < end; i++) w[i] = silu(w[i]);
      batch(down, w, u, n, true);
    });
    for (let i = 0; i < n; i++) normalise(u, v, i * width, null);
    batch(last, v, F, n, false);
  }

  // The layer norm of one image.
  function normalise(from, to, at, both) {
    let mean = 0, squares = 0;
    for (let i = 0; i < width; i++) mean += from[at + i];
    mean /= width;
    for (let i = 0; i < width; i++) squares += (from[at + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / width + 1e-5);
    if (both) {
      for (let i = 0; i < width; i++) {
        to[at + i] = (from[at + i] - mean) * scale * both[i] + both[width + i];
      }
    } else for (let i = 0; i < width; i++) to[at + i] = (from[at + i] - mean) * scale;
  }

  // The estimates of n images x with a label each, guided: D = c_skip x + c_out F, where F is
  // F_none + guidance (F_label - F_none). One of the two is not computed where it does not count.
  function denoise(x, n, sigma, labels, guidance, out) {
    const both = guidance !== 0 && guidance !== 1;
    const all = guidance === 0 ? [] : [...labels], size = n * d;
    if (guidance !== 1) all.push(...labels.map(() => none));
    while (all.length % ROOM) all.push(none);
    makeRoom(all.length);
    const variance = sigma ** 2 + spread ** 2, scale = 1 / Math.sqrt(variance);
    for (let i = 0; i < size; i++) y[i] = scale * x[i];
    if (both) y.copyWithin(size, 0, size);
    network(all.length, sigma, all);
    const skip = spread ** 2 / variance, part = sigma * spread * scale;
    for (let i = 0; i < size; i++) {
      const known = both ? F[size + i] + guidance * (F[i] - F[size + i]) : F[i];
      out[i] = skip * x[i] + part * known;
    }
    return out;
  }

  return { d, none, denoise };
}

const silu = x => x / (1 + Math.exp(-x));

// weight x + bias of one vector.
function linear({ weight, bias }, x, out) {
  bias.forEach((sum, row) => {
    for (let k = 0; k < x.length; k++) sum += weight[row * x.length + k] * x[k];
    out[row] = sum;
  });
  return out;
}

// The same of n vectors, or that added to what is in `out`. Five of them and two rows of the weight
// in one pass: the ten sums stay in the processor's registers, and a number that is read serves two
// or five of them.
function batch({ weight, bias }, x, out, n, added) {
  const rows = bias.length, size = weight.length / rows;
  for (let i = 0; i < n; i += ROOM) {
    const a = i * size, b = a + size, c = b + size, d = c + size, e = d + size;
    const oa = i * rows, ob = oa + rows, oc = ob + rows, od = oc + rows, oe = od + rows;
    for (let p = 0; p < rows; p += 2) {
      const q = Math.min(p + 1, rows - 1); // an odd last row is computed twice
      let pa = bias[p], pb = pa, pc = pa, pd = pa, pe = pa;
      let qa = bias[q], qb = qa, qc = qa, qd = qa, qe = qa;
      for (let k = 0, j = p * size, l = q * size; k < size; k++, j++, l++) {
        const wp = weight[j], wq = weight[l];
        const xa = x[a + k], xb = x[b + k], xc = x[c + k], xd = x[d + k], xe = x[e + k];
        pa += wp * xa;
        qa += wq * xa;
        pb += wp * xb;
        qb += wq * xb;
        pc += wp * xc;
        qc += wq * xc;
        pd += wp * xd;
        qd += wq * xd;
        pe += wp * xe;
        qe += wq * xe;
      }
      if (added) {
        pa += out[oa + p]; pb += out[ob + p]; pc += out[oc + p];
        pd += out[od + p]; pe += out[oe + p];
        qa += out[oa + q]; qb += out[ob + q]; qc += out[oc + q];
        qd += out[od + q]; qe += out[oe + q];
      }
      out[oa + p] = pa; out[ob + p] = pb; out[oc + p] = pc; out[od + p] = pd; out[oe + p] = pe;
      out[oa + q] = qa; out[ob + q] = qb; out[oc + q] = qc; out[od + q] = qd; out[oe + q] = qe;
    }
  }
}
