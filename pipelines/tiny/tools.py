"""Tools that the model of `turns.grape` may call."""

import re


def calculator(expression: str) -> int:
    """The sum of whole numbers: `1 + 2`."""
    if not re.fullmatch(r"\s*\d+(\s*\+\s*\d+)*\s*", expression):
        raise ValueError("write whole numbers with + between them")
    return sum(int(number) for number in expression.split("+"))
