"""Citations by name and year, and the same words as labels in the list of references.

The bibliography styles at hand cite by name and year but number the list, and give two works of the
same people and year one citation. Here such years are told apart by a letter, in the text and in
the list: the style named ``by_name``, for ``bibtex_default_style`` and ``bibtex_reference_style``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.template import Node
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata
from sphinxcontrib.bibtex.plugin import register_plugin as register_reference_style
from sphinxcontrib.bibtex.style.referencing.basic_label import BasicLabelTextualReferenceStyle
from sphinxcontrib.bibtex.style.referencing.label import LabelReferenceStyle
from sphinxcontrib.bibtex.style.template import join, node, reference


def label(entry: Entry) -> str:
    names = [
        " ".join(map(str, [*person.rich_prelast_names, *person.rich_last_names]))
        for person in entry.persons["author"]
    ]
    people = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"{people}, {entry.fields['year']}"


class ByNameLabels(BaseLabelStyle):  # type: ignore[misc]
    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        labels = [label(entry) for entry in sorted_entries]
        total, seen = Counter(labels), Counter[str]()
        for text in labels:
            yield text if total[text] == 1 else text + chr(ord("a") + seen[text])
            seen[text] += 1


class ByName(PlainStyle):  # type: ignore[misc]
    default_label_style = ByNameLabels


@node  # type: ignore[untyped-decorator]
def year_and_letter(children: list[Any], data: dict[str, Any]) -> Text:
    return Text(data["formatted_entry"].label.rpartition(", ")[2])


class Textual(BasicLabelTextualReferenceStyle):
    """``Lu et al. [2022a]``."""

    def inner(self, role_name: str) -> Node:
        people = self.person.author_or_editor_or_title(full="s" in role_name)
        return join(sep=" ")[people, join["[", reference[year_and_letter], "]"]]


@dataclass
class ByNameReferences(LabelReferenceStyle):
    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        textual = Textual(person=self.person)
        self.role_style.update(dict.fromkeys(textual.role_names(), textual))


def setup(app: Sphinx) -> ExtensionMetadata:
    register_plugin("pybtex.style.formatting", "by_name", ByName)
    group = "sphinxcontrib.bibtex.style.referencing"
    register_reference_style(group, "by_name", ByNameReferences)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
