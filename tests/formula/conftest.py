"""Lets the tests of formulas share `batches.py` and `direct.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
