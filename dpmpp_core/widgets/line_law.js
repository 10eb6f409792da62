// Laws on the line, and samples of them: what two figures compute, and draw.

export const marginalSpreads = (mesh, variance) => mesh.sigma.map((sigma, k) =>
  Math.sqrt(mesh.alpha[k] * mesh.alpha[k] * variance + sigma * sigma));

export const gridOf = ({ low, high, grid }) =>
  Array.from({ length: grid }, (_, i) => low + i * ((high - low) / (grid - 1)));

// Standard deviation s of a sample, and its standard error by the delta method:
// Var(s^2) = (m4 - s^4) / n, and Var(s) = Var(s^2) / (4 s^2).
export function deviationOf(x) {
  const n = x.length;
  let mean = 0, variance = 0, fourth = 0;
  for (let i = 0; i < n; i++) mean += x[i];
  mean /= n;
  for (let i = 0; i < n; i++) {
    const square = (x[i] - mean) ** 2;
    variance += square;
    fourth += square * square;
  }
  variance /= n;
  fourth /= n;
  const ofSquare = Math.max(fourth - variance ** 2, 0) / n;
  return [Math.sqrt(variance), Math.sqrt(ofSquare / (4 * variance))];
}

// The density of a sample on the target's grid, smoothed by a Gaussian: as smoothed() in
// variance.py.
export function smoothed(x, { low, high, grid, width }) {
  const gap = (high - low) / (grid - 1);
  const shares = new Float64Array(grid);
  for (let i = 0; i < x.length; i++) {
    const place = (x[i] - low) / gap;
    if (!(place >= 0 && place < grid - 1)) continue;
    const left = Math.floor(place);
    shares[left] += 1 - (place - left);
    shares[left + 1] += place - left;
  }
  const reach = Math.ceil((5 * width) / gap);
  const total = x.length * width * Math.sqrt(2 * Math.PI);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, i) =>
    Math.exp(-0.5 * (((i - reach) * gap) / width) ** 2) / total);
  return Array.from({ length: grid }, (_, i) => {
    let sum = 0;
    for (let j = Math.max(0, i - reach); j <= Math.min(grid - 1, i + reach); j++) {
      sum += shares[j] * kernel[i - j + reach];
    }
    return sum;
  });
}
