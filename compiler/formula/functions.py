"""The functions of formulas, by the shape of their arguments."""

from __future__ import annotations

ELEMENTWISE = frozenset(
    ["exp", "log", "log1p", "abs", "sqrt", "sigmoid", "log_sigmoid", "tanh", "sign", "detach"]
)
"""One value in, one value out, level unchanged."""

EXTREMES = {"min": "minimum", "max": "maximum"}
"""Without `per`, the smaller or larger of two or more values."""

REDUCTIONS = frozenset(["mean", "sum", "max", "min", "std", "var", "median", "count", "any", "all"])
"""`F(x per LEVEL)`."""

LINEAR_REDUCTIONS = frozenset({"mean", "sum", "count"})

ALONG_TOKENS = frozenset({"at_end", "shift", "cumsum", "reverse_cumsum"})

SIDES = frozenset({"chosen", "rejected"})

NOT_YET = frozenset({"gae", "rank"})

NAMES = ELEMENTWISE | set(EXTREMES) | REDUCTIONS | ALONG_TOKENS | SIDES | NOT_YET | {"clamp"}

BINARY = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "^": "pow",
    "==": "eq",
    "!=": "ne",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "and": "and",
    "or": "or",
}

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
BOOLEAN = COMPARISONS | {"and", "or", "not"}
