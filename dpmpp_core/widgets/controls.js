// What every live figure needs besides its own picture: controls, colours, frames, links.

// --- elements ------------------------------------------------------------------------------------

// An element with properties, attributes (where the name has a hyphen, or is "role" or "for"), and
// children.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  // JupyterLab's command mode takes the arrow keys from any element that does not say this.
  if (made.matches("input, select, button, canvas, textarea")) {
    made.dataset.lmSuppressShortcuts = "true";
  }
  return made;
}

// A canvas as a reader of the page's text meets it: drawing gives it the label that says more.
export const picture = (className, properties = {}) => element("canvas", {
  className, role: "img", "aria-label": "Not yet drawn.", ...properties,
});

// The page is not to be laid out anew, nor read out, for nothing.
export function write(of, text) {
  if (of.textContent !== text) of.textContent = text;
}

// In a notebook each figure has this module for itself: a count alone would give an id twice.
const mark = Math.random().toString(36).slice(2);
let made = 0;
const freshId = () => `live-control-${mark}-${++made}`;

// A control is { row, input, show(value), choices? }: `row` is what is put on the page, `show` sets
// it from the outside. `changed(value)` is called when the reader moves it.

export function slider({ label, min, max, step, format = String, changed }) {
  const id = freshId();
  const input = element("input", { id, type: "range", min, max, step });
  const output = element("output", { for: id });
  const say = () => {
    const text = format(Number(input.value));
    if (output.value === text) return; // the page is not to be laid out anew for nothing
    output.value = text;
    input.setAttribute("aria-valuetext", text);
  };
  input.addEventListener("input", () => {
    say();
    changed(Number(input.value));
  });
  const row = element("div", { className: "live-row live-slider" },
    element("label", { htmlFor: id }, label), output, input);
  const show = (value, top = max) => {
    if (Number(input.max) !== top) input.max = top;
    if (Number(input.value) !== value) input.value = value;
    say();
  };
  return { row, input, output, show };
}

export function choice({ label, options, changed }) {
  const id = freshId();
  const input = element("select", { id });
  const offer = list => {
    input.replaceChildren(...list.map(([value, text]) => element("option", { value }, text)));
  };
  offer(options);
  input.addEventListener("change", () => changed(input.value));
  const row = element("div", { className: "live-row" },
    element("label", { htmlFor: id }, label), input);
  return { row, input, offer, show: value => { input.value = value; } };
}

// A choice of the targets that are offered now: the reader may have added one.
export function targetChoice({ get, changes }) {
  const control = choice({ label: "Target", options: [], changed: changes("target") });
  let listed;
  return { ...control, show(value) {
    const { targets } = get("offers");
    if (targets !== listed) {
      control.offer(Object.entries(targets).map(([name, { label }]) => [name, label]));
    }
    listed = targets;
    control.show(value);
  } };
}

// Numbers, whole unless told otherwise. What is out of range is set to the nearest that is not when
// the field is left.
export function count({ label, min, max, whole = true, changed }) {
  const id = freshId();
  const input = element("input", {
    id, type: "number", min, max, step: whole ? 1 : "any",
    inputMode: whole ? "numeric" : "decimal",
  });
  const row = element("div", { className: "live-row" },
    element("label", { htmlFor: id }, label), input);
  let last;
  const show = (value, top = max) => {
    if (Number(input.max) !== top) input.max = top;
    if (last === value) return; // what the reader is typing may be no value yet
    last = value;
    input.value = value;
  };
  const valid = () => input.value !== "" && input.checkValidity();
  input.addEventListener("input", () => {
    if (valid()) changed(last = Number(input.value));
  });
  input.addEventListener("change", () => {
    if (!valid()) {
      const number = Number(input.value);
      const near = input.value === "" || Number.isNaN(number) ? last
        : whole ? Math.round(number) : number;
      last = Math.min(Math.max(near, Number(input.min)), Number(input.max));
      input.value = last;
      changed(last);
    }
  });
  return { row, input, show };
}

// A figure's settings, as its model holds them, and the controls that set one of them each.
export function createState(model, names) {
  const get = setting => model.get(setting);
  const limits = () => get("offers").limits;
  const settings = () => Object.fromEntries(names.map(setting => [setting, get(setting)]));
  function set(values) {
    for (const [setting, value] of Object.entries(values)) model.set(setting, value);
    model.save_changes();
  }
  const changes = setting => value => set({ [setting]: value });
  const made = {
    kernel: typeof model.send === "function",
    name: get("name"), get, set, limits, settings, initial: settings(), changes,
    ranged(setting, label, step, format) {
      const { low, high } = limits()[setting];
      return slider({ label, min: low, max: high, step, format, changed: changes(setting) });
    },
    counted(setting, label) {
      const { low, high, whole } = limits()[setting];
      return count({ label, min: low, max: high, whole, changed: changes(setting) });
    },
    // `options`: names, or name -> what the reader sees.
    chosen(setting, label, options) {
      const pairs = Array.isArray(options) ? options.map(name => [name, name])
        : Object.entries(options);
      return choice({ label, options: pairs, changed: changes(setting) });
    },
    // The sampler's own settings, in the order in which every figure has them.
    knobs: () => ({
      schedule: made.chosen("schedule", "Schedule", get("offers").schedules),
      solver_type: made.chosen("solver_type", "History term", ["midpoint", "heun"]),
      eta: made.ranged("eta", "eta η", 0.01, value => value.toFixed(2)),
      s_noise: made.ranged("s_noise", "s_noise", 0.01, value => value.toFixed(2)),
      steps: made.ranged("steps", "Steps", 1),
    }),
  };
  return made;
}

// Lets a figure heed its model, and the page's address or the kernel; returns what ends it.
// `events`: [event, listener] of the figure's own.
export function heed({ model, kernel, events, showTrouble, followLink }) {
  const troubled = () => showTrouble(model.get("trouble"));
  const all = [...events, ["change:trouble", troubled]];
  for (const [event, listener] of all) model.on(event, listener);
  if (kernel) {
    troubled();
    model.send("shown");
  } else {
    addEventListener("hashchange", followLink);
    followLink();
  }
  return () => {
    removeEventListener("hashchange", followLink);
    for (const [event, listener] of all) model.off(event, listener);
  };
}

export function button(text, pressed, properties = {}) {
  const made = element("button", { type: "button", ...properties }, text);
  made.addEventListener("click", pressed);
  return made;
}

// --- frames --------------------------------------------------------------------------------------

// Calls `draw` at most once a frame, and never while the figure is out of sight or the page is
// hidden. `request()` asks for it; what was asked for out of sight is drawn on the return.
export function frames(el, draw) {
  const state = { visible: false };
  let wanted = false, handle = 0, seen = false; // seen: the browser has said if it is in sight
  const schedule = () => {
    if (wanted && state.visible && !handle) handle = requestAnimationFrame(frame);
  };
  const frame = () => {
    handle = 0;
    wanted = false;
    draw();
  };
  const watch = new IntersectionObserver(entries => {
    state.visible = entries.at(-1).isIntersecting;
    seen = true;
    schedule();
  });
  watch.observe(el);
  return {
    state,
    request() {
      wanted = true;
      schedule();
    },
    // Draws now, if the figure is in sight. An answer that comes from a worker is on the screen a
    // frame earlier so.
    now() {
      cancelAnimationFrame(handle);
      handle = 0;
      wanted = true;
      if (state.visible && !document.hidden) frame();
      else schedule();
    },
    get pending() { return wanted && (state.visible || !seen); },
    stop() {
      watch.disconnect();
      cancelAnimationFrame(handle);
    },
  };
}

// Waits until nothing is under way: what the tests need to know.
export async function settled(busy) {
  do await new Promise(requestAnimationFrame); while (busy());
}

// Canvases as large in pixels as they are on the screen, up to two pixels for each of css. The sizes
// are those last observed: to ask for them in a frame would make the browser lay out the page.
export function canvasSizes(canvases, changed) {
  const boxes = new Map();
  const observer = new ResizeObserver(entries => {
    for (const { target, contentRect } of entries) boxes.set(target, contentRect);
    changed();
  });
  canvases.forEach(canvas => observer.observe(canvas));
  const unitOf = () => Math.min(devicePixelRatio || 1, 2);
  return {
    // Sets the size; `unit` is a css pixel.
    fit(canvas) {
      const unit = unitOf(), box = boxes.get(canvas) ?? { width: 0, height: 0 };
      const width = Math.round(box.width * unit), height = Math.round(box.height * unit);
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
      return { pen: canvas.getContext("2d", { alpha: false }), unit, width, height };
    },
    // The pixels for each of css that the canvas has now.
    unit: canvas => canvas.width / boxes.get(canvas).width,
    stop: () => observer.disconnect(),
  };
}

export const minus = number => String(number).replace("-", "−");

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// --- colours -------------------------------------------------------------------------------------

// The figure's colours, as the style sheet sets them for the page's theme: name -> "#rrggbb".
export function readColours(el, names) {
  const style = getComputedStyle(el);
  const pen = document.createElement("canvas").getContext("2d");
  return Object.fromEntries(names.map(name => {
    pen.fillStyle = "#808080";
    pen.fillStyle = style.getPropertyValue(`--live-${name}`).trim();
    return [name, pen.fillStyle.slice(0, 7)];
  }));
}

export const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));

// Calls `changed` when the reader turns the page light or dark, in the book or in JupyterLab.
export function onTheme(changed) {
  const watch = new MutationObserver(changed);
  watch.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  watch.observe(document.body, { attributeFilter: ["data-jp-theme-light", "data-theme"] });
  return () => watch.disconnect();
}

// --- links ---------------------------------------------------------------------------------------

// The settings that the page's address carries for the figure of that name, and a sentence for each
// that it carries wrongly. `limits`: name -> { names } or { low, high, whole }.
function readLink(name, limits) {
  const [target, query = ""] = location.hash.slice(1).split("?");
  const found = {}, wrong = [];
  if (target !== `live-${name}`) return { found, wrong };
  for (const [key, text] of new URLSearchParams(query)) {
    const limit = limits[key];
    if (!limit) wrong.push(`${key} is no setting of this figure`);
    else if (limit.names) {
      if (limit.names.includes(text)) found[key] = text;
      else wrong.push(`${key} = ${text} is not one of ${limit.names.join(", ")}`);
    } else {
      const value = text.trim() === "" ? NaN : Number(text);
      const fits = value >= limit.low && value <= limit.high;
      if (fits && (!limit.whole || Number.isInteger(value))) found[key] = value;
      else {
        const kind = limit.whole ? "a whole number" : "a number";
        wrong.push(`${key} = ${text} is not ${kind} from ${limit.low} to ${limit.high}`);
      }
    }
  }
  return { found, wrong };
}

function makeLink(name, settings) {
  const address = new URL(location.href);
  address.hash = `live-${name}?${new URLSearchParams(settings)}`;
  return address.href;
}

// Copies text, and says whether it could: a page may be refused the clipboard.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

// --- taking it away ------------------------------------------------------------------------------

// What every figure does with its settings: a link that carries them, and text to copy. `note` and
// `code` are the figure's elements for what went wrong and for the text.
export function sharing({ name, note, code, say, settings, limits, set, initial }) {
  function copyLink() {
    const link = makeLink(name, settings());
    history.replaceState(history.state, "", link);
    offer(link, "Link copied. It is in the address bar too.");
  }

  function forgetLink() {
    note.hidden = true;
    if (location.hash.startsWith(`#live-${name}?`)) {
      history.replaceState(history.state, "", `#live-${name}`);
    }
  }

  function followLink() {
    const { found, wrong } = readLink(name, limits());
    if (Object.keys(found).length || wrong.length) set({ ...initial, ...found });
    warn(wrong.length
      ? `The link could not be followed in full: ${wrong.join("; ")}. For these the defaults are shown.`
      : "");
  }

  function warn(text) {
    note.hidden = !text;
    note.textContent = text;
  }

  // Settings that could not be computed: said until others could.
  let inTrouble = false;
  function showTrouble(text = "") {
    if (text || inTrouble) warn(text);
    inTrouble = Boolean(text);
  }

  async function offer(text, done) {
    const copied = await copy(text);
    code.value = text;
    code.hidden = false;
    code.rows = Math.min(30, text.split("\n").length);
    say(copied ? done : "The browser did not allow copying. The text stands below, selected.");
    if (!copied) {
      code.focus();
      code.select();
    }
  }

  return { copyLink, forgetLink, followLink, offer, showTrouble };
}

// A target as Python code.
export function targetInPython(name, data) {
  const tensor = part => `    torch.tensor(${JSON.stringify(data[part])}, dtype=torch.float64),\n`;
  const own = ["means", "covariances", "weights"].map(tensor).join("");
  if (name === "own") return `dp.GaussianMixture(\n${own})`;
  return name === "triangle" ? "dp.triangle()" : `widgets.target("${name}")`;
}

export function save(canvas, name) {
  canvas.toBlob(blob => {
    const link = element("a", { href: URL.createObjectURL(blob), download: `${name}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}
