"""How long the chapters take to read: prints minutes, and with --write puts them into intro.md.

Words of prose at 200 a minute, and 20 seconds for each figure. Code, formulas of their own line and
folded solutions do not count.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS_PER_MINUTE = 200
MINUTES_PER_FIGURE = 1 / 3

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
SOLUTION = re.compile(r"^`{3,}\{solution-start\}.*?^`{3,}\{solution-end\}\n`{3,}$", re.S | re.M)
FENCED = re.compile(r"^(`{3,})[^`\n]*\n.*?^\1$", re.S | re.M)
FORMULA = re.compile(r"\$\$.*?\$\$", re.S)
# What stands at the margin for the builder: fences of boxes, their options, targets of links.
MARKUP = re.compile(r"^(:{3,}.*|:\w+:.*|\([\w-]+\)=)$", re.M)
FIGURE = re.compile(r"^ +name: fig-|^from dpmpp_core\.widgets import", re.M)

CARD = re.compile(r"^:::\{grid-item-card\}.*?^:::$", re.S | re.M)
CHAPTER = re.compile(r"(\{doc\}`(chapters/[\w-]+)`, )(\d+)( min)")
TOTAL = re.compile(r"(Together )(\d+)( minutes)")


def prose(text: str) -> str:
    for pattern in (FRONT_MATTER, SOLUTION, FENCED, FORMULA, MARKUP):
        text = pattern.sub("", text)
    return text


def minutes(text: str) -> float:
    """The reading time of a page's source."""
    words = len(prose(text).split())
    return words / WORDS_PER_MINUTE + len(FIGURE.findall(text)) * MINUTES_PER_FIGURE


def minutes_of(page: str) -> float:
    return minutes((ROOT / f"{page}.md").read_text(encoding="utf-8"))


def with_minutes(landing: str) -> str:
    """The landing page, with the minutes of each path's chapters and their sum as they are."""

    def card(found: re.Match[str]) -> str:
        # Of the rounded minutes: a reader who adds up what stands there gets the same.
        total = sum(round(minutes_of(page)) for _, page, _, _ in CHAPTER.findall(found[0]))
        text = CHAPTER.sub(lambda m: f"{m[1]}{minutes_of(m[2]):.0f}{m[4]}", found[0])
        return TOTAL.sub(rf"\g<1>{total}\g<3>", text)

    return CARD.sub(card, landing)


def main() -> None:
    landing = ROOT / "intro.md"
    text = landing.read_text(encoding="utf-8")
    if "--write" in sys.argv[1:]:
        landing.write_text(with_minutes(text), encoding="utf-8")
    for page in sorted({page for _, page, _, _ in CHAPTER.findall(text)}):
        print(f"{minutes_of(page):5.1f}  {page}")


if __name__ == "__main__":
    main()
