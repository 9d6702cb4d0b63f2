"""Rewards of the cases."""


def short(completion: str, **columns: object) -> float:
    return float(len(completion) < 4)


def all_at_once(completions: list[str]) -> list[float]:
    return [0.0 for _ in completions]
