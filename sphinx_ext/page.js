// What the buttons of a page do. The theme's own scripts need Bootstrap, 80 kB, and measure every
// box of the page before it can be used; this does the same work without either.

(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = selector => document.querySelector(selector);
  const on = (selector, event, listener) =>
    all(selector).forEach(element => element.addEventListener(event, listener));

  // --- light, dark, or as the system has it
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function setMode(mode) {
    const theme = mode === "light" || mode === "dark" ? mode : dark.matches ? "dark" : "light";
    Object.assign(root.dataset, { mode, theme });
    localStorage.setItem("mode", mode);
    localStorage.setItem("theme", theme);
  }
  setMode(root.dataset.mode || "auto");
  dark.addEventListener("change", () => setMode(root.dataset.mode));
  on(".theme-switch-button", "click", () => {
    const modes = dark.matches ? ["auto", "light", "dark"] : ["auto", "dark", "light"];
    setMode(modes[(modes.indexOf(root.dataset.mode) + 1) % modes.length]);
  });

  // --- dialogs: the search, and on a narrow screen the two tables of contents
  function openDialog(dialog) {
    const before = document.activeElement;
    dialog.showModal();
    dialog.addEventListener("close", () => before?.focus(), { once: true });
  }
  on("dialog", "click", event => {
    const { left, right, top, bottom } = event.currentTarget.getBoundingClientRect();
    const { clientX: x, clientY: y, target } = event;
    const outside = x < left || x > right || y < top || y > bottom;
    if (target === event.currentTarget && outside) target.close();
  });

  const search = one("#pst-search-dialog");
  const field = one("article form.bd-search input, .bd-search-container form.bd-search input");
  function openSearch() {
    if (field) field.focus(), field.select();
    else if (search.open) search.close();
    else openDialog(search);
  }
  const mac = /^(Mac|iPhone|iPad)/.test(navigator.platform);
  if (mac) all("kbd.kbd-shortcut__modifier").forEach(key => { key.textContent = "⌘"; });
  on(".search-button__button", "click", openSearch);
  addEventListener("keydown", event => {
    const wanted = mac ? event.metaKey && !event.ctrlKey : event.ctrlKey && !event.metaKey;
    if (!wanted || event.shiftKey || event.altKey || event.key.toLowerCase() !== "k") return;
    event.preventDefault();
    openSearch();
  });

  // What a sidebar holds, and its look, move to another element.
  function move(from, to) {
    to.append(...from.childNodes);
    to.classList.add(...from.classList);
    from.className = "";
  }
  for (const side of ["primary", "secondary"]) {
    const sidebar = one(`#pst-${side}-sidebar`), dialog = one(`#pst-${side}-sidebar-modal`);
    if (!sidebar || !dialog) continue;
    on(`.${side}-toggle`, "click", () => {
      if (side === "primary" && matchMedia("(min-width: 992px)").matches) {
        sidebar.classList.toggle("pst-sidebar-hidden");
        return;
      }
      move(sidebar, dialog);
      openDialog(dialog);
    });
    dialog.addEventListener("close", () => move(dialog, sidebar));
    dialog.addEventListener("keydown", event => {
      if (event.key === "Escape") dialog.close();
    });
    // A link within the page is followed, and the page shows.
    dialog.addEventListener("click", event => {
      if (event.target.closest("a")?.getAttribute("href")?.startsWith("#")) dialog.close();
    });
  }

  // --- menus that a button opens
  for (const button of all('[data-bs-toggle="dropdown"]')) {
    const menu = button.parentElement.querySelector(".dropdown-menu");
    const show = open => {
      menu.classList.toggle("show", open);
      button.setAttribute("aria-expanded", open);
    };
    const isOpen = () => menu.classList.contains("show");
    button.addEventListener("click", () => show(!isOpen()));
    addEventListener("click", event => {
      if (isOpen() && !button.parentElement.contains(event.target)) show(false);
    });
    button.parentElement.addEventListener("keydown", event => {
      const items = all("a, button", menu);
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape" && isOpen()) {
        show(false);
        button.focus();
      } else if (step) {
        event.preventDefault();
        show(true);
        const next = items.indexOf(document.activeElement) + step;
        items[(next + items.length) % items.length].focus();
      }
    });
  }

  globalThis.toggleFullScreen = () =>
    document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen();

  // What a button does stands in its name; whoever points at it reads it too.
  for (const button of all("[data-bs-title]")) button.title ||= button.dataset.bsTitle;

  // --- where the reader is
  const links = all("#pst-page-toc-nav a");
  const entries = all("#pst-page-toc-nav .toc-entry");
  const headings = new Map();
  for (const link of links) {
    const section = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    const heading = section?.querySelector("h1, h2, h3, h4, h5, h6") ?? section;
    if (heading) headings.set(heading, link);
  }
  function mark(link) {
    for (const other of links) {
      other.classList.toggle("active", other === link);
      if (other === link) other.setAttribute("aria-current", "true");
      else other.removeAttribute("aria-current");
    }
    for (const entry of entries) entry.classList.toggle("active", entry.contains(link));
  }
  const seen = new IntersectionObserver(changes => {
    const last = changes.filter(change => change.isIntersecting).pop();
    if (last) mark(headings.get(last.target));
  }, { rootMargin: "0px 0px -70% 0px" });
  for (const heading of headings.keys()) seen.observe(heading);

  const helper = one(".sbt-scroll-pixel-helper");
  if (helper) {
    new IntersectionObserver(([change]) =>
      document.body.classList.toggle("scrolled", change.boundingClientRect.y < 0),
    ).observe(helper);
  }
  // The way to the top is offered to whoever turns round.
  const up = one("#pst-back-to-top");
  let before = 0;
  addEventListener("scroll", () => {
    if (up) up.style.display = scrollY > 200 && scrollY < before ? "block" : "none";
    before = scrollY;
  }, { passive: true });
  up?.addEventListener("click", () => scrollTo({ top: 0 }));

  const sidebar = one("div.bd-sidebar-primary"), kept = sessionStorage.getItem("sidebar-scroll-top");
  if (sidebar && kept) sidebar.scrollTop = Number(kept);
  addEventListener("pagehide", () => {
    if (sidebar) sessionStorage.setItem("sidebar-scroll-top", sidebar.scrollTop);
  });

  // --- what is wider than its box scrolls there, and with the keyboard too

  // Each can be reached until the browser has laid it out, which it does when the reader comes near:
  // to measure them all at once would keep a phone busy. Then only those that scroll can. Another
  // width starts again: what was measured may be out of sight by then, and is not laid out.
  const content = one("#main-content") ?? document.body;
  const boxes = all(
    "pre, div.math mjx-container, .cell_output, .cell_output figure, .cell_output > .output, "
      + ".pst-scrollable-table-container",
    content,
  );
  const sizes = new ResizeObserver(changes => {
    // All are measured before any is changed: each change would have the page laid out again.
    const fit = changes.map(({ target: box }) =>
      box.clientWidth && box.scrollWidth <= box.clientWidth + 1);
    changes.forEach(({ target: box }, i) => {
      if (fit[i]) box.removeAttribute("tabindex");
      else box.tabIndex = 0;
    });
  });
  // Of the page's own box, too, the observer is told when it is laid out: to ask for a width sooner
  // would have that done twice.
  let width;
  new ResizeObserver(([{ contentRect }]) => {
    if (width === contentRect.width) return;
    width = contentRect.width;
    sizes.disconnect();
    for (const box of boxes) {
      box.tabIndex = 0;
      sizes.observe(box);
    }
  }).observe(content);
})();
