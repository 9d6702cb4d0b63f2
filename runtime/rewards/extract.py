"""What of a completion a reward looks at: the whole text, or the last fenced block of code."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def extracted(text: str, extract: str) -> str:
    """`code`: the last fenced block, the whole text where there is none; `text`: the text."""
    if extract == "code":
        blocks = _FENCE.findall(text)
        if blocks:
            return str(blocks[-1])
    return text.strip()
