"""The minutes on the landing page, against the chapters as they are."""

from __future__ import annotations

import pytest
from scripts import ROOT, load

reading_time = load("tools/reading_time.py")
LANDING = (ROOT / "intro.md").read_text(encoding="utf-8")
PATHS = [found[0] for found in reading_time.CARD.finditer(LANDING)]

PAGE = """---
kernelspec:
  name: python3
---

# Four words of title

:::{admonition} A box
:class: note

Three words more.
:::

(a-target)=
Five words, and $x + y$ too.

$$
x = 1
$$

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-one
---
not_counted = 1
```

````{solution-start} ex
:class: dropdown
````
Folded words do not count.

```{code-cell} ipython3
nor_this = 2
```

````{solution-end}
````

Last words.
"""


def test_prose_is_counted_and_code_formulas_and_folded_solutions_are_not() -> None:
    words = "# Four words of title Three words more. Five words, and $x + y$ too. Last words."
    assert reading_time.prose(PAGE).split() == words.split()


def test_two_hundred_words_are_a_minute_and_three_figures_another() -> None:
    figure = "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    name: fig-a\n---\n```\n"
    assert reading_time.minutes("word " * 400) == 2
    assert reading_time.minutes("word " * 200 + "\n" + 3 * figure) == pytest.approx(2)


def test_the_landing_page_has_three_paths_that_begin_alike() -> None:
    chapters = [[page for _, page, _, _ in reading_time.CHAPTER.findall(path)] for path in PATHS]
    assert len(chapters) == 3
    assert {found[0] for found in chapters} == {"chapters/one-step"}


@pytest.mark.parametrize("path", PATHS)
def test_the_minutes_on_the_landing_page_agree_with_the_chapters(path: str) -> None:
    """Within ten per cent, or half a minute where that is more.

    ``python tools/reading_time.py --write`` puts them right.
    """
    found = reading_time.CHAPTER.findall(path)
    stated = {page: int(number) for _, page, number, _ in found}
    counted = {page: reading_time.minutes_of(page) for page in stated}
    wrong = {
        page: (stated[page], counted[page])
        for page in stated
        if abs(stated[page] - counted[page]) > max(0.5, 0.1 * counted[page])
    }
    assert wrong == {}
    total = int(reading_time.TOTAL.search(path)[2])
    assert total == pytest.approx(sum(counted.values()), rel=0.1)
