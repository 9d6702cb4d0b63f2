"""The JSON schema of SARIF 2.1.0 without its prose: a schema file in, `sarif-2.1.0.json` out.

Titles, descriptions and defaults are left out, since they constrain nothing; all else stays.
`python tests/schemas/strip.py node_modules/@microsoft/sarif-multitool-linux/sarif-2.1.0.json`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("sarif-2.1.0.json")
PROSE = ("title", "description", "default")


def stripped(node: Any, *, names: bool = False) -> Any:
    """A schema without prose; where `names`, the keys are names of properties and all stay."""
    if isinstance(node, dict):
        return {
            key: stripped(value, names=not names and key in ("properties", "definitions"))
            for key, value in node.items()
            if names or key not in PROSE
        }
    return [stripped(item) for item in node] if isinstance(node, list) else node


if __name__ == "__main__":
    official = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8-sig"))
    TARGET.write_text(json.dumps(stripped(official), indent=1) + "\n", encoding="utf-8")
