"""The list of references and its labels: sphinx_ext/citations.py."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from pybtex.database import BibliographyData, parse_string
from scripts import ROOT, load

ByName = load("sphinx_ext/citations.py").ByName

BOOK = (ROOT / "references.bib").read_text(encoding="utf-8")
PAGES = [ROOT / "intro.md", *(ROOT / "chapters").glob("*.md")]


def labels(source: str) -> dict[str, str]:
    data: BibliographyData = parse_string(source, "bibtex")
    style = ByName()
    entries = style.sort(data.entries.values())
    found = style.format_labels(entries)
    return {entry.key: label for entry, label in zip(entries, found, strict=True)}


@pytest.mark.parametrize(
    ("people", "label"),
    [
        ("Lévy, Paul", "Lévy, 2001"),
        ("L{\\'e}vy, Paul and del Barrio, Eustasio", "Lévy and del Barrio, 2001"),
        ("Lu, Cheng and Zhou, Yuhao and others", "Lu et al., 2001"),
    ],
)
def test_a_work_is_called_by_its_authors_and_year(people: str, label: str) -> None:
    source = f"@misc{{key, author = {{{people}}}, title = {{T}}, year = {{2001}}}}"
    assert labels(source) == {"key": label}


def test_works_of_the_same_people_and_year_get_letters_in_the_order_of_the_list() -> None:
    work = "@misc{{{key}, author = {{Song, Yang}}, title = {{{title}}}, year = {{{year}}}}}"
    source = "\n".join(
        work.format(key=key, title=title, year=year)
        for key, title, year in [("z", "B", 2021), ("y", "A", 2021), ("x", "A", 2022)]
    )
    assert labels(source) == {"y": "Song, 2021a", "z": "Song, 2021b", "x": "Song, 2022"}


def test_no_two_works_of_the_book_have_one_label() -> None:
    assert [label for label, n in Counter(labels(BOOK).values()).items() if n > 1] == []


def test_every_work_in_the_list_is_cited_on_some_page() -> None:
    cited = {
        key.strip()
        for page in PAGES
        for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", page.read_text(encoding="utf-8"))
        for key in keys.split(",")
    }
    assert set(labels(BOOK)) - cited == set()
