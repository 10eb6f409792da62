// Shows the live figures of a page that has no kernel behind it.
//
// A figure's module is the one that anywidget loads in Jupyter. It asks for a model, which there is
// the kernel's, and here is a plain object. Each module registered itself as a function, in a
// classic script: a page opened from the disk may not fetch, and may not import a file.

(() => {
  class Model {
    constructor(state) {
      this.state = state;
      this.listeners = [];
    }
    get(name) {
      return this.state[name];
    }
    set(name, value) {
      if (this.state[name] === value) return;
      this.state[name] = value;
      this.emit(`change:${name}`);
      this.emit("change");
    }
    emit(event) {
      for (const [wanted, listener] of [...this.listeners]) if (wanted === event) listener();
    }
    on(events, listener) {
      for (const event of events.split(" ")) this.listeners.push([event, listener]);
    }
    off(events, listener) {
      this.listeners = this.listeners.filter(([event, other]) =>
        !((!events || events.split(" ").includes(event)) && (!listener || listener === other)));
    }
    save_changes() {} // there is nobody to save them for
  }

  // The scripts of the modules, asked for when the first figure is near, and run in their order.
  // Where a page has them already, there is nothing to ask for.
  const { src, dataset } = document.currentScript;
  let asked;
  const load = () => asked ??= Promise.all((dataset.scripts ?? "").split(" ").filter(Boolean).map(
    name => new Promise((resolve, reject) => {
      const script = document.createElement("script");
      Object.assign(script, { src: new URL(name, src), async: false, onload: resolve });
      script.onerror = () => reject(new Error(`no script ${name}`));
      document.head.append(script);
    })));

  // The exports of a module, made when they are first asked for.
  const made = {};
  const use = name => {
    const { needs, make } = globalThis.liveModules[name];
    return made[name] ??= make(...needs.map(use));
  };

  // The text of a script that makes a module and what it needs: a worker's program.
  function textOf(name) {
    const wanted = new Set();
    const add = module => {
      globalThis.liveModules[module].needs.forEach(add);
      wanted.add(module);
    };
    add(name);
    const lines = Array.from(wanted, module => {
      const { needs, make } = globalThis.liveModules[module];
      return `made.${module} = (${make})(${needs.map(need => `made.${need}`)});`;
    });
    return ["const made = {};", ...lines].join("\n");
  }

  async function mount(figure) {
    seen.unobserve(figure);
    if (figure.dataset.mounted) return;
    figure.dataset.mounted = "true";
    await load();
    const state = JSON.parse(figure.querySelector("script").textContent);
    const el = figure.appendChild(document.createElement("div"));
    await use(figure.dataset.module).default.render({ model: new Model(state), el, textOf });
    figure.classList.add("live"); // only now: if anything above fails, the picture stays
  }

  // A link to a figure is #live-NAME?setting=value&...
  function follow() {
    const figure = document.getElementById(location.hash.slice(1).split("?")[0]);
    if (!figure?.classList.contains("live-figure")) return;
    mount(figure).then(() => figure.scrollIntoView());
  }

  // A figure is made when it comes near the window, not before.
  const seen = new IntersectionObserver(
    entries => entries.filter(entry => entry.isIntersecting).forEach(entry => mount(entry.target)),
    { rootMargin: "400px" },
  );
  document.querySelectorAll(".live-figure").forEach(figure => seen.observe(figure));
  addEventListener("hashchange", follow);
  follow();
})();
