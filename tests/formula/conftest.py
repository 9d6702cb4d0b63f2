"""Lets the tests of formulas import each other as `formula.…`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
