"""A reward of the user's own."""


def short(completion: str, **columns: object) -> float:
    return float(len(completion) < 4)
