"""The figures' JavaScript, from several files: joined into one module, or as scripts of a page.

The files beside this one are ES modules that import each other. A page that was opened from the
disk may not import a file, and anywidget takes one text. So there are two ways around imports.

For JupyterLab the modules that a widget needs are joined into one text, dependencies first. Each
inner module becomes the value of a function call, an object of its exports, so that their private
names do not meet::

    const $philox = (() => {
    ... the text of philox.js, without the word `export` ...
    return { philox4x32, batchNormals };
    })();

The outermost module is not wrapped: its exports are those of the whole.

In a page without a kernel each module is a classic script of its own, loaded once for all figures.
It does not run but registers a function: ``sphinx_ext/live_figures.js`` calls it, and a worker gets
its text::

    (globalThis.liveModules ??= {}).bridge = {
    needs: ["philox"],
    make: ($philox) => {
    ... the text of bridge.js ...
    return { bridgeWeights, bridgeNoise };
    },
    };
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

from .. import symbolic

__all__ = ["join", "module_source", "read_module", "scripts"]

_IMPORT = re.compile(
    r"^import\s+(?:\*\s+as\s+(?P<whole>[\w$]+)|\{(?P<names>[^}]*)\})\s+from\s+"
    r"(?P<quote>[\"'])\./(?P<file>[\w.-]+\.js)(?P=quote);?[ \t]*$",
    re.MULTILINE,
)
_EXPORT = re.compile(
    r"^export (?=(?:const|let|class|function\*?|async function\*?)\s+(?P<name>[\w$]+))",
    re.MULTILINE,
)
_DEFAULT = re.compile(r"^export default ", re.MULTILINE)
_LEFT_OVER = re.compile(r"^(?:import\b.*|export\b.*)$", re.MULTILINE)
_LEFT_OVER_IMPORT = re.compile(r"^import\b.*$", re.MULTILINE)


@lru_cache
def module_source(name: str) -> str:
    """A module of this folder with everything that it imports, as the text of one ES module.

    Args:
        name: its file name, such as ``"engine.js"``. ``"coefficients.js"`` is no file: it is
            printed by :func:`dpmpp_core.symbolic.javascript`, as ``"digits_data.js"`` is by
            :func:`dpmpp_core.widgets.digits.page_data`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as :func:`join`.
    """
    return join(name, read_module)


def join(name: str, read: Callable[[str], str]) -> str:
    """As :func:`module_source`, with ``read`` from a file's name to its text.

    Understood are, at the start of a line, ``import * as name from "./file.js"``, ``import { a, b
    as c } from "./file.js"``, and ``export`` before a declaration that names one thing.

    Raises:
        ValueError: for any other import, for any other export of an inner module, and for modules
            that import each other in a circle.
    """
    texts = _texts(name, read)
    outermost = texts.pop(name)
    inner = (
        f"const {_variable(file)} = (() => {{\n{_body(file, text)}}})();\n"
        for file, text in texts.items()
    )
    return "\n".join([*inner, _bound(name, outermost)])


def scripts(name: str, read: Callable[[str], str] | None = None) -> dict[str, str]:
    """A module and everything that it imports as classic scripts, by file name.

    They stand in the order in which a page may load them: what is needed comes first.

    Raises:
        FileNotFoundError, ValueError: as :func:`module_source`; the module itself, unlike those
            that it imports, may have a default export.
    """
    texts = _texts(name, read or read_module)
    # An inner module with a default export could not be joined, and is refused here too.
    texts[name] = _DEFAULT.sub("export const $default = ", texts[name])
    return {file: _script(file, text) for file, text in texts.items()}


def _script(file: str, text: str) -> str:
    needs = _imports(text)
    stems = ", ".join(f'"{_stem(need)}"' for need in needs)
    return (
        f"(globalThis.liveModules ??= {{}}).{_stem(file)} = {{\n"
        f"needs: [{stems}],\n"
        f'make: ({", ".join(map(_variable, needs))}) => {{\n"use strict";\n'
        f"{_body(file, text)}}},\n}};\n"
    )


def read_module(file: str) -> str:
    """The text of a file of this folder, or of one of the two that are printed."""
    if file == "coefficients.js":
        return symbolic.javascript()
    if file == "digits_data.js":
        from .digits import page_data  # which needs this module first

        return page_data()
    return files(__package__).joinpath(file).read_text(encoding="utf-8")


def _texts(name: str, read: Callable[[str], str]) -> dict[str, str]:
    """The text of a file and of all that it imports, by file name, dependencies first."""
    found: dict[str, str] = {}

    def add(file: str, within: tuple[str, ...]) -> None:
        if file in within:
            raise ValueError("modules must not import in a circle: " + " -> ".join((*within, file)))
        if file not in found:
            text = read(file)
            for imported in _imports(text):
                add(imported, (*within, file))
            found[file] = text

    add(name, ())
    return found


def _imports(text: str) -> list[str]:
    return list(dict.fromkeys(match["file"] for match in _IMPORT.finditer(text)))


def _body(file: str, text: str) -> str:
    """The inside of a function that returns the exports of a module."""
    names = [match["name"] for match in _EXPORT.finditer(text)]
    text = _EXPORT.sub("", _bound(file, text))
    _refuse(_LEFT_OVER, file, text)
    exports = ("default: $default" if name == "$default" else name for name in names)
    return f"{text}\nreturn {{ {', '.join(exports)} }};\n"


def _bound(file: str, text: str) -> str:
    """A text whose imports are declarations."""
    text = _IMPORT.sub(_binding, text)
    _refuse(_LEFT_OVER_IMPORT, file, text)
    return text


def _binding(match: re.Match[str]) -> str:
    """The declaration that stands where an import stood."""
    source = _variable(match["file"])
    if match["whole"]:
        return f"const {match['whole']} = {source};"
    names = re.sub(r"\s+as\s+", ": ", " ".join(match["names"].split()))
    return f"const {{ {names.rstrip(', ')} }} = {source};"


def _stem(file: str) -> str:
    return re.sub(r"\W", "_", file.removesuffix(".js"))


def _variable(file: str) -> str:
    return "$" + _stem(file)


def _refuse(pattern: re.Pattern[str], file: str, text: str) -> None:
    found = pattern.search(text)
    if found:
        raise ValueError(f"{file} cannot be joined: it has the line {found[0]!r}")
