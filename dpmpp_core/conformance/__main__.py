"""The command ``python -m dpmpp_core.conformance``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..checks import positive
from .cases import cases, text
from .checking import check, read_answers

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 0 if every case passes, 1 if not or if refused."""
    parser = argparse.ArgumentParser(
        prog="python -m dpmpp_core.conformance",
        description="Check a port of the sampler against golden numbers.",
    )
    parser.add_argument("file", nargs="?", help="JSON with the port's states for every case")
    parser.add_argument(
        "--cases", nargs="?", const="-", metavar="OUT", help="print the cases, or write them to OUT"
    )
    parser.add_argument(
        "--noise",
        nargs="?",
        const="-",
        metavar="OUT",
        help="the same for the numbers of the bridge",
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as 've-*'")
    parser.add_argument("--tolerance", default=1e-10, metavar="T", help="1e-10 if not given")
    given = parser.parse_args(arguments)
    try:
        handed_out = False
        for name, to in (("cases.json", given.cases), ("noise.json", given.noise)):
            if to is not None:
                _hand_out(text(name), to)
                handed_out = True
        if handed_out:
            return 0
        return _report(given.file, given.only, given.tolerance)
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1


def _hand_out(content: str, to: str) -> None:
    if to != "-":
        try:
            Path(to).write_text(content, encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"{to!r} must be a file that can be written: {error.strerror}"
            ) from None
        return
    try:
        sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(file: str | None, only: str, tolerance: Any) -> int:
    if file is None:
        raise ValueError("FILE, --cases or --noise must be given")
    limit = positive("tolerance", _number(tolerance))
    wanted = [case for case in cases() if fnmatchcase(case.name, only)]
    if not wanted:
        raise ValueError(f"--only must match the name of a case, got {only!r}")
    try:
        answers = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{file!r} must be a file that can be read: {why}") from None
    verdicts = check(read_answers(answers, wanted), limit, wanted)
    width = max(len(case.name) for case in wanted)
    for verdict in verdicts:
        word = "ok  " if verdict.step is None else "FAIL"
        print(f"{word}  {verdict.case.name:{width}}  {verdict.sentence}")
    failed = [verdict.mistakes for verdict in verdicts if verdict.step is not None]
    print(f"{len(verdicts) - len(failed)} of {len(verdicts)} cases pass")
    if len(failed) > 1:
        print(_commonest(failed))
    return 1 if failed else 0


def _commonest(failed: Sequence[tuple[str, ...]]) -> str:
    """The mistake that explains most of the cases that fail, from the names for each of them."""
    counts = Counter(name for names in failed for name in names)
    # Of two that explain as many, the one that was named first.
    name, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if count == len(failed):
        return f"one mistake in all that fail: {name}"
    if count > 1:
        return f"in {count} of {len(failed)} that fail: {name}"
    return "no known mistake in more than one that fails"


def _number(text: Any) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main())
