"""The functions of formulas, by the shape of their arguments."""

from __future__ import annotations

ELEMENTWISE = frozenset(
    ["exp", "log", "log1p", "abs", "sqrt", "sigmoid", "log_sigmoid", "tanh", "sign", "detach"]
)
"""One value in, one value out, level unchanged."""

EXTREMES = {"min": "minimum", "max": "maximum"}
"""Without `per`, the smaller or larger of two or more values."""

REDUCTIONS = frozenset(["mean", "sum", "max", "min", "std", "var", "median", "count", "any", "all"])
"""`F(x per LEVEL)`, one number per item of LEVEL; `where = TEST` leaves items out."""

WITHIN = frozenset(["rank", "widest"])
"""`F(x per LEVEL)`, one number per x: its place, or whether it is chosen, among those of LEVEL."""

LINEAR_REDUCTIONS = frozenset({"mean", "sum", "count"})

OPTIONS = {
    "std": ("where", "ddof", "singleton"),
    "var": ("where", "ddof", "singleton"),
    "mean": ("where", "singleton"),
    "rank": (),
    "widest": ("keep",),
}
"""Named arguments of a reduction; the others have `where` alone."""

ALONG_TOKENS = frozenset({"at_end", "shift", "cumsum", "reverse_cumsum"})

SIDES = frozenset({"chosen", "rejected"})

NAMES = (
    ELEMENTWISE
    | set(EXTREMES)
    | REDUCTIONS
    | WITHIN
    | ALONG_TOKENS
    | SIDES
    | {"clamp", "gae", "sum_of_parts", "span"}
)

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
