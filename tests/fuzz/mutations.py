"""Texts that are nearly Grape: shipped files and test cases, damaged at random but repeatably.

`mutations(seed)` is endless. `survives` sends a text through parsing, checking and formatting and
says what went wrong: an exception, more than `LIMIT` seconds of CPU, or a formatter that is not
idempotent. Nothing here knows what a text means.
"""

from __future__ import annotations

import random
import re
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from grape.compiler.modules import Texts
from grape.compiler.program import load
from grape.dsl.format import format_text
from grape.dsl.parse import parse
from grape.dsl.source import Source

ROOT = Path(__file__).parents[2]
LIMIT = 2.0
_TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z_0-9.%]+|\s+|.', re.DOTALL)
_ODD = ("\0", "\ufeff", "é", "𝔸", "\u202e", "\r", "\t", '"', '"""', "{", "}", "(", ")", "[", "]")
_HARSH = ("#", "\\", "1e999", "9" * 50, "-" * 40, "not " * 30, "((" * 40, "a." * 40, "1 + " * 60)


def corpus() -> list[str]:
    """Every `.grape` file that ships or that a test reads."""
    files = [*(ROOT / "pipelines").rglob("*.grape"), *(ROOT / "tests" / "cases").rglob("*.grape")]
    return [file.read_bytes().decode("utf-8", errors="replace") for file in sorted(files)]


def mutations(seed: int, texts: list[str]) -> Iterator[str]:
    """Damaged texts without end; the same ones for the same seed and corpus."""
    chance = random.Random(seed)
    while True:
        text = chance.choice(texts)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            text = chance.choice(_KINDS)(text, chance, texts)
        yield text[:20_000]


def _bytes(text: str, chance: random.Random, texts: list[str]) -> str:
    data = bytearray(text.encode("utf-8", errors="replace"))
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return data.decode("utf-8", errors="replace")


def _insertion(text: str, chance: random.Random, texts: list[str]) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + chance.choice((*_ODD, *_HARSH)) + text[at:]


def _tokens(text: str, chance: random.Random, texts: list[str]) -> str:
    """A token dropped, doubled, exchanged with another, or replaced by one of another file."""
    tokens = _TOKEN.findall(text)
    if not tokens:
        return text
    at = chance.randrange(len(tokens))
    match chance.randrange(4):
        case 0:
            del tokens[at]
        case 1:
            tokens.insert(at, tokens[at])
        case 2:
            other = chance.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        case _:
            tokens[at] = chance.choice(_TOKEN.findall(chance.choice(texts)) or [""])
    return "".join(tokens)


def _lines(text: str, chance: random.Random, texts: list[str]) -> str:
    """A run of lines dropped, repeated or moved."""
    lines = text.split("\n")
    first = chance.randrange(len(lines))
    last = min(len(lines), first + chance.randint(1, 6))
    run = lines[first:last]
    kept = lines[:first] + lines[last:]
    match chance.randrange(3):
        case 0:
            return "\n".join(kept)
        case 1:
            return "\n".join([*lines[:first], *run * chance.choice((2, 2, 30)), *lines[last:]])
        case _:
            at = chance.randint(0, len(kept))
            return "\n".join([*kept[:at], *run, *kept[at:]])


def _deletion(text: str, chance: random.Random, texts: list[str]) -> str:
    first = chance.randint(0, len(text))
    return text[:first] + text[first + chance.randint(0, 200) :]


def _splice(text: str, chance: random.Random, texts: list[str]) -> str:
    other = chance.choice(texts)
    return text[: chance.randint(0, len(text))] + other[chance.randint(0, len(other)) :]


_KINDS = (_bytes, _insertion, _tokens, _tokens, _tokens, _lines, _deletion, _splice)


class TooSlow(Exception):
    """A text took more than `LIMIT` seconds of CPU."""


@dataclass(slots=True)
class Trial:
    """Checks texts as the file `fuzzed.grape` of a project folder; imports are parsed once."""

    folder: Path
    _parsed: dict[str, tuple[object, list[object]]] = field(default_factory=dict)

    def survives(self, text: str) -> str | None:
        """None when all is well, else what happened."""
        before = signal.signal(signal.SIGVTALRM, _stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
        try:
            self._check(text)
            return None
        except TooSlow:
            return f"more than {LIMIT:g} s\n{traceback.format_exc(limit=-8)}"
        except Exception:
            return traceback.format_exc(limit=-8)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def _check(self, text: str) -> None:
        path = self.folder / "fuzzed.grape"

        def read(wanted: Path) -> str:
            return text if wanted == path else wanted.read_text(encoding="utf-8", errors="replace")

        program = load(path, texts=Texts(read, self._parse))
        for finding in program.findings:
            assert 0 <= finding.span.start <= finding.span.end <= len(finding.span.source.text)
        try:
            formatted = format_text(text)
        except ValueError:
            return
        assert format_text(formatted) == formatted, "the formatter is not idempotent"
        again, _ = parse(Source("formatted", formatted))
        if program.module.file.damaged or again.damaged:
            assert program.module.file.damaged == again.damaged, "formatting changed the syntax"
        else:
            assert program.module.file == again, "formatting changed the syntax"

    def _parse(self, source: Source):  # type: ignore[no-untyped-def]
        if not source.path.startswith("std/"):
            return parse(source)
        if source.path not in self._parsed:
            self._parsed[source.path] = parse(source)  # type: ignore[assignment]
        file, findings = self._parsed[source.path]
        return file, list(findings)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise TooSlow
