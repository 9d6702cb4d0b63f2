"""`parquet("PATH")`: a Parquet table."""

from __future__ import annotations

from grape.compiler.sources import DataSettings, data_type
from grape.compiler.verb import Verb

VERB = Verb("parquet", "data", DataSettings, data_type, "1", literals=("path",))
