"""One style sheet and one script for all pages, with nothing in them that no page uses.

The theme and the extensions bring a dozen style sheets (600 kB) and as many scripts. A reader would
wait for each of them before the first word shows. When the pages are written, this module puts the
style sheets together, in the order in which a page would load them, and leaves out every rule whose
classes, names or elements stand on no page and in no script. Of the icons' and the formulas' fonts
it keeps the characters that the remaining rules draw. The scripts follow each other in one file,
which runs when the page is there (see ``templates/layout.html``).
"""

from __future__ import annotations

import base64
import hashlib
import io
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tinycss2
from docutils import nodes
from fontTools import subset
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.util.typing import ExtensionMetadata

STYLE = "site.css"
SCRIPT = "site.js"
# The theme links to these two by itself, and Sphinx does not know of them.
THEME_STYLES = ("styles/theme.css", "styles/pydata-sphinx-theme.css")
# page.js does what this one did, and what Bootstrap and the theme's own script did.
LEFT_OUT = ("scripts/sphinx-book-theme.js",)
MATHS_STYLE = "mathjax/mathjax.css"  # written by maths.py
# Written into the page, for what the other scripts need at once; only the search needs the rest.
OPTIONS = "documentation_options.js"
SEARCH_SCRIPTS = ("searchtools.js", "language_data.js")
OWN_SCRIPT = Path(__file__).with_name("page.js")
# The book's own sheets are kept whole: the figures put names together, such as `live-${term}`, and
# no list of words says which.
OWN_STYLES = ("book.css", "live/widgets.css")
# A font so small that a request of its own would take longer.
INLINE_BYTES = 2000


# --- what a page loads


def page_scripts(script_files: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """What a page's head keeps: the scripts in the page itself, and those of its live figures."""
    scripts = list(script_files)
    inline = [js for js in scripts if not js.filename]
    live = [js for js in scripts if "/live/" in str(js.filename)]
    return list(dict.fromkeys(inline)), live


def shared_scripts(builder: StandaloneHTMLBuilder) -> list[str]:
    """The scripts that every page needs, below _static, in their order."""
    scripts = sorted(builder._orig_js_files, key=lambda js: js.priority or 500)
    names = [str(js.filename).removeprefix("_static/") for js in scripts if js.filename]
    return [name for name in dict.fromkeys(names) if name not in (OPTIONS, *LEFT_OUT)]


def shared_styles(builder: StandaloneHTMLBuilder) -> list[str]:
    """The style sheets, below _static, in their order."""
    styles = sorted(builder._orig_css_files, key=lambda css: css.priority or 500)
    names = [str(css.filename).removeprefix("_static/") for css in styles]
    return [*THEME_STYLES, MATHS_STYLE, *dict.fromkeys(names)]


def prepare_page(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Give the page's template the names of what it loads."""
    context["page_scripts"] = page_scripts
    context["site_style"], context["site_script"] = f"_static/{STYLE}", f"_static/{SCRIPT}"


# --- what the pages use


@dataclass(frozen=True)
class Used:
    """Elements, classes and ids, and attributes that stand on the pages."""

    tags: set[str]
    names: set[str]
    attributes: set[str]


def used_by(pages: Iterable[str], scripts: Iterable[str]) -> Used:
    """What stands in the pages' html, and every word of the scripts: a script may write it."""
    words = {word for script in scripts for word in re.findall(r"[\w-]+", script)}
    used = Used({word.lower() for word in words}, set(words), words | {"open", "checked"})
    for page in pages:
        used.tags.update(re.findall(r"<([a-zA-Z][\w-]*)", page))
        used.attributes.update(re.findall(r"\s([a-z][\w-]*)=", page))
        for _, value in re.findall(r"""\b(?:class|id)=(["'])(.*?)\1""", page):
            used.names.update(value.split())
    return used


def is_used(selector: list[Any], used: Used) -> bool:
    """Whether all elements, classes and names of a selector are used somewhere.

    It does not look into ``:not(...)`` and its like, and asks of an attribute only whether there is
    one of that name.
    """
    before = ""
    for token in selector:
        if token.type == "ident" and before == ".":
            if token.value not in used.names:
                return False
        elif token.type == "ident" and before != ":":
            if token.lower_value not in used.tags:
                return False
        elif token.type == "hash" and token.value not in used.names:
            return False
        elif token.type == "[] block":
            name = next((t.value for t in token.content if t.type == "ident"), "")
            if name not in used.attributes:
                return False
        before = token.value if token.type == "literal" else ""
        before = ":" if before == "::" else before
    return True


def split(tokens: list[Any]) -> Iterator[list[Any]]:
    """The selectors of a list with commas."""
    part: list[Any] = []
    for token in tokens:
        if token == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


# --- the style sheet


def rules_of(text: str, name: str, folder: Path) -> Iterator[Any]:
    """The rules of a style sheet below a folder, those that it imports included.

    Addresses are changed to what they are from that folder.
    """
    for rule in tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True):
        if rule.type == "at-rule" and rule.lower_at_keyword == "import":
            address = next(t.value for t in rule.prelude if t.type in ("string", "url"))
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), address))
            yield from rules_of((folder / path).read_text(encoding="utf-8"), path, folder)
        elif rule.type == "at-rule" and rule.lower_at_keyword == "charset":
            continue
        else:
            place(rule, posixpath.dirname(name))
            yield rule


def place(node: Any, base: str) -> None:
    """Change the addresses in a rule that stands in a file of this folder."""
    for part in (
        *(getattr(node, "content", None) or ()),
        *(getattr(node, "arguments", None) or ()),
    ):
        inside = node.type == "function" and node.lower_name == "url"
        if part.type == "url" or (part.type == "string" and inside):
            if not re.match(r"data:|[a-z]+://|#|/", part.value):
                part.value = posixpath.normpath(posixpath.join(base, part.value))
            part.representation = (
                f'url("{part.value}")' if part.type == "url" else f'"{part.value}"'
            )
        place(part, base)


def purged(rules: Iterable[Any], used: Used | None) -> Iterator[tuple[str, str, Any]]:
    """The rules that are used, or all: what stands before the braces, what within, and the rule."""
    for rule in rules:
        if rule.type == "qualified-rule":
            kept = [part for part in split(rule.prelude) if used is None or is_used(part, used)]
            content = compact(rule.content)
            if kept and content:
                yield ",".join(compact(part) for part in kept), content, rule
        elif rule.type == "at-rule":
            head = f"@{rule.at_keyword} {compact(rule.prelude)}".strip()
            if rule.lower_at_keyword in ("media", "supports", "layer", "container"):
                inner = tinycss2.parse_rule_list(
                    rule.content, skip_comments=True, skip_whitespace=True
                )
                content = "".join(f"{a}{{{b}}}" for a, b, _ in purged(inner, used))
                if content:
                    yield head, content, rule
            elif rule.content is not None:
                yield head, compact(rule.content), rule
            else:
                raise ValueError(f"a rule that cannot be put among others: {head}")
        elif rule.type == "error":
            raise ValueError(f"line {rule.source_line}: {rule.message}")


def compact(tokens: list[Any]) -> str:
    """The text of some tokens without comments and needless spaces."""
    text = "".join(
        " " if t.type == "whitespace" else t.serialize() for t in without_comments(tokens)
    )
    return text.strip().rstrip(";")


def without_comments(tokens: Iterable[Any]) -> Iterator[Any]:
    """The tokens between which no comment stands any more."""
    for token in tokens:
        if token.type != "comment":
            if getattr(token, "content", None) and not isinstance(token.content, str):
                token.content = list(without_comments(token.content))
            yield token


def style_sheet(sheets: Iterable[str], folder: Path, used: Used, scripts: str = "") -> str:
    """The style sheets below a folder as one: the book's own whole, of the others what is used."""
    kept: list[tuple[str, str, Any]] = []
    for name in sheets:
        text = (folder / name).read_text(encoding="utf-8")
        own = name in OWN_STYLES
        kept += purged(rules_of(text, name, folder), None if own else used)
        scripts += text if own else ""
    kept = without_unread(kept, scripts)
    text = "\n".join(f"{head}{{{content}}}" for head, content, _ in kept if head[0] != "@")
    text += "".join(content for head, content, _ in kept if head.startswith("@media"))
    characters = drawn(text)
    lines = []
    for head, content, _ in kept:
        if head == "@font-face":
            family = re.search(r"font-family:\s*[\"']?([^\"';]+)", content)
            if family is None or not re.search(rf"{re.escape(family[1])}\b", text):
                continue
            content = with_small_font(content, folder, characters)
            if not content:
                continue
        elif "keyframes" in head and head.split()[-1] not in text:
            continue
        lines.append(f"{head}{{{content}}}")
    return '@charset "utf-8";\n' + "\n".join(lines) + "\n"


# A variable's declaration. In its value a string may hold any character.
VARIABLE = re.compile(
    r"""(?<![\w-])(--[\w-]+)\s*:(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^;{}"'])*(?:;|$|(?=\}))"""
)


def without_unread(rules: list[tuple[str, str, Any]], scripts: str) -> list[tuple[str, str, Any]]:
    """The rules without the variables that no rule and no script reads, at any remove."""
    words = set(re.findall(r"--[\w-]+", scripts))
    while True:
        read = words | {
            name for _, content, _ in rules for name in re.findall(r"var\(\s*(--[\w-]+)", content)
        }
        kept = [
            (head, VARIABLE.sub(lambda v: v[0] if v[1] in read else "", content), rule)  # noqa: B023
            for head, content, rule in rules
        ]
        if kept == rules:
            return [rule for rule in rules if rule[1].strip(" ;")]
        rules = kept


def drawn(style: str) -> set[int]:
    """The characters in the strings of a style sheet: what it draws before and after elements."""
    strings = re.findall(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'', style)
    text = "".join(one or other for one, other in strings)
    escaped = {int(code, 16) for code in re.findall(r"\\([0-9a-fA-F]{1,6})", text)}
    return escaped | {ord(character) for character in text}


def with_small_font(content: str, folder: Path, characters: set[int]) -> str:
    """A @font-face with a font that has these characters only; empty if it has none of them."""
    addresses = re.findall(r'url\("?([^")]+)"?\)', content)
    address = next(a for a in addresses if a.endswith((".woff", ".ttf")))
    options = subset.Options(flavor="woff", layout_features=[], notdef_outline=True)
    options.name_IDs = []
    options.drop_tables += ["FFTM"]  # FontForge's own time stamp
    font = subset.load_font(str(folder / address), options)
    wanted = characters & set(font.getBestCmap())
    if wanted:
        cutter = subset.Subsetter(options)
        cutter.populate(unicodes=wanted)
        cutter.subset(font)
    elif (folder / address).stat().st_size > INLINE_BYTES:
        return ""
    # Else it is there for its measures only: MathJax has one in which everything has no width.
    data = io.BytesIO()
    font.flavor = "woff"
    font["head"].modified = font["head"].created  # no time of the build in it
    font.recalcTimestamp = False
    font.save(data)
    font.close()
    small = data.getvalue()
    if len(small) <= INLINE_BYTES:
        source = f"data:font/woff;base64,{base64.b64encode(small).decode()}"
    else:
        source = f"fonts/{posixpath.basename(address).rsplit('.', 1)[0]}.woff"
        (folder / "fonts").mkdir(exist_ok=True)
        (folder / source).write_bytes(small)
    content = re.sub(r"src:[^;]*;?", "", content, count=1).strip().rstrip(";")
    return f'{content};src:url("{source}") format("woff")'


# --- when the pages are written


def write_assets(app: Sphinx, exception: Exception | None) -> None:
    """Write the style sheet and the script, and their check sums into the pages."""
    builder = app.builder
    if exception is not None or not isinstance(builder, StandaloneHTMLBuilder):
        return
    static = Path(app.outdir) / "_static"
    if not hasattr(builder, "_orig_js_files"):
        return  # no page was written, so nothing changed
    names = shared_scripts(builder)
    texts = [(static / name).read_text(encoding="utf-8") for name in names]
    texts.append(OWN_SCRIPT.read_text(encoding="utf-8"))
    # The zero keeps a "use strict" of the first from holding for all.
    script = "0;\n" + "\n;\n".join(re.sub(r"//# sourceMappingURL=\S+", "", text) for text in texts)
    (static / SCRIPT).write_text(script, encoding="utf-8")

    pages = [page for page in Path(app.outdir).rglob("*.html") if "_static" not in page.parts]
    others = [static / name for name in SEARCH_SCRIPTS] + list((static / "live").glob("*.js"))
    html = [page.read_text(encoding="utf-8") for page in pages]
    scripts = [script, *(path.read_text(encoding="utf-8") for path in others)]
    style = style_sheet(
        shared_styles(builder), static, used_by(html, scripts), "\n".join([*html, *scripts])
    )
    (static / STYLE).write_text(style, encoding="utf-8")
    sums = {name: check_sum(static / name) for name in (STYLE, SCRIPT)}
    link = re.compile(rf'(_static/({re.escape(STYLE)}|{re.escape(SCRIPT)}))(?:\?v=\w+)?"')
    for page in pages:
        text = page.read_text(encoding="utf-8")
        new = link.sub(lambda found: f'{found[1]}?v={sums[found[2]]}"', text)
        if new != text:
            page.write_text(new, encoding="utf-8")


def check_sum(path: Path) -> str:
    """Eight characters that change with the file: a browser then asks for the new one."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the functions above."""
    app.connect("html-page-context", prepare_page, priority=900)
    app.connect("build-finished", write_assets, priority=850)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
