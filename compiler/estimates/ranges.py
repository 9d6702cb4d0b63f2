"""A number that is not known exactly: low, expected and high."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """`low` and `high` bound what is assumed, `expected` lies between; equal when it is known."""

    low: float
    expected: float
    high: float

    @staticmethod
    def known(value: float) -> Range:
        return Range(value, value, value)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, by: float) -> Range:
        return Range(self.low * by, self.expected * by, self.high * by)

    def at_most(self, limit: float) -> Range:
        """The range with every end capped."""
        return Range(min(self.low, limit), min(self.expected, limit), min(self.high, limit))

    def to_json(self) -> dict[str, int]:
        return {
            "low": round(self.low),
            "expected": round(self.expected),
            "high": round(self.high),
        }


ZERO = Range(0, 0, 0)


def size(count: float) -> str:
    """Bytes for a person: `1.25 GiB`, `340 MiB`, `12 KiB`."""
    for unit, scale in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= scale:
            return (
                f"{count / scale:.3g} {unit}"
                if count / scale < 1000
                else f"{count / scale:.0f} {unit}"
            )
    return f"{count / 1024:.0f} KiB"


def amount(count: float) -> str:
    """A count for a person: `1.35 M`, `12.4 k`, `310`."""
    for unit, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """A time for a person: `12 s`, `4 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
