"""The reward `math`: a completion's last mathematical expression equals the answer. Needs
`math-verify`, which reads LaTeX and plain numbers and compares them symbolically."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from grape.runtime.artifacts import Completion
from grape.runtime.errors import StageError
from grape.runtime.rewards.text import Scorer, expected


def math(params: Mapping[str, Any]) -> Scorer:
    """1 where the two are equal. An answer that is no mathematics raises; a completion without any
    scores 0. The time limit is the stage's: math-verify's own would end ours."""
    try:
        from math_verify import parse, verify
    except ImportError:
        raise StageError(
            "the reward `math` needs the package math-verify",
            hint='install it: pip install "grape-lang[rewards]"',
        ) from None

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the limit we took away

    def scorer(row: Completion) -> float:
        wanted = expected(row, params["of"], "math")
        marked = "$" in wanted or "\\boxed" in wanted
        gold = parse(wanted if marked else f"${wanted}$", parsing_timeout=None)
        if all(isinstance(value, str) for value in gold):
            raise ValueError(f"the {params['of']} {wanted!r} is no mathematics")
        found = parse(row.text, parsing_timeout=None)
        return float(verify(gold, found, timeout_seconds=None))

    return scorer
