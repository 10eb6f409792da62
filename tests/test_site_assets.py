"""What the book's pages load: one style sheet without unused rules, and formulas set in advance."""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts
from fontTools.ttLib import TTFont
from PIL import Image

assets = scripts.load("sphinx_ext/assets.py")
maths = scripts.load("sphinx_ext/maths.py")
pictures = scripts.load("sphinx_ext/pictures.py")

PAGE = '<main id="top" class="wide"><p class="note">x</p><a href="#top">y</a></main>'


def style(folder: Path, sheet: str, page: str = PAGE, script: str = "") -> str:
    (folder / "a.css").write_text(sheet)
    return str(
        assets.style_sheet(["a.css"], folder, assets.used_by([page], [script]), page + script)
    )


@pytest.mark.parametrize(
    "selector",
    [".note", "p.note", "#top .note", "main > p:not(.gone)", "a[href]::before", "*", ":root"],
)
def test_a_rule_for_what_stands_on_a_page_is_kept(tmp_path: Path, selector: str) -> None:
    assert selector in style(tmp_path, selector + " { color: red }")


@pytest.mark.parametrize(
    "selector",
    [".gone", "p.gone", "#gone p", "table", ".note > table", "p[hidden]", "p .gone:hover"],
)
def test_a_rule_for_what_stands_on_no_page_is_left_out(tmp_path: Path, selector: str) -> None:
    assert "red" not in style(tmp_path, selector + " { color: red }")
    assert "red" in style(tmp_path, f".note, {selector} {{ color: red }}")


def test_a_class_that_a_script_writes_counts_as_used(tmp_path: Path) -> None:
    sheet = ".later { color: red }"
    assert "red" not in style(tmp_path, sheet)
    assert "red" in style(tmp_path, sheet, script='box.classList.add("later")')


def test_rules_within_a_condition_are_chosen_too(tmp_path: Path) -> None:
    sheet = "@media print { .note { color: red } .gone { color: blue } }"
    assert style(tmp_path, sheet).endswith("@media print{.note{color: red}}\n")
    assert "@media" not in style(tmp_path, "@media print { .gone { color: blue } }")


def test_a_variable_that_nothing_reads_is_left_out(tmp_path: Path) -> None:
    sheet = (
        ':root { --a: url("x;--b:1"); --b: var(--c); --c: 1px; --d: 2px }'
        ".note { width: var(--b); color: red }"
    )
    text = style(tmp_path, sheet)
    assert "--b: var(--c)" in text
    assert "--c: 1px" in text
    assert "--a" not in text
    assert "--d" not in text
    assert text.endswith(".note{width: var(--b); color: red}\n")


@pytest.mark.parametrize("name", assets.OWN_STYLES)
def test_the_books_own_sheets_are_kept_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / "live").mkdir()
    sheet = ":root { --ink: red } .gone-on-all-pages { --line: 1px; color: red }"
    (tmp_path / name).write_text(sheet)
    text = assets.style_sheet([name], tmp_path, assets.used_by([PAGE], []))
    assert ":root{--ink: red}" in text
    assert ".gone-on-all-pages{--line: 1px; color: red}" in text


def test_an_imported_sheet_stands_in_its_place_with_its_addresses(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.css").write_text(".note { background: url(c.png) }")
    text = style(tmp_path, '@import "inner/b.css"; .wide { color: red }')
    assert text.index("inner/c.png") < text.index("red")


def test_a_font_keeps_the_characters_that_are_drawn_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = maths.mathjax() / "output/chtml/fonts/woff-v2/MathJax_Main-Regular.woff"
    (tmp_path / "f.woff").write_bytes(source.read_bytes())
    face = '@font-face { font-family: F; src: url("f.woff") }'
    monkeypatch.setattr(assets, "INLINE_BYTES", 0)
    style(tmp_path, face + '.note::before { font-family: F; content: "x\\3b1 " }')
    with TTFont(tmp_path / "fonts" / "f.woff") as font:
        assert ord("x") in font.getBestCmap()
        assert ord("Q") not in font.getBestCmap()


@pytest.fixture(scope="module")
def typesetter() -> object:
    return maths.Typesetter({"drift": [r"\class{drift}{#1}", 1]})


def test_a_formula_is_drawn_and_read_aloud(typesetter: object) -> None:
    html = typesetter.set(r"\drift{x}^2", False)  # type: ignore[attr-defined]
    assert "drift" in html
    assert 'mjx-c1D465 TEX-I"' in html  # U+1D465, a mathematical italic x
    assert "<mn>2</mn>" in html
    assert 'aria-hidden="true"' in html


@pytest.mark.parametrize("tex", [r"\frac{1", r"\nosuchcommand", r"x_1_2", r"\begin{align}x"])
def test_a_formula_that_cannot_be_read_is_refused(typesetter: object, tex: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        typesetter.set(tex, True)  # type: ignore[attr-defined]


def test_every_character_that_a_formula_asks_for_has_a_rule(typesetter: object) -> None:
    sheet = typesetter.style()  # type: ignore[attr-defined]
    assert ".mjx-c1D465.TEX-I::before" in sheet
    assert "MathJax_Main-Regular.woff" in sheet


def test_a_picture_keeps_every_pixel_and_tells_its_size(tmp_path: Path) -> None:
    picture = Image.effect_noise((7, 5), 90).convert("RGB")
    picture.save(tmp_path / "a.png")
    pictures.write_webp(tmp_path / "a.png", tmp_path / "out" / "a.webp")
    with Image.open(tmp_path / "out" / "a.webp") as written:
        assert written.convert("RGB").tobytes() == picture.tobytes()
    tag = pictures.with_size('<img src="_images/a.webp" />', tmp_path / "a.png", first=False)
    assert tag == '<img width="7" height="5" loading="lazy" src="_images/a.webp" />'
