// What stands around the picture of a live figure, and when it computes and draws.

import {
  button, canvasSizes, createState, element, frames, heed, onTheme, readColours, save, settled,
  sharing,
} from "./controls.js";
import { createRunner } from "./worker.js";

// Makes a figure in `el`, and returns it.
//
//   answer    what computes its numbers, and `module`, the one that exports it: see runs.js;
//             `apart`: if an answer is arrays that hold particle after particle
//   label     what a reader hears it called
//   run       the settings from which its numbers are computed; `rest`: those that only change how
//             they are drawn
//   colours   the colours it draws with, by the names that widgets.css gives them
//   className for its own rules in widgets.css
//   view      (state) => what is its own; `state` is what createState returns, and inSight(). It is
//             an object of:
//     canvases  by name
//     body      what is above the controls; `foot`: what is below the buttons
//     controls  by setting; those that the body does not hold are put below it
//     dataOf    (settings) => what `offers` says of them, for `answer`
//     take      (answer) a new answer, or the kernel's `result`; may return what is to
//               be kept of it
//     draw      (colours, fit) draws all; fit(canvas) gives its pen and size
//     asPython  () => the code that computes what is shown
//     sheet     (colours, unit) => a canvas with the picture to be saved
//     pause     ends what moves by itself; `stop`: ends what would outlast the figure
//     more      what else the tests may read; `busy`: () => if it is still at work
export function createFigure({ model, el, textOf }, spec) {
  const { module, answer, apart, label, run, rest = [], colours, className = "", view } = spec;
  const state = createState(model, [...run, ...rest]);
  const { kernel, name, get, set, limits, settings, initial } = state;
  const say = text => { said.textContent = text; };

  const note = element("p", { className: "live-note", role: "alert", hidden: true });
  const said = element("span", { className: "live-said", role: "status" });
  const code = element("textarea", {
    className: "live-code", readOnly: true, hidden: true, spellcheck: false,
    "aria-label": "What was to be copied",
  });
  const { copyLink, forgetLink, followLink, offer, showTrouble } = sharing({
    name, note, code, say, settings, limits, set, initial,
  });
  const own = view({ ...state, inSight: () => loop.state.visible && !document.hidden });
  const loose = Object.values(own.controls).map(control => control.row)
    .filter(row => !row.parentElement);
  const whole = element("div", {
    className: `live-explorer ${className}`, role: "group", "aria-label": label,
  },
    note, ...own.body,
    element("div", { className: "live-controls" }, ...loose),
    element("div", { className: "live-buttons" },
      button("Reset", reset),
      kernel ? "" : button("Copy link", copyLink),
      button("Copy as Python", () => offer(own.asPython(), "Python copied.")),
      button("Save PNG", savePicture),
      said),
    code, ...(own.foot ?? []));
  el.classList.add("live-root");
  el.append(whole);

  let stale = true, unpainted = true, inks, result, painted = 0;
  let told; // the kernel's answer that was last taken: a new setting is not yet a new answer
  const timing = { run: 0, draw: 0, at: 0 };
  const runner = kernel ? null : createRunner({ module, answer, apart }, textOf, found => {
    take(found);
    loop.now();
  });
  const loop = frames(whole, draw);
  const redraw = () => { unpainted = true; loop.request(); };
  // Asked at once, and not with the next frame, which may be 16 ms away; but only once where several
  // settings change together.
  const rerun = () => {
    if (!stale) {
      queueMicrotask(() => {
        if (!loop.state.visible || document.hidden) return;
        ask();
        if (unpainted) loop.now(); // the kernel's answer is there
      });
    }
    stale = true;
    loop.request();
  };
  const sizes = canvasSizes(Object.values(own.canvases), redraw);

  // Asks for what the settings are now. The kernel needs no asking.
  function ask() {
    if (!stale) return;
    stale = false;
    const s = Object.fromEntries(run.map(setting => [setting, get(setting)]));
    if (runner) runner.ask({ settings: s, data: own.dataOf(s) });
    else if (get("result") && get("result") !== told) take(told = get("result"));
  }

  // An answer may be to the question before: it says which settings it was computed for.
  function take(found) {
    showTrouble(found.trouble);
    if (found.trouble) return;
    result = own.take(found) ?? found;
    timing.run = found.time ?? 0;
    unpainted = true;
  }

  function draw() {
    const began = performance.now();
    ask(); // first: what a control says may depend on the answer
    for (const [setting, control] of Object.entries(own.controls)) control.show(get(setting));
    if (!unpainted || !result) return;
    unpainted = false;
    inks ??= readColours(whole, colours);
    own.draw(inks, sizes.fit);
    painted++;
    timing.at = performance.now();
    timing.draw = timing.at - began;
  }

  function reset() {
    own.pause?.();
    forgetLink();
    set(initial);
    say("Back to the start.");
  }

  function savePicture() {
    if (!result) return;
    save(own.sheet(inks, sizes.unit(Object.values(own.canvases)[0])), name);
    say("Picture saved.");
  }

  const forgetTheme = onTheme(() => { inks = undefined; redraw(); });
  const forgetModel = heed({ model, kernel, showTrouble, followLink, events: [
    ...[...run, "offers", "result"].map(setting => [`change:${setting}`, rerun]),
    ...rest.map(setting => [`change:${setting}`, redraw]),
  ] });
  loop.request();

  return {
    get result() { return result; },
    get frames() { return painted; },
    settled: () => settled(() => runner?.busy || loop.pending || own.busy?.()),
    timing, settings, asPython: own.asPython, ...own.more,
    remove() {
      own.stop?.();
      loop.stop();
      runner?.stop();
      sizes.stop();
      forgetTheme();
      forgetModel();
    },
  };
}

// The module of a figure: what anywidget and the page ask of it.
export const liveModule = spec => ({
  async render({ model, el, textOf }) {
    el.figure = createFigure({ model, el, textOf }, spec); // what the tests read
    return el.figure.remove;
  },
});
