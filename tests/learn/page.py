"""The page `docs/learning.md`: the rows of the table, put into the words of `page.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from string import Template

from learn import recipes
from learn.figures import Bound, Outcome, verdict

WORDS = Path(__file__).with_name("page.md")


@dataclass(frozen=True, slots=True)
class Row:
    """One algorithm."""

    name: str
    outcomes: list[Outcome]
    bound: Bound | None = None
    absent: str = ""
    """Why there are no outcomes."""

    def line(self) -> str:
        """A line for the terminal."""
        if not self.outcomes:
            return f"{self.name:<30}{self.absent}"
        gains = "  ".join(map(_gain, self.outcomes))
        return f"{self.name:<30}{verdict(self.outcomes):<22}{gains}"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what the runs were made."""

    date: str
    cores: int
    threads: str
    python: str
    versions: dict[str, str]


def page(rows: Sequence[Row], machine: Machine) -> str:
    """The whole page in Markdown."""
    ran = [row for row in rows if row.outcomes]
    absent = [f"- `{row.name}`: {row.absent}" for row in rows if not row.outcomes]
    words = Template(WORDS.read_text(encoding="utf-8"))
    return words.substitute(
        ran=len(ran),
        learned=sum(verdict(row.outcomes) == "learns" for row in ran),
        seeds=len(recipes.SEEDS),
        rounds=recipes.ROUNDS,
        items=max((one.items for row in ran for one in row.outcomes), default=0),
        date=machine.date,
        cores=machine.cores,
        threads=machine.threads,
        python=machine.python,
        versions=", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        table="\n".join(_table(ran)),
        bounds="\n".join(_bounds(ran)),
        short="\n".join(_short(ran)) or "All of the table learn.",
        absent="\n".join(absent) or "All online algorithms are.",
        pipeline=recipes.pipeline("grpo"),
    )


def _gain(one: Outcome) -> str:
    return f"{100 * one.gain:+.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def _cells(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    seeds = [f"gain, seed {seed}" for seed in recipes.SEEDS]
    heads = ["algorithm", "start", "end", *seeds, "verdict", "s", "settings"]
    yield _cells(heads)
    yield _cells("---" for _ in heads)
    for row in rows:
        start = fmean(one.start for one in row.outcomes)
        end = fmean(one.end for one in row.outcomes)
        seconds = fmean(one.seconds for one in row.outcomes)
        gains = map(_gain, row.outcomes)
        found = [f"`{row.name}`", f"{start:.1%}", f"{end:.1%}", *gains, verdict(row.outcomes)]
        yield _cells([*found, f"{seconds:.0f}", settings(row.name)])


def settings(name: str) -> str:
    """What the pipeline of an algorithm has beside what all of them have."""
    usual = recipes.sampling_of("reinforce")
    told = {
        key: value for key, value in recipes.sampling_of(name).items() if usual.get(key) != value
    }
    told |= recipes.settings_of(name)
    chosen = recipes.CHOSEN.get(name, recipes.Chosen())
    parts = [f"`{chosen.of or name}({chosen.call})`"] if chosen.call else []
    parts += [f"`{key} = {value}`" for key, value in told.items()]
    parts += recipes.further_of(name)
    return "; ".join(part for part in (", ".join(parts), chosen.why) if part)


def _short(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if verdict(row.outcomes) != "learns":
            reason = recipes.REASONS.get(row.name, "the reason is not known")
            yield f"- `{row.name}`, {verdict(row.outcomes)}: {reason}."


def _bounds(rows: Sequence[Row]) -> Iterator[str]:
    heads = ["algorithm", "bound", "looked at", "largest left by updates", "largest at the end"]
    heads += ["further steps", "updates without a step", "kept"]
    yield _cells(heads)
    yield _cells("---" for _ in heads)
    for row in rows:
        one = row.bound
        if one is not None:
            left = "" if one.left is None else f"{one.left:.4g}"
            found = [f"`{row.name}`", f"{one.limit:g}", one.looked, left, f"{one.end:.4g}"]
            yield _cells([*found, one.fixups, one.still, "yes" if one.kept else "no"])
