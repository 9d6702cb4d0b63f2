"""Tools of the cases; they are read and never run."""


def calculator(expression: str) -> int:
    return sum(int(number) for number in expression.split("+"))
