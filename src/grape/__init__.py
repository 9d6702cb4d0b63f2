"""Grape: a declarative language for post-training language models.

`grape.load(path)` parses and checks a pipeline file; `grape.algorithm(name, …)` gives one
algorithm of the standard library as a function of tensors. Importing this module loads neither
torch nor prefect: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grape.compiler.program import Invalid as Invalid
    from grape.runtime.algorithm import algorithm as algorithm
    from grape.runtime.api import Program as Program
    from grape.runtime.api import load as load

__version__ = "0.1.0"

_HOME = {
    "Invalid": "grape.compiler.program",
    "Program": "grape.runtime.api",
    "algorithm": "grape.runtime.algorithm",
    "load": "grape.runtime.api",
}

__all__ = ["Invalid", "Program", "__version__", "algorithm", "load"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'grape' has no attribute '{name}'")
