"""Lets the tests import the generator as `generate.…`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
