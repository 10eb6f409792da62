// Runs a figure's sampler beside the page's main thread, which then is free to draw.
//
// A worker needs the text of its program. `textOf(name)` gives that of a module with all it needs,
// as a classic script that leaves the exports in `made[name]` (sphinx_ext/live_figures.js).

const PART = 500; // particles that are worth a worker of their own
const MOST = 4; // workers

// Puts questions { settings, data } to `answer`, which the module of that name exports: see runs.js.
// One question is under way at a time; of those asked meanwhile the newest waits, and the others are
// forgotten. `answered` is called with each reply. Workers are made when they are first needed: one,
// or, where `apart` says that each array of an answer holds particle after particle, one for each
// part of many. Where there is none, the answers come from here.
export function createRunner({ module, answer, apart = false }, textOf, answered) {
  const keep = {}, workers = [];
  let running = null, waiting = null, alone = false, parts, missing, program;

  function begin(question) {
    running = question;
    const questions = apart ? split(question) : [question];
    parts = [];
    missing = questions.length;
    while (!alone && workers.length < missing) startWorker(workers.length);
    if (alone) setTimeout(finish, 0, null);
    else questions.forEach((part, i) => workers[i].postMessage(part));
  }

  function finish(found) {
    const question = running;
    if (!question) return; // stopped
    const next = waiting, told = found ?? reply(answer, question, keep);
    running = waiting = null;
    if (next) begin(next); // before the picture: the workers are not to wait for that
    answered(told);
  }

  function startWorker(i) {
    try {
      program ??= URL.createObjectURL(new Blob(
        [`${textOf(module)}\n(${serve})(made.${module}.answer, ${reply});`],
        { type: "text/javascript" }));
      const made = new Worker(program);
      made.onmessage = ({ data }) => {
        if (alone) return;
        parts[i] = data;
        missing -= 1;
        if (!missing) finish(join(parts, running));
      };
      // A page may be forbidden workers, and may learn of it late.
      made.onerror = event => {
        event.preventDefault();
        if (alone) return;
        dismiss();
        finish(null);
      };
      workers.push(made);
    } catch {
      dismiss();
    }
  }

  function dismiss() {
    alone = true;
    for (const worker of workers.splice(0)) worker.terminate();
  }

  return {
    ask(question) {
      if (running) waiting = question;
      else begin(question);
    },
    get busy() { return running !== null; },
    stop() {
      running = waiting = null;
      dismiss();
    },
  };
}

// The question for each part of the particles: sample i of a seed is sample 0 of the seed + i.
function split({ settings, data }) {
  const { seed, particles } = settings;
  const most = Math.min(MOST, navigator.hardwareConcurrency);
  const count = Math.max(1, Math.min(most, Math.floor(particles / PART)));
  const edges = Array.from({ length: count + 1 }, (_, j) => Math.round(j * particles / count));
  return edges.slice(1).map((end, j) =>
    ({ settings: { ...settings, seed: seed + edges[j], particles: end - edges[j] }, data }));
}

// The whole answer: arrays one behind the other, and the time of the slowest part.
function join(parts, { settings }) {
  const trouble = parts.find(part => part.trouble);
  if (trouble || parts.length === 1) return { ...(trouble ?? parts[0]), settings };
  const whole = { ...parts[0], settings, time: Math.max(...parts.map(part => part.time)) };
  for (const [name, arrays] of Object.entries(whole)) {
    if (!ArrayBuffer.isView(arrays[0])) continue;
    whole[name] = arrays.map((_, k) => behind(parts.map(part => part[name][k])));
  }
  return whole;
}

function behind(arrays) {
  const out = new Float64Array(arrays.reduce((length, array) => length + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}

// The texts of these two functions are a part of the worker's program.

// The answer with its question, and its `time` in milliseconds; or { trouble }, a sentence, if the
// sampler refuses the settings.
function reply(answer, { settings, data }, keep) {
  const began = performance.now();
  try {
    const found = answer(settings, data, keep);
    return { ...found, settings, data, time: performance.now() - began };
  } catch (error) {
    return { trouble: `Nothing new was computed: ${error.message}`, settings };
  }
}

// What the worker does. The arrays of an answer are given to the page, not copied.
function serve(answer, reply) {
  const keep = {};
  const buffers = value => (ArrayBuffer.isView(value) ? [value.buffer]
    : Array.isArray(value) && ArrayBuffer.isView(value[0]) ? value.flatMap(buffers) : []);
  onmessage = ({ data: question }) => {
    const found = reply(answer, question, keep);
    postMessage(found, Object.values(found).flatMap(buffers));
  };
}
