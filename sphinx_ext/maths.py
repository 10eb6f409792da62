"""Sets every formula while the book is built, so that a page carries formulas and no MathJax.

MathJax runs here in V8, from two wheels, and writes what it would write in a browser: the same
html, and beside it MathML, out of sight, for whoever has the page read aloud. A formula that
MathJax cannot read is a warning, which stops the build. The style sheet and the fonts are MathJax's
own; ``assets.py`` keeps of them what the book uses.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import MiniRacer
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

STYLE = "mathjax/mathjax.css"  # below _static
FONTS = "mathjax/fonts"
# Without "noundefined": an unknown command is an error here, and no red text on the page.
PACKAGES = ("ams", "newcommand", "configmacros", "boldsymbol", "html")
PARTS = ("input/tex-base", "output/chtml", "output/chtml/fonts/tex", "a11y/assistive-mml")

# What MathJax's entry for Node needs of Node, and what is asked of it.
START = """
var global = globalThis, __dirname = "", exports = {}, state = "waiting";
var require = name => {
  if (name === "path") return { basename: () => "", dirname: () => "", resolve: () => "" };
  if (!(name in files)) throw Error(`no file ${name}`);
  return (0, eval)(files[name]);
};
"""
INIT = """
config.tex.formatError = (jax, error) => { throw Error(error.message); };
exports.init(config).then(() => { state = "ready"; }, error => { state = String(error); });
function set(tex, display) {
  try {
    const formula = MathJax.tex2chtml(tex, { display, em: 16, ex: 8, containerWidth: 1e6 });
    return "+" + MathJax.startup.adaptor.outerHTML(formula);
  } catch (error) {
    return "-" + error.message;
  }
}
"""

log = logging.getLogger(__name__)


def mathjax() -> Path:
    """The folder of MathJax 3, from the wheel that carries it."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("sphinx-mathjax-offline is not installed: see requirements.txt")
    return Path(spec.origin).parent / "static" / "mathjax"


class Typesetter:
    """MathJax with a book's macros, ready to set one formula after the other."""

    def __init__(self, macros: dict[str, Any]) -> None:
        """Start it. It takes a second.

        Args:
            macros: as in MathJax's own setting of that name, such as ``{"half": r"\\tfrac12"}``.

        Raises:
            RuntimeError: MathJax did not start.
        """
        folder = mathjax()
        parts = (*PARTS, *(f"input/tex/extensions/{name}" for name in PACKAGES))
        files = {f"/{name}.js": (folder / f"{name}.js").read_text("utf-8") for name in parts}
        config = {
            "loader": {"load": [*PARTS, *(f"[tex]/{name}" for name in PACKAGES)]},
            "startup": {"typeset": False},
            "tex": {"packages": ["base", *PACKAGES], "macros": macros},
            # All of the style sheet: which page asks for which of its rules is seen later.
            "chtml": {"fontURL": "fonts", "adaptiveCSS": False},
        }
        self._engine = MiniRacer()
        self._engine.eval(f"var files = {json.dumps(files)}, config = {json.dumps(config)};{START}")
        self._engine.eval((folder / "node-main.js").read_text("utf-8") + ";0")
        self._engine.eval(INIT)
        state = self._engine.eval("state")
        if state != "ready":
            raise RuntimeError(f"MathJax did not start: {state}")
        self._set: dict[tuple[str, bool], str] = {}

    def set(self, tex: str, display: bool) -> str:
        """The html of a formula.

        Args:
            tex: the formula, without dollar signs.
            display: whether it stands by itself, and not in a line of text.

        Raises:
            ValueError: MathJax cannot read it; the message is MathJax's.
        """
        key = tex, display
        if key not in self._set:
            answer = str(self._engine.eval(f"set({json.dumps(tex)}, {json.dumps(display)})"))
            if not answer.startswith("+"):
                raise ValueError(answer[1:])
            self._set[key] = answer[1:]
        return self._set[key]

    def style(self) -> str:
        """The style sheet for all formulas that there can be."""
        sheet = "MathJax.startup.adaptor.textContent(MathJax.chtmlStylesheet())"
        return str(self._engine.eval(sheet))


@cache
def typesetter(macros: str) -> Typesetter:
    """One for the whole build, with these macros as JSON."""
    return Typesetter(json.loads(macros))


def of_the_book(app: Sphinx) -> Typesetter:
    """With the macros in the book's settings."""
    settings: dict[str, Any] = app.config.mathjax3_config or {}
    return typesetter(json.dumps(settings.get("tex", {}).get("macros", {}), sort_keys=True))


def add_formula(page: HTML5Translator, node: nodes.Element, tex: str, display: bool) -> None:
    """Append the html of a formula, or warn that there is none."""
    try:
        page.body.append(of_the_book(page.builder.app).set(tex, display))
    except ValueError as error:
        log.warning("maths: %s in %r", error, tex, location=node)


def visit_math(page: HTML5Translator, node: nodes.math) -> None:
    """A formula in a line of text."""
    page.body.append(page.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    add_formula(page, node, node.astext(), display=False)
    page.body.append("</span>")
    raise nodes.SkipNode


def visit_math_block(page: HTML5Translator, node: nodes.math_block) -> None:
    """A formula by itself, with its number if it has one."""
    page.body.append(page.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        number = get_node_equation_number(page, node)
        page.body.append(f'<span class="eqno">({number})')
        page.add_permalink_ref(node, _("Link to this equation"))
        page.body.append("</span>")
    add_formula(page, node, node.astext() if node["nowrap"] else aligned(node.astext()), True)
    page.body.append("</div>\n")
    raise nodes.SkipNode


def aligned(tex: str) -> str:
    """Formulas with empty lines between them, or with line breaks, as one that is aligned.

    >>> aligned("a")
    'a'
    """
    parts = [part for part in tex.split("\n\n") if part.strip()]
    parts = [rf"\begin{{split}}{part}\end{{split}}" if r"\\" in part else part for part in parts]
    if len(parts) == 1:
        return parts[0]
    return r"\begin{align}\begin{aligned}" + r"\\".join(parts) + r"\end{aligned}\end{align}"


def write_style(app: Sphinx, exception: Exception | None) -> None:
    """Put the style sheet and the fonts where ``assets.py`` takes them from."""
    if exception is not None or app.builder.format != "html":
        return
    style = Path(app.outdir) / "_static" / STYLE
    if style.is_file():
        return
    fonts = Path(app.outdir) / "_static" / FONTS
    fonts.mkdir(parents=True, exist_ok=True)
    for font in (mathjax() / "output/chtml/fonts/woff-v2").glob("*.woff"):
        (fonts / font.name).write_bytes(font.read_bytes())
    style.write_text(of_the_book(app).style(), encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the renderer; ``html_math_renderer`` chooses it."""
    app.add_html_math_renderer("set", (visit_math, None), (visit_math_block, None))
    app.connect("build-finished", write_style, priority=800)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
