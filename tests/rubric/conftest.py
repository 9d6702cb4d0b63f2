"""Lets the tests of the training core import each other as `core.…`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
