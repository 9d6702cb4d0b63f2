"""`csv("PATH")`: comma separated values with a header line."""

from __future__ import annotations

from grape.compiler.sources import DataSettings, data_type
from grape.compiler.verb import Verb

VERB = Verb("csv", "data", DataSettings, data_type, "1", literals=("path",))
