"""The pages' pictures as WebP without loss, a third of the bytes, with their size said in advance.

A page that knows how large a picture will be does not move when it comes. Pictures further down are
asked for when the reader comes near.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.util.typing import ExtensionMetadata

FOLDER = "_images"
PICTURE = re.compile(rf'<img\b[^>]*?\bsrc="(?P<folder>[./]*{FOLDER}/)(?P<name>[^"]+)\.png"[^>]*>')


def prepare_page(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Point the page to the WebP files, which are written below."""
    if not isinstance(app.builder, StandaloneHTMLBuilder) or "body" not in context:
        return
    files = {name: Path(app.srcdir) / path for path, name in app.builder.images.items()}
    seen = 0

    def mended(found: re.Match[str]) -> str:
        nonlocal seen
        source = files.get(f"{found['name']}.png")
        if source is None:
            return found[0]
        write_webp(source, Path(app.outdir) / FOLDER / f"{found['name']}.webp")
        seen += 1
        return with_size(found[0].replace(".png", ".webp"), source, first=seen == 1)

    context["body"] = PICTURE.sub(mended, context["body"])


def with_size(tag: str, source: Path, first: bool) -> str:
    """The tag with the picture's size; all but the first of a page wait until they are near."""
    size = ""
    if not re.search(r"\b(width|height)\b\s*[=:]", tag):
        with Image.open(source) as picture:
            size = f'width="{picture.width}" height="{picture.height}" '
    later = "" if first else 'loading="lazy" '
    return tag.replace("<img ", f"<img {size}{later}", 1)


def write_webp(source: Path, target: Path) -> None:
    """Write a picture as WebP, every pixel as it was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as picture:
        picture.save(target, format="WEBP", lossless=True, method=6)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the functions above."""
    app.connect("html-page-context", prepare_page, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
