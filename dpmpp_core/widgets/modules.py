"""One self-contained JavaScript module from several.

The files beside this one are ES modules that import each other. A page that was opened from the
disk may not import a file, and anywidget takes one text. So the modules that a widget needs are
joined into one text, dependencies first. Each inner module becomes the value of a function call,
an object of its exports, so that their private names do not meet::

    const $philox = (() => {
    ... the text of philox.js, without the word `export` ...
    return { philox4x32, batchNormals };
    })();

The outermost module is not wrapped: its exports are those of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

from .. import symbolic

__all__ = ["join", "module_source"]

_IMPORT = re.compile(
    r"^import\s+(?:\*\s+as\s+(?P<whole>[\w$]+)|\{(?P<names>[^}]*)\})\s+from\s+"
    r"(?P<quote>[\"'])\./(?P<file>[\w.-]+\.js)(?P=quote);?[ \t]*$",
    re.MULTILINE,
)
_EXPORT = re.compile(
    r"^export (?=(?:const|let|class|function\*?|async function\*?)\s+(?P<name>[\w$]+))",
    re.MULTILINE,
)
_LEFT_OVER = re.compile(r"^(?:import\b.*|export\b.*)$", re.MULTILINE)
_LEFT_OVER_IMPORT = re.compile(r"^import\b.*$", re.MULTILINE)


@lru_cache
def module_source(name: str) -> str:
    """A module of this folder with everything that it imports, as the text of one ES module.

    Args:
        name: its file name, such as ``"engine.js"``. ``"coefficients.js"`` is no file: it is
            printed by :func:`dpmpp_core.symbolic.javascript`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as :func:`join`.
    """
    return join(name, _read)


def join(name: str, read: Callable[[str], str]) -> str:
    """As :func:`module_source`, with ``read`` from a file's name to its text.

    Understood are, at the start of a line, ``import * as name from "./file.js"``, ``import { a, b
    as c } from "./file.js"``, and ``export`` before a declaration that names one thing.

    Raises:
        ValueError: for any other import, for any other export of an inner module, and for modules
            that import each other in a circle.
    """
    joined: dict[str, str] = {}

    def add(file: str, within: tuple[str, ...]) -> str:
        """The text of a file, its imports replaced; what it imports is in ``joined`` by then."""
        if file in within:
            raise ValueError("modules must not import in a circle: " + " -> ".join((*within, file)))
        text = read(file)
        for imported in dict.fromkeys(match["file"] for match in _IMPORT.finditer(text)):
            if imported not in joined:
                joined[imported] = _wrap(imported, add(imported, (*within, file)))
        text = _IMPORT.sub(_binding, text)
        _refuse(_LEFT_OVER_IMPORT, file, text)
        return text

    outermost = add(name, ())
    return "\n".join([*joined.values(), outermost])


def _read(file: str) -> str:
    if file == "coefficients.js":
        return symbolic.javascript()
    return files(__package__).joinpath(file).read_text(encoding="utf-8")


def _wrap(file: str, text: str) -> str:
    names = [match["name"] for match in _EXPORT.finditer(text)]
    text = _EXPORT.sub("", text)
    _refuse(_LEFT_OVER, file, text)
    return (
        f"const {_variable(file)} = (() => {{\n{text}\nreturn {{ {', '.join(names)} }};\n}})();\n"
    )


def _binding(match: re.Match[str]) -> str:
    """The declaration that stands where an import stood."""
    source = _variable(match["file"])
    if match["whole"]:
        return f"const {match['whole']} = {source};"
    names = re.sub(r"\s+as\s+", ": ", " ".join(match["names"].split()))
    return f"const {{ {names.rstrip(', ')} }} = {source};"


def _variable(file: str) -> str:
    return "$" + re.sub(r"\W", "_", file.removesuffix(".js"))


def _refuse(pattern: re.Pattern[str], file: str, text: str) -> None:
    found = pattern.search(text)
    if found:
        raise ValueError(f"{file} cannot be joined: it has the line {found[0]!r}")
