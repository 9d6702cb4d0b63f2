"""A file becomes a checked program: the passes, in order, and what they leave behind.

`load` never raises on what a user wrote: findings are values. Only `Program.graph` refuses, with
`Invalid`, when there are errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grape.compiler.algorithms import check_declaration as check_algorithm
from grape.compiler.constants import Value
from grape.compiler.graph import Graph
from grape.compiler.modules import STD, Loading, Module, Texts, load_module, unused_imports
from grape.compiler.names import Refused, unknown
from grape.compiler.params import Given, bind, check_declared, read_params_file
from grape.compiler.pipelines import build_graph
from grape.compiler.rewards import check_declaration as check_reward
from grape.compiler.rubrics import check_declaration as check_rubric
from grape.dsl import ast
from grape.dsl.allow import apply_allows as silence
from grape.dsl.allow import silences
from grape.dsl.catalogue import entry
from grape.dsl.findings import Finding, in_order
from grape.dsl.source import Source, Span


class Invalid(Exception):
    """A file has errors; `.findings` say what and where."""

    def __init__(self, findings: list[Finding]) -> None:
        errors = [finding for finding in findings if is_error(finding)]
        first = errors[0] if errors else findings[0]
        place = f"{first.span.source.path}:{first.span.line}"
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{place}: {first.code} {first.message}{more}")
        self.findings = findings


def is_error(finding: Finding) -> bool:
    return entry(finding.code).severity == "error"


@dataclass(slots=True, eq=False)
class Program:
    """A loaded file. `files` maps the path shown to the user to syntax."""

    files: dict[str, ast.File]
    findings: list[Finding]
    graphs: dict[str, Graph | None]
    module: Module

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        return not any(is_error(finding) for finding in self.findings)

    @property
    def pipelines(self) -> list[str]:
        """Names of the pipelines, in the order of the file."""
        return list(self.graphs)

    def graph(self, name: str | None = None) -> Graph:
        """The graph of a pipeline; of the only one when `name` is None.

        Raises `Invalid` when the file has errors, ValueError for an unknown or unclear name.
        """
        if not self.ok:
            raise Invalid(self.findings)
        names = ", ".join(self.graphs) or "none"
        if name is None:
            if len(self.graphs) != 1:
                raise ValueError(f"name one of the pipelines of the file: {names}")
            name = next(iter(self.graphs))
        graph = self.graphs.get(name)
        if graph is None:
            raise ValueError(f"there is no pipeline `{name}`; the file has: {names}")
        return graph

    def plan_findings(self, name: str) -> list[Finding]:
        """What is only to be said once the data is read, for a plan."""
        from grape.compiler.power import counted, weak_checks

        said = {(finding.code, finding.span) for finding in self.findings}
        allows = [allow for file in self.files.values() for allow in file.allows]
        found = weak_checks(self.graph(name), counted(self.module.path.parent))
        return [
            finding
            for finding in found
            if (finding.code, finding.span) not in said
            and not any(silences(allow, finding) for allow in allows)
        ]


@dataclass(slots=True)
class Work:
    """What the passes share and fill in."""

    path: Path
    source: Source
    project: Path
    given: dict[str, Given]
    pipeline: str | None
    findings: list[Finding]
    loading: Loading
    values: dict[str, tuple[dict[str, Value], dict[str, str]]] = field(default_factory=dict)
    graphs: dict[str, Graph | None] = field(default_factory=dict)

    @property
    def module(self) -> Module:
        return self.loading.modules[self.path]

    @property
    def declared(self) -> list[ast.PipelineDecl]:
        found = self.module.declared.values()
        return [item for item in found if isinstance(item, ast.PipelineDecl)]


def load(
    path: Path,
    *,
    sets: Mapping[str, str] | None = None,
    params_file: Path | None = None,
    pipeline: str | None = None,
    texts: Texts | None = None,
) -> Program:
    """Parse and check a file with values for its parameters.

    `sets` are `--set` texts; `pipeline` limits the parameters' values to one pipeline; `texts`
    stands before the disk. Raises OSError when the file or the params file cannot be read.
    """
    source = Source(str(path), texts.read(path) if texts else _read(path))
    given: dict[str, Given] = {}
    findings: list[Finding] = []
    if params_file is not None:
        try:
            given |= read_params_file(str(params_file), _read(params_file))
        except Refused as refused:
            assert refused.finding is not None
            findings.append(refused.finding)
    given |= {name: Given("--set", None, text=text) for name, text in (sets or {}).items()}
    return _run(source, path.resolve(), given, pipeline, findings, texts or Texts())


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig", errors="replace")


def _run(
    source: Source,
    path: Path,
    given: dict[str, Given],
    pipeline: str | None,
    findings: list[Finding],
    texts: Texts,
) -> Program:
    loading = Loading(path.parent, findings, texts=texts)
    work = Work(path, source, path.parent, given, pipeline, findings, loading)
    for run in PASSES:
        run(work)
    files = {module.file.source.path: module.file for module in loading.modules.values()}
    return Program(files, work.findings, work.graphs, work.module)


def load_files(work: Work) -> None:
    """The file and everything it imports."""
    load_module(work.loading, work.path, work.source)


_HIDDEN = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that make a text look other than it is read."""


def check_texts(work: Work) -> None:
    """Characters that a reader does not see, and that turn round what they do see."""
    for module in work.loading.modules.values():
        source = module.file.source
        match = _HIDDEN.search(source.text)
        if match:
            message = (
                f"the hidden character U+{ord(match[0]):04X} changes the order in which this line "
                "is shown"
            )
            span = Span(source, match.start(), match.end())
            work.findings.append(Finding("G718", message, span, hint="delete it"))


def check_declarations(work: Work) -> None:
    """Rewards and algorithms of every file of the project, used or not."""
    for module in list(work.loading.modules.values()):
        if module.path != work.path and module.path.is_relative_to(STD.resolve()):
            continue
        for declared in module.declared.values():
            try:
                _check_declaration(declared, module, work)
            except Refused as refused:
                if refused.finding is not None:
                    work.findings.append(refused.finding)


def _check_declaration(
    declared: ast.RewardDecl | ast.RubricDecl | ast.AlgorithmDecl | ast.PipelineDecl,
    module: Module,
    work: Work,
) -> None:
    match declared:
        case ast.RewardDecl():
            check_reward(declared, module, work.project)
        case ast.AlgorithmDecl():
            check_algorithm(declared, work.findings)
        case ast.RubricDecl():
            check_rubric(declared, module, work.project)


def bind_parameters(work: Work) -> None:
    """Values of the parameters of every pipeline; unknown keys are refused."""
    chosen = [d for d in work.declared if work.pipeline in (None, d.name.name)]
    known = {param.name.name for declared in chosen for param in declared.params}
    for name, given in work.given.items():
        span = given.span or (chosen[0].name.span if chosen else None)
        if name in known or span is None:
            continue
        try:
            what = f"the pipeline `{chosen[0].name.name}`" if len(chosen) == 1 else "any pipeline"
            message = f"{given.layer} sets `{name}`, which is no parameter of {what}"
            unknown("G108", message, name, span, known, listing="parameters are")
        except Refused as refused:
            assert refused.finding is not None
            work.findings.append(_without_fix(refused.finding))
    for declared in work.declared:
        given_here = work.given if declared in chosen else {}
        try:
            check_declared(declared.params)
            work.values[declared.name.name] = bind(declared.params, given_here, declared.name.name)
        except Refused as refused:
            if refused.finding is not None:
                work.findings.append(refused.finding)


def _without_fix(finding: Finding) -> Finding:
    return Finding(finding.code, finding.message, finding.span, finding.labels, finding.hint)


def build_graphs(work: Work) -> None:
    """A typed graph of every pipeline that has its parameters."""
    for declared in work.declared:
        name = declared.name.name
        work.graphs[name] = None
        if name in work.values:
            values, layers = work.values[name]
            work.graphs[name] = build_graph(
                declared, work.module, work.project, values, layers, work.findings
            )


def check_hygiene(work: Work) -> None:
    """Leaks, wasted work and implausible settings of every graph."""
    from grape.compiler.hygiene import check_graph

    for declared in work.declared:
        graph = work.graphs[declared.name.name]
        if graph is not None:
            found = list(check_graph(graph, declared))
            if work.module.file.damaged:  # what could not be read may use it
                found = [finding for finding in found if finding.code != "G403"]
            work.findings += found
            if any(check.confidence is not None for check in graph.checks):
                from grape.compiler.power import stated, weak_checks

                work.findings += weak_checks(graph, stated)


def check_imports(work: Work) -> None:
    """Imports that nothing uses. Skipped where an error may have hidden the use."""
    if any(is_error(finding) for finding in work.findings):
        return
    for module in work.loading.modules.values():
        work.findings += unused_imports(module)


def apply_allows(work: Work) -> None:
    """Findings in order, without those that the file silences."""
    files = [module.file for module in work.loading.modules.values()]
    work.findings[:] = in_order(silence(files, work.findings))


PASSES: tuple[Callable[[Work], None], ...] = (
    load_files,
    check_texts,
    check_declarations,
    bind_parameters,
    build_graphs,
    check_hygiene,
    check_imports,
    apply_allows,
)
"""Every pass, in the order in which they run."""
