// Runs a figure's sampler beside the page's main thread, which then is free to draw.
//
// A worker needs the text of its program. `textOf(name)` gives that of a module with all it needs,
// as a classic script that leaves the exports in `made[name]` (sphinx_ext/live_figures.js).

import { answer } from "./runs.js";

// Asks runs.js for the answers of a figure. One question is under way at a time; of those asked
// meanwhile the newest waits, and the others are forgotten. `answered` is called with each answer.
// The worker is made for the first question. Where there is none, the answers come from here.
export function createRunner(figure, textOf, answered) {
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
    const next = waiting, reply = found ?? answer(figure, question, keep);
    running = waiting = null;
    if (next) begin(next); // before the picture: the worker is not to wait for that
    answered(reply);
  }

  function startWorker() {
    try {
      const text = `${textOf("runs")}\n(${serve})("${figure}", made.runs.answer);`;
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

// What the worker does: this function's text is a part of its program. The arrays of an answer are
// given to the page, not copied.
function serve(figure, answer) {
  const keep = {};
  const buffers = value => (ArrayBuffer.isView(value) ? [value.buffer]
    : Array.isArray(value) && ArrayBuffer.isView(value[0]) ? value.flatMap(buffers) : []);
  onmessage = ({ data: question }) => {
    const found = answer(figure, question, keep);
    postMessage(found, Object.values(found).flatMap(buffers));
  };
}
