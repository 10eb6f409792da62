// Runs a figure's sampler beside the page's main thread, which then is free to draw.
//
// A worker needs the text of its program. `textOf(name)` gives that of a module with all it needs,
// as a classic script that leaves the exports in `made[name]` (sphinx_ext/live_figures.js).

// Puts questions { settings, data } to `answer`, which the module of that name exports: see runs.js.
// One question is under way at a time; of those asked meanwhile the newest waits, and the others are
// forgotten. `answered` is called with each reply. The worker is made for the first question. Where
// there is none, the answers come from here.
export function createRunner({ module, answer }, textOf, answered) {
  const keep = {};
  let worker, running = null, waiting = null;

  function begin(question) {
    running = question;
    worker ??= startWorker();
    if (worker) worker.postMessage(question);
    else setTimeout(finish, 0, null);
  }

  function finish(found) {
    const question = running;
    if (!question) return; // stopped
    const next = waiting, told = found ?? reply(answer, question, keep);
    running = waiting = null;
    if (next) begin(next); // before the picture: the worker is not to wait for that
    answered(told);
  }

  function startWorker() {
    try {
      const text = `${textOf(module)}\n(${serve})(made.${module}.answer, ${reply});`;
      const made = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
      made.onmessage = ({ data }) => finish(data);
      // A page may be forbidden workers, and may learn of it late.
      made.onerror = event => {
        event.preventDefault();
        worker = false;
        finish(null);
      };
      return made;
    } catch {
      return false;
    }
  }

  return {
    ask(question) {
      if (running) waiting = question;
      else begin(question);
    },
    get busy() { return running !== null; },
    stop() {
      running = waiting = null;
      if (worker) worker.terminate();
      worker = false;
    },
  };
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
