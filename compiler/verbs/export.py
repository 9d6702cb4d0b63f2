"""`export(model) { path = "…" }`: a model as files in Hugging Face layout."""

from __future__ import annotations

from grape.compiler.verb import Port, Settings, Verb, makes


class ExportSettings(Settings):
    path: str
    """The folder, relative to the folder of the pipeline file."""
    merge: bool = True
    """Whether an adapter is merged into the weights it belongs to."""


VERB = Verb("export", "stage", ExportSettings, makes("Files"), "1", ports=(Port("model", "Model"),))
