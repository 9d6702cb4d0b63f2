"""Rewards that look at the text of a completion: exact, contains, regex, within, format.

Each maker takes the parameters of the call and returns a function of one completion that gives
1 or 0. A completion is compared as it is, apart from white space around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from grape.compiler.templates import as_text
from grape.runtime.artifacts import Completion
from grape.runtime.errors import StageError

Scorer = Callable[[Completion], float]

_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+−])?"  # a sign, where it is not a minus between two numbers
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))"
    r"(?:\.[0-9]+)?"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
)


def last_number(text: str) -> Decimal | None:
    """The last number in a text: `so it is -1,234.50.` gives -1234.50. None without a number.

    Understands signs, decimal points, thousands commas and exponents; the minus of `5-3` is no
    sign.
    """
    found = None
    for match in _NUMBER.finditer(text):
        found = match[0]
    if found is None:
        return None
    return Decimal(found.replace(",", "").replace("−", "-"))


def clusters(texts: Sequence[str], extract: str) -> list[int]:
    """The number of each text's cluster: those from which the same is extracted share one, counted
    in the order in which they come; a text that gives nothing is alone."""
    numbers: dict[object, int] = {}
    found = []
    for place, text in enumerate(texts):
        answer = last_number(text) if extract == "number" else _EXTRACT[extract](text)
        key = ("alone", place) if answer in (None, "") else answer
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


_EXTRACT: dict[str, Callable[[str], str]] = {"text": str.strip, "last_line": _last_line}


def exact(params: Mapping[str, Any]) -> Scorer:
    """1 where the extracted part of the completion equals the answer; numbers by value."""
    of, extract = params["of"], params["extract"]

    def number(row: Completion) -> float:
        wanted = last_number(expected(row, of, "exact"))
        if wanted is None:
            raise ValueError(f"the {of} {expected(row, of, 'exact')!r} contains no number")
        return float(last_number(row.text) == wanted)

    def text(row: Completion) -> float:
        pair = (_EXTRACT[extract](row.text), expected(row, of, "exact").strip())
        return float(_equal(*pair, params["ignore_case"]))

    return number if extract == "number" else text


def _equal(left: str, right: str, ignore_case: bool) -> bool:
    return left.casefold() == right.casefold() if ignore_case else left == right


def expected(row: Completion, column: str, reward: str) -> str:
    """The answer, or another column, as text. Raises StageError where the data has none."""
    value = row.answer if column == "answer" else row.columns.get(column)
    if value is None:
        raise StageError(
            f"`{reward}` compares with the {column}, and the prompt {row.prompt[:60]!r} has none",
            hint='give the data an answer: `answer = "{column}"`',
        )
    return as_text(value)


def contains(params: Mapping[str, Any]) -> Scorer:
    """1 where the completion contains a text: the given one, else the answer."""
    fixed, ignore_case = params["text"], params["ignore_case"]

    def scorer(row: Completion) -> float:
        wanted = fixed if fixed is not None else expected(row, "answer", "contains").strip()
        if ignore_case:
            return float(wanted.casefold() in row.text.casefold())
        return float(wanted in row.text)

    return scorer


def regex(params: Mapping[str, Any]) -> Scorer:
    """1 where the pattern is found anywhere in the completion."""
    pattern = re.compile(params["pattern"])
    return lambda row: float(pattern.search(row.text) is not None)


_UNITS: dict[str, Callable[[Completion], int]] = {
    "characters": lambda row: len(row.text),
    "words": lambda row: len(row.text.split()),
    "tokens": lambda row: row.drawn,
}


def within(params: Mapping[str, Any]) -> Scorer:
    """1 where the completion's length lies between `min` and `max`, both included."""
    measure, low, high = _UNITS[params["unit"]], params["min"], params["max"]
    return lambda row: float(low <= measure(row) <= high)


def form(params: Mapping[str, Any]) -> Scorer:
    """1 where the whole completion is made of the tags, each once and in order, or matches the
    pattern as a whole."""
    if params["pattern"] is not None:
        pattern = re.compile(params["pattern"], re.DOTALL)
        return lambda row: float(pattern.fullmatch(row.text.strip()) is not None)
    tags: list[str] = params["tags"]
    blocks = (rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>" for tag in tags)
    whole = re.compile(r"\s*".join(blocks), re.DOTALL)
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]

    def scorer(row: Completion) -> float:
        once = all(row.text.count(mark) == 1 for mark in marks)
        return float(once and whole.fullmatch(row.text.strip()) is not None)

    return scorer
