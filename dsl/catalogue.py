"""The catalogue of findings: one file `catalogue/CODE.md` per code.

Its first line is `# CODE short-name · severity · depth`; prose says why; `## Bad` and `## Good`
each hold a fenced example; `## Seen in` may list threads where people met it. `grape explain`, the
documentation and the tests read the same files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from grape.dsl.nearest import did_you_mean

_FOLDER = Path(__file__).with_name("catalogue")
_HEAD = re.compile(r"# (G\d{3}) ([a-z0-9-]+) · (error|warning) · (lint|probe|plan|run)")
_SEEN = re.compile(r"^- (https://\S+)$", re.MULTILINE)
_EXAMPLE = re.compile(r"## (Bad|Good)\s+```grape\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a code means. `depth` is where it appears: lint, probe, plan or run; `seen` are
    addresses of issue threads in which people met it with other tools."""

    code: str
    name: str
    severity: str
    depth: str
    why: str
    bad: str
    good: str
    seen: tuple[str, ...] = ()


@cache
def codes() -> tuple[str, ...]:
    """Every code there is, in order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("G*.md")))


@cache
def entry(code: str) -> Entry:
    """The entry of a code. Raises KeyError, with a sentence, for an unknown one."""
    path = _FOLDER / f"{code}.md"
    if not path.is_file():
        raise KeyError(f"there is no finding {code}{did_you_mean(code, codes())}")
    text = path.read_text(encoding="utf-8")
    head = _HEAD.match(text)
    assert head, f"{path.name} does not begin with `# CODE name · severity · depth`"
    why = text[head.end() :].split("## Bad")[0].strip()
    examples = dict(_EXAMPLE.findall(text))
    return Entry(
        head[1],
        head[2],
        head[3],
        head[4],
        why,
        examples.get("Bad", ""),
        examples.get("Good", ""),
        tuple(_SEEN.findall(text.partition("## Seen in")[2])),
    )
