"""Files that a pipeline reads: whether they are there, without reading or importing anything."""

from __future__ import annotations

from pathlib import Path

from grape.compiler.graph import Stage
from grape.compiler.names import is_path, refuse
from grape.compiler.sources import PARTS
from grape.compiler.templates import parse_template
from grape.dsl.nearest import nearest
from grape.dsl.source import Span


def check_files(stage: Stage, span: Span, project: Path) -> None:
    """Refuse a data file or a model that does not exist."""
    settings = stage.settings
    if stage.verb in ("jsonl", "parquet", "csv", "hf"):
        if stage.verb != "hf":
            _check_data(settings["path"], span, project)
        else:
            _check_hub(settings["path"], span, project)
        _check_templates(stage, span)
        if not any(settings[part] is not None for part in ("prompt", "messages")):
            message = f"`{stage.name}` says neither what its prompts nor its messages are"
            refuse("G209", message, span, hint='add a template: `prompt = "{column}"`')
    elif stage.verb == "environment":
        _check_templates(stage, span)
    elif stage.verb == "pretrained":
        _check_model(settings["source"], span, project)
    elif stage.verb == "fresh":
        _check_fresh(stage, span, project)


def _inside(code: str, what: str, path: str, span: Span, project: Path) -> Path:
    """The place that a path means. Refuses one outside the project, before anything is read."""
    hint = "a run reads the folder of its pipeline file only: copy the file there"
    if not is_path(path):
        refuse(code, f"the path of the {what} is no path", span)
    place = (project / path).resolve()
    if not place.is_relative_to(project.resolve()):
        through = "" if _climbs(path) else ": a link in it leads away"
        refuse(code, f'"{path}" lies outside the project folder{through}', span, hint=hint)
    return place


def _climbs(path: str) -> bool:
    return path.startswith("/") or ".." in Path(path).parts


def _check_templates(stage: Stage, span: Span) -> None:
    for part in PARTS:
        text = stage.settings.get(part)
        if text is None:
            continue
        try:
            template = parse_template(text)
        except ValueError as error:
            refuse("G421", f"`{part}`: {error}", span)
        if part in ("messages", "desirable") and template.only is None:
            message = f"`{part}` is one column and nothing else, not a text with columns in it"
            refuse("G421", message, span, hint=f'write `{part} = "{{column}}"`')


def _check_data(path: str, span: Span, project: Path) -> None:
    file = _inside("G710", "data", path, span, project)
    if file.is_dir():
        refuse("G110", f'"{path}" is a folder, not a file', span)
    if not file.is_file():
        beside = file.parent.iterdir() if file.parent.is_dir() else ()
        close = nearest(file.name, (item.name for item in beside))
        hint = f"paths start in the folder of the pipeline file, {project}"
        if close:
            hint = f"did you mean {' or '.join(f'`{name}`' for name in close)} in the same folder?"
        refuse("G110", f'there is no file "{path}"', span, hint=hint)


def _check_hub(path: str, span: Span, project: Path) -> None:
    if not path.startswith(("./", "../")):
        if path.count("/") > 1 or not path:
            hint = 'write "organisation/name", or "./folder" for one of your own'
            refuse("G110", f'"{path}" names no data set of the hub', span, hint=hint)
    elif not _inside("G710", "data", path, span, project).is_dir():
        hint = f"paths start in the folder of the pipeline file, {project}"
        refuse("G110", f'there is no folder "{path}"', span, hint=hint)


def _check_model(source: str, span: Span, project: Path) -> None:
    if source.startswith("hf:"):
        if source.removeprefix("hf:").count("/") != 1:
            message = f'"{source}" names no model of the hub'
            refuse("G111", message, span, hint="write `hf:organisation/name`")
        return
    if source.startswith("package:"):
        _check_package(source.removeprefix("package:"), span)
        return
    place = _inside("G711", "model", source, span, project)
    if place.is_dir():
        _check_links(place, source, span, project)
        if not (place / "config.json").is_file():
            message = f'the folder "{source}" holds no model: it has no config.json'
            refuse("G111", message, span)
    elif not place.is_file():
        hint = "a model is a folder, a `.gguf` file, `package:PKG/PATH` or `hf:organisation/name`"
        refuse("G111", f'there is no model "{source}"', span, hint=hint)
    elif place.suffix != ".gguf":
        refuse("G111", f'"{source}" is neither a model folder nor a `.gguf` file', span)


def _check_links(folder: Path, shown: str, span: Span, project: Path) -> None:
    root = project.resolve()
    for item in sorted(folder.rglob("*")):
        if item.is_symlink() and not item.resolve().is_relative_to(root):
            message = f'"{shown}/{item.relative_to(folder)}" is a link out of the project folder'
            refuse("G711", message, span, hint="copy the file in its place")


def _check_package(text: str, span: Span) -> None:
    from importlib.util import find_spec

    package, _, path = text.partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None:
        hint = f"install the package that ships it, for example `pip install {package}`"
        refuse("G111", f"the Python package `{package}` is not installed", span, hint=hint)
    folders = list(spec.submodule_search_locations or [])
    if ".." in Path(path).parts or path.startswith("/") or not is_path(path):
        refuse("G711", f'"{path}" lies outside the package `{package}`', span)
    if not any((Path(folder) / path).exists() for folder in folders) or not path:
        refuse("G111", f'the package `{package}` ships no "{path}"', span)


def _check_fresh(stage: Stage, span: Span, project: Path) -> None:
    settings = stage.settings
    heads, kv_heads = settings["heads"], settings["kv_heads"] or settings["heads"]
    if settings["hidden"] % heads or (settings["hidden"] // heads) % 2:
        message = f"`hidden` ({settings['hidden']}) must be an even multiple of `heads` ({heads})"
        refuse("G202", message, span)
    if heads % kv_heads:
        refuse("G202", f"`heads` ({heads}) must be a multiple of `kv_heads` ({kv_heads})", span)
    tokenizer = settings["tokenizer"]
    if tokenizer == "trained" and not stage.inputs:
        message = "a trained tokenizer needs text: give the data as an input"
        refuse("G203", message, span, hint='write `fresh("llama", data)` or `tokenizer = "bytes"`')
    if tokenizer in ("trained", "bytes"):
        return
    if not _inside("G711", "tokenizer", tokenizer, span, project).is_dir():
        refuse("G111", f'there is no tokenizer folder "{tokenizer}"', span)
