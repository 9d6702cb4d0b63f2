"""Lets the tests of verbs import each other as `verbs.…`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
