"""Answers to what an editor asks: the analyser that `grape lsp` gives to the language server.

One file and its imports are checked as `grape lint` does, with open buffers in front of the disk
and syntax kept by text; symbols, types and documentation are worked out from the result. Nothing
here runs user code; of data files only the first row is read.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grape.compiler.callees import built_in, callees_of, declared_callee
from grape.compiler.formula import functions
from grape.compiler.formula.levels import Level
from grape.compiler.formula.quantities import QUANTITIES
from grape.compiler.graph import Stage
from grape.compiler.modules import STD, Module, Texts
from grape.compiler.params import TYPES
from grape.compiler.program import Program, load
from grape.compiler.sources import PARTS
from grape.compiler.symbols import Named, occurrences_of, symbol_of
from grape.compiler.types import ArtifactType
from grape.compiler.verbs import VERBS, verb
from grape.dsl import ast
from grape.dsl.findings import Finding
from grape.dsl.lsp.analyser import Callee, Occurrence, Symbol
from grape.dsl.parse import parse
from grape.dsl.source import Source, Span

KEPT = 64
"""Parsed texts that are kept."""
FIRST_ROW = 1 << 16
"""Bytes of a data file that are read for its columns."""

Parsed = tuple[ast.File, list[Finding]]


class GrapeAnalyser:
    """The compiler as the language server sees it (`dsl.lsp.analyser.Analyser`)."""

    def __init__(self) -> None:
        self._parsed: dict[tuple[str, str], Parsed] = {}

    def analyse(self, path: Path, texts: Mapping[Path, str]) -> FileAnalysis:
        """The file at an absolute `path`; `texts` by absolute path stand before the disk."""

        def read(wanted: Path) -> str:
            if wanted in texts:
                return texts[wanted]
            return wanted.read_bytes().decode("utf-8-sig", errors="replace")

        return FileAnalysis(load(path, texts=Texts(read, self._parse)))

    def _parse(self, source: Source) -> Parsed:
        key = source.path, source.text
        kept = self._parsed.pop(key, None)
        if kept is None:
            kept = parse(source)
        self._parsed[key] = kept  # the youngest is last
        while len(self._parsed) > KEPT:
            del self._parsed[next(iter(self._parsed))]
        file, findings = kept
        return file, list(findings)

    def callees(self, keyword: str) -> Sequence[Callee]:
        return callees_of(keyword)

    def library(self) -> Mapping[str, str]:
        found = {}
        for path in sorted((STD / "algorithms").glob("*.grape")):
            text = path.read_text(encoding="utf-8")
            file, _ = self._parse(Source(f"std/algorithms/{path.name}", text))
            for declared in file.declarations:
                if isinstance(declared, ast.AlgorithmDecl) and declared.name.name == path.stem:
                    found[path.stem] = declared.doc or ""
        return found

    def meaning(self, word: str) -> str | None:
        if word in QUANTITIES:
            known = QUANTITIES[word]
            return f"`{word}` · a value per {known.level} · on {', '.join(known.on)}"
        return _FUNCTIONS.get(word) or _LEVELS.get(word)

    def words_of_formulas(self) -> Sequence[tuple[str, str]]:
        found = [(name, f"per {known.level}") for name, known in QUANTITIES.items()]
        return [*found, *((name, "function") for name in sorted(functions.NAMES))]

    def levels(self) -> Sequence[str]:
        return [str(level) for level in Level]

    def parameter_types(self) -> Sequence[str]:
        return TYPES


_FUNCTIONS = {
    **{name: f"`{name}(x)` · value by value, level unchanged" for name in functions.ELEMENTWISE},
    **{
        name: f"`{name}(x per LEVEL)` · one value for each item of the level; padding and prompt "
        "tokens never count"
        for name in functions.REDUCTIONS
    },
    "clamp": "`clamp(x, low, high)` · x kept between two bounds",
    "at_end": "`at_end(x)` · a sequence value on its last token, 0 before",
    "shift": "`shift(x, k)` · x moved by k tokens",
    "cumsum": "`cumsum(x)` · the sum up to each token",
    "reverse_cumsum": "`reverse_cumsum(x)` · the sum from each token to the end",
    "chosen": "`chosen(x)` · x of the better completion of a pair",
    "rejected": "`rejected(x)` · x of the worse completion of a pair",
}
_LEVELS = {
    "token": "a value per token of a completion",
    "sequence": "a value per completion",
    "group": "a value per prompt: all its completions",
    "pair": "a value per pair of chosen and rejected",
    "batch": "one number",
}


@dataclass
class FileAnalysis:
    """What is known about one file (`dsl.lsp.analyser.Analysis`)."""

    program: Program

    @property
    def _module(self) -> Module:
        return self.program.module

    @property
    def source(self) -> Source:
        return self._module.file.source

    @property
    def damaged(self) -> bool:
        return self._module.file.damaged

    @property
    def findings(self) -> Sequence[Finding]:
        return self.program.findings

    @cached_property
    def _declared(self) -> dict[str, tuple[Named, Module]]:
        found: dict[str, tuple[Named, Module]] = {
            name: (declared, self._module) for name, declared in self._module.declared.items()
        }
        found |= {name: item for name, item in self._module.imported.items() if item is not None}
        return found

    @cached_property
    def paths(self) -> Mapping[str, Path]:
        shown = self.program.files
        return {
            path: STD.parent / path if path.startswith("std/") else Path(path) for path in shown
        }

    @cached_property
    def occurrences(self) -> Sequence[Occurrence]:
        return occurrences_of(self._module)

    @property
    def imports(self) -> Sequence[tuple[str, Span, Span]]:
        uses = [item for item in self._module.file.declarations if isinstance(item, ast.Use)]
        return [(use.source.value, use.names[-1].span, use.source.span) for use in uses]

    # --- types --------------------------------------------------------------------------------

    def types(self) -> Sequence[tuple[Symbol, str]]:
        found = []
        for occurrence in self.occurrences:
            if occurrence.defines and occurrence.symbol.kind in ("model", "data", "stage"):
                made = self._types.get(occurrence.symbol.key[1])
                if made is not None:
                    found.append((occurrence.symbol, describe_type(made)))
        return found

    @cached_property
    def _types(self) -> dict[int, ArtifactType]:
        """By the place of the name. From the graph where there is one, else from the verbs."""
        found: dict[int, ArtifactType] = {}
        exact: dict[int, ArtifactType] = {}
        for graph in self.program.graphs.values():
            for stage in graph.stages if graph else ():
                exact |= {item.span.start: item.type for item in _with_body(stage)}
        for node in _nodes(self._module.file):
            if isinstance(node, ast.Repeat):
                found[node.name.span.start] = ArtifactType("Model")
            else:
                start = node.name.span.start
                made = exact.get(node.span.start) or self._guess(node, found)
                if made is not None:
                    found[start] = made
        return found

    def _guess(self, node: ast.Node, known: Mapping[int, ArtifactType]) -> ArtifactType | None:
        """The type of a node that was not checked, because something near it is wrong."""
        call = node.call
        if not isinstance(call, ast.Call) or not isinstance(call.function, ast.Name):
            return None
        if call.function.name not in VERBS:
            return None
        made = verb(call.function.name)
        given = {setting.name.name for setting in node.settings}
        settings: dict[str, Any] = dict.fromkeys(PARTS) | dict.fromkeys(made.settings.model_fields)
        settings |= dict.fromkeys(given, True)
        by_place = {item.span.start: item.symbol for item in self.occurrences}
        ports = [port.name for port in made.ports if not port.named]
        args = [arg for arg in call.args if arg.name is None][len(made.literals) :]
        types = {port: ArtifactType("") for port in ports}
        for port, arg in zip(ports, args, strict=False):
            symbol = by_place.get(arg.value.span.start)
            if symbol is not None and symbol.key[1] in known:
                types[port] = known[symbol.key[1]]
        return made.result(types, settings)

    # --- what is said about things ------------------------------------------------------------

    def hover(self, symbol: Symbol) -> str:
        parts = [f"```grape\n{symbol.signature or symbol.name}\n```"]
        types = {known.key: text for known, text in self.types()}
        if symbol.key in types:
            parts[0] = f"```grape\n{symbol.signature}\n```\n**{types[symbol.key]}**"
        if symbol.doc:
            parts.append(symbol.doc)
        declared = self._declared.get(symbol.name)
        if declared and symbol_of(declared[0]).key == symbol.key:
            if isinstance(declared[0], ast.AlgorithmDecl):
                parts.append(f"```text\n{_mathematics(declared[0])}\n```")
            home = declared[1].file.source.path
            if declared[1] is not self._module:
                parts.append(f"*from {home}*")
        return "\n\n".join(parts)

    def visible(self, pipeline_or_algorithm: str) -> Mapping[str, Symbol]:
        declared = self._module.declared.get(pipeline_or_algorithm)
        if declared is None:
            return {}
        later = [
            d.span.start
            for d in self._module.file.declarations
            if d.span.start > declared.span.start
        ]
        end = min(later, default=len(self.source.text) + 1)
        return {
            item.symbol.name: item.symbol
            for item in self.occurrences
            if item.defines and declared.name.span.start < item.span.start < end
        }

    def callee(self, name: str) -> Callee | None:
        declared = self._declared.get(name)
        if declared is not None and not isinstance(declared[0], ast.PipelineDecl):
            return declared_callee(declared[0])
        return built_in(name)

    def columns(self, data: str) -> Sequence[str]:
        for node in _nodes(self._module.file):
            if isinstance(node, ast.Node) and node.name.name == data:
                match node.call:
                    case ast.Call(ast.Name(verb), (ast.Arg(value=ast.String(path)), *_)):
                        return _columns(verb, self._module.path.parent, path)
        return ()


def describe_type(made: ArtifactType) -> str:
    """A type with what it is made of: `Data (prompt, answer) split`."""
    text = str(made)
    if made.columns and made.name == "Data":
        text += f" ({', '.join(sorted(made.columns))})"
    return f"{text}, split" if made.split else text


def _with_body(stage: Stage) -> Iterator[Stage]:
    yield stage
    for inner in stage.body:
        yield from _with_body(inner)


def _nodes(file: ast.File) -> Iterator[ast.Node | ast.Repeat]:
    for declaration in file.declarations:
        if isinstance(declaration, ast.PipelineDecl):
            yield from _statements(declaration.body)


def _statements(body: Sequence[ast.Statement]) -> Iterator[ast.Node | ast.Repeat]:
    for statement in body:
        if isinstance(statement, ast.Node | ast.Repeat):
            yield statement
        for inner in ast.bodies(statement):
            yield from _statements(inner)


def _mathematics(declaration: ast.AlgorithmDecl) -> str:
    """The lines of an algorithm as mathematics; its documentation is said elsewhere."""
    from grape.compiler.formula.explain import lines_of

    return "\n".join(lines_of(declaration))


# --- columns of data files ----------------------------------------------------------------------


def _columns(source: str, project: Path, path: str) -> Sequence[str]:
    """The columns of a data file below the project folder; nothing when it cannot be read."""
    file = (project / path).resolve()
    if not file.is_relative_to(project.resolve()) or not file.is_file():
        return ()
    try:
        if source == "parquet":
            from pyarrow.parquet import read_schema

            return [str(name) for name in read_schema(file).names]
        with file.open("rb") as stream:
            head = stream.read(FIRST_ROW).decode("utf-8", errors="replace")
        first = head.split("\n", 1)[0]
        if source == "csv":
            return next(csv.reader(io.StringIO(first)), [])
        row = json.loads(first)
    except (OSError, ValueError, ImportError):
        return ()
    return [str(name) for name in row] if isinstance(row, dict) else ()
