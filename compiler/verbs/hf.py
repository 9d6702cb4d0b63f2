"""`hf("org/name")`: a data set of the hub, or a folder of one, read by `datasets`."""

from __future__ import annotations

from grape.compiler.sources import DataSettings, data_type
from grape.compiler.verb import Secret, Verb


class HfSettings(DataSettings):
    subset: str | None = None
    """Which configuration of the data set; none: its only one."""
    part: str = "train"
    """Which of the data set's own parts."""
    revision: str | None = None
    """A branch, tag or commit of the hub; none: the newest."""
    token: Secret | None = None
    """`secret("NAME")` for a data set that is not public."""


VERB = Verb("hf", "data", HfSettings, data_type, "1", literals=("path",))
