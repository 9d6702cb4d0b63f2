"""Every algorithm of the library written directly in torch, on padded tensors.

Written from the formulas alone, with loops over groups and rows, and sharing no code with Grape.
Each function returns what is minimised.
"""

from formula.direct import credit, preferences, standards, surrogates
from formula.direct.base import DIRECT, B

__all__ = ["DIRECT", "B", "credit", "preferences", "standards", "surrogates"]
