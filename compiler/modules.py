"""Loads a file and what it imports: `std/…` from the package, `./…` from the project folder.

Imports form a DAG inside the project; names are bound to declarations, unused and shadowing
imports reported. Nothing is evaluated here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import grape
from grape.compiler.names import Refused, is_path, refuse, unknown
from grape.dsl import ast
from grape.dsl.findings import Edit, Finding, Fix, Label
from grape.dsl.nearest import nearest
from grape.dsl.parse import parse
from grape.dsl.source import Source, Span

STD = Path(grape.__file__).parent / "pipelines" / "std"

MAX_IMPORTS = 50
"""Files that may import one another in a chain."""

Importable = ast.RewardDecl | ast.RubricDecl | ast.AlgorithmDecl


@dataclass(slots=True, eq=False)
class Module:
    """A parsed file with the declarations that its names mean."""

    path: Path
    file: ast.File
    declared: dict[str, ast.RewardDecl | ast.RubricDecl | ast.AlgorithmDecl | ast.PipelineDecl]
    imported: dict[str, tuple[Importable, Module] | None] = field(default_factory=dict)
    """None: an import that failed, reported already."""
    used: set[str] = field(default_factory=set)
    imports: dict[str, ast.Ident] = field(default_factory=dict)


def _from_disk(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


@dataclass(frozen=True, slots=True)
class Texts:
    """Where the texts of files come from, and their syntax: an editor puts its open buffers in
    front of the disk and parses again only what changed."""

    read: Callable[[Path], str] = _from_disk
    parse: Callable[[Source], tuple[ast.File, list[Finding]]] = parse


@dataclass(slots=True)
class Loading:
    """What is loaded so far; `stack` is the chain of files being loaded."""

    project: Path
    findings: list[Finding]
    modules: dict[Path, Module] = field(default_factory=dict)
    stack: list[Path] = field(default_factory=list)
    shown: dict[Path, str] = field(default_factory=dict)
    texts: Texts = field(default_factory=Texts)


def load_module(loading: Loading, path: Path, source: Source) -> Module:
    """Parse a file and everything it imports; findings go to `loading.findings`."""
    file, findings = loading.texts.parse(source)
    loading.findings += findings
    module = Module(path, file, {})
    loading.modules[path] = module
    loading.shown[path] = source.path
    loading.stack.append(path)
    for declaration in file.declarations:
        if isinstance(declaration, ast.Use):
            _use(loading, module, declaration)
    _declare(loading, module)
    loading.stack.pop()
    return module


def lookup(module: Module, name: str) -> tuple[Importable, Module] | None:
    """What a name means in a file, and the file that declares it; None when nothing.

    Raises `Refused` without a finding for an import that failed and a declaration that could not
    be read.
    """
    module.used.add(name)
    if name in module.imported:
        found = module.imported[name]
        if found is None:
            raise Refused(None)
        return found
    declared = module.declared.get(name)
    if declared is None and lost(module, name):
        raise Refused(None)
    if declared is None or isinstance(declared, ast.PipelineDecl):
        return None
    return declared, module


_BEGINS = r"(?m)^[ \t]*(?:[a-z]+[ \t]+)?"


def lost(module: Module, name: str) -> bool:
    """Whether a statement that could not be read begins like one that defines `name`: its finding
    is told, and that the name is missing then follows from it."""
    if not module.file.damaged:
        return False
    word = re.escape(name)
    return re.search(rf"{_BEGINS}{word}\b[ \t]*[(=:]", module.file.source.text) is not None


def known_names(module: Module, kind: type[Importable]) -> list[str]:
    """Names of the rewards, or of the algorithms, that a file can use."""
    imported = [name for name, found in module.imported.items() if found]
    return [name for name in (*imported, *module.declared) if _is(module, name, kind)]


def _is(module: Module, name: str, kind: type[Importable]) -> bool:
    found = module.imported.get(name)
    return isinstance(found[0] if found else module.declared.get(name), kind)


def unused_imports(module: Module) -> list[Finding]:
    """A warning for each import that nothing in the file uses."""
    found = []
    for name, ident in module.imports.items():
        if name not in module.used and module.imported.get(name) is not None:
            message = f"`{name}` is imported and never used"
            found.append(Finding("G106", message, ident.span, fix=_without(module, ident)))
    return found


def _without(module: Module, ident: ast.Ident) -> Fix:
    """The import without a name; without the whole statement when it is the only one."""
    span, text = ident.span, ident.span.source.text
    uses = (item for item in module.file.declarations if isinstance(item, ast.Use))
    use = next(item for item in uses if ident in item.names)
    start, end = span.start, span.end
    if len(use.names) == 1:
        start, end = use.span.start, use.span.end
    elif ident is use.names[-1]:
        start = use.names[-2].span.end
    else:
        end = use.names[use.names.index(ident) + 1].span.start
    clean = "#" not in text[start:end]
    return Fix("remove it", (Edit(Span(span.source, start, end), ""),), safe=clean)


def _declare(loading: Loading, module: Module) -> None:
    for declaration in module.file.declarations:
        if isinstance(declaration, ast.Use):
            continue
        name = declaration.name
        earlier = module.imports.get(name.name)
        if name.name in module.declared:
            earlier = module.declared[name.name].name
        if earlier is None:
            module.declared[name.name] = declaration
            continue
        code = "G107" if name.name in module.imports else "G102"
        verb = "imported" if code == "G107" else "declared"
        labels = (Label(earlier.span, f"{verb} here"),)
        message = f"`{name.name}` is already {verb} in this file"
        loading.findings.append(Finding(code, message, name.span, labels))


def _use(loading: Loading, module: Module, use: ast.Use) -> None:
    for ident in use.names:
        module.imported.setdefault(ident.name, None)
    try:
        place = _place(loading, module, use)
    except Refused as refused:
        if refused.finding is not None:
            loading.findings.append(refused.finding)
        return
    for ident in use.names:
        try:
            _bind(loading, module, use, ident, place)
        except Refused as refused:
            if refused.finding is not None:
                loading.findings.append(refused.finding)


def _bind(loading: Loading, module: Module, use: ast.Use, ident: ast.Ident, place: Path) -> None:
    name = ident.name
    if name in module.imports:
        labels = (Label(module.imports[name].span, "first imported here"),)
        refuse("G107", f"`{name}` is imported twice", ident.span, labels=labels)
    module.imports[name] = ident
    if place.is_dir():
        known = [file.stem for file in place.glob("*.grape")]
        if name not in known:
            _not_there(use, ident, known)
        target = _load(loading, place / f"{name}.grape", use)
    else:
        target = _load(loading, place, use)
    declared = target.declared.get(name)
    if declared is None or isinstance(declared, ast.PipelineDecl):
        if not target.file.damaged:
            _not_there(
                use,
                ident,
                [n for n, d in target.declared.items() if not isinstance(d, ast.PipelineDecl)],
            )
        raise Refused(None)
    module.imported[name] = (declared, target)


def _not_there(use: ast.Use, ident: ast.Ident, known: list[str]) -> NoReturn:
    message = f'"{use.source.value}" declares no `{ident.name}`'
    unknown("G103", message, ident.name, ident.span, known, listing="it declares")


def _place(loading: Loading, module: Module, use: ast.Use) -> Path:
    """The file or folder that a source means."""
    text = use.source.value
    if not is_path(text):
        refuse("G104", "the source of this import is no path", use.source.span)
    if text == "std" or text.startswith("std/"):
        base, root = STD.parent / text, STD
    elif text.startswith(("./", "../")):
        base = module.path.parent / text
        root = STD if module.path.is_relative_to(STD) else loading.project
    else:
        hint = f'write "./{text}" for a file beside this one, "std/{text}" for the library'
        message = f'"{text}" is neither in "std/…" nor a relative path'
        refuse("G104", message, use.source.span, hint=hint)
    if not base.exists() and base.with_name(base.name + ".grape").is_file():
        base = base.with_name(base.name + ".grape")
    if not base.resolve().is_relative_to(root.resolve()):
        message = f'"{text}" lies outside the project folder'
        refuse("G701", message, use.source.span, hint="imports stay inside the folder of the file")
    if not base.exists():
        beside = base.parent.iterdir() if base.parent.is_dir() else ()
        before = text.rpartition("/")[0]
        close = nearest(base.name, (item.name for item in beside))
        meant = " or ".join(f'"{before}/{name}"' for name in close)
        told = f"did you mean {meant}?" if close else None
        refuse("G104", f'there is no file or folder "{text}"', use.source.span, hint=told)
    return base if root is STD else base.resolve()


def _load(loading: Loading, path: Path, use: ast.Use) -> Module:
    if path in loading.stack:
        chain = [*loading.stack[loading.stack.index(path) :], path]
        names = " → ".join(loading.shown[step] for step in chain)
        refuse("G105", f"these files import each other: {names}", use.source.span)
    if path in loading.modules:
        return loading.modules[path]
    if len(loading.stack) > MAX_IMPORTS:
        message = f"imports nest deeper than {MAX_IMPORTS} files"
        refuse("G713", message, use.source.span, hint="import from where the name is declared")
    text = loading.texts.read(path)
    return load_module(loading, path, Source(_shown(loading, path), text))


def _shown(loading: Loading, path: Path) -> str:
    if path.is_relative_to(STD):
        return "std/" + path.relative_to(STD).as_posix()
    first = loading.shown[loading.stack[0]]
    base = Path(first).parent
    return (base / path.relative_to(loading.project)).as_posix()
