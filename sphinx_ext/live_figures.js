// Shows the live figures of a page that has no kernel behind it.
//
// A figure's module is the one that anywidget loads in Jupyter. It asks for a model, which there is
// the kernel's, and here is a plain object. The module's source arrives as text, in a classic
// script: a page opened from the disk may not fetch, and may not import a file.

(() => {
  class Model {
    constructor(state) {
      this.state = state;
      this.changed = new Set();
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

  const modules = new Map();
  const load = name => {
    if (!modules.has(name)) {
      const source = new Blob([globalThis.liveFigureSources[name]], { type: "text/javascript" });
      modules.set(name, import(URL.createObjectURL(source)));
    }
    return modules.get(name);
  };

  async function mount(figure) {
    seen.unobserve(figure);
    if (figure.dataset.mounted) return;
    figure.dataset.mounted = "true";
    const state = JSON.parse(figure.querySelector("script").textContent);
    const { default: module } = await load(figure.dataset.module);
    const el = figure.appendChild(document.createElement("div"));
    await module.render({ model: new Model(state), el });
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
