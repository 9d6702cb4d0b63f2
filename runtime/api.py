"""The Python interface: `grape.load(path)` and what it returns.

Loading parses and checks, and raises `grape.Invalid` on errors. torch is imported only where
tensors are, prefect only by `run`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grape.compiler import program as compiler
from grape.compiler.formula.ir import Scalar
from grape.dsl import ast
from grape.dsl.findings import Finding

if TYPE_CHECKING:
    import networkx as nx

    from grape.compiler.plan import Plan
    from grape.runtime.algorithm import Algorithm
    from grape.runtime.run import RunResult

Value = bool | int | float | str | Sequence[float]


def load(
    path: str | Path, *, params: Mapping[str, Value] | None = None, pipeline: str | None = None
) -> Program:
    """Parse and check a pipeline file, with values for its parameters.

    Raises FileNotFoundError when there is no such file, and `grape.Invalid`, whose `.findings`
    say what and where, when the file has errors.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file `{file}`")
    sets = {name: _text(value) for name, value in (params or {}).items()}
    checked = compiler.load(file, sets=sets, pipeline=pipeline)
    if not checked.ok:
        raise compiler.Invalid(checked.findings)
    return Program(file, checked)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, slots=True)
class Program:
    """A checked file."""

    file: Path
    checked: compiler.Program

    @property
    def findings(self) -> list[Finding]:
        """What is left to say: warnings."""
        return list(self.checked.findings)

    @property
    def pipelines(self) -> list[str]:
        return list(self.checked.pipelines)

    def graph(self, pipeline: str | None = None) -> nx.DiGraph[str]:
        """The typed stages of a pipeline (of the only one when `pipeline` is None).

        Raises ValueError for an unknown name."""
        return self.checked.graph(pipeline).to_networkx()

    def plan(self, pipeline: str | None = None) -> Plan:
        """What a run would do now. Raises ValueError for an unknown name."""
        from grape.runtime.preparing import prepare

        return prepare(self.checked.graph(pipeline), self.file)

    def algorithm(self, name: str, **params: Scalar) -> Algorithm:
        """An algorithm that the file declares, else one of the standard library.

        Raises ValueError for an unknown name or parameter."""
        from grape.runtime.algorithm import algorithm, bind

        declared = self.checked.module.declared.get(name)
        if isinstance(declared, ast.AlgorithmDecl):
            return bind(declared, params)
        return algorithm(name, **params)

    def run(
        self,
        pipeline: str | None = None,
        *,
        probe: bool = True,
        trackers: Sequence[str] = (),
    ) -> RunResult:
        """Run through Prefect, in silence; `.state`, `.outputs` and `.report` say how it went.
        `trackers` (`tensorboard`, `wandb`, `mlflow`, `trackio`) get the metrics.

        First rows and tokenizers are looked at before, as `grape run` does, unless `probe` is
        false. Raises `grape.Invalid` for what that finds wrong, and
        `grape.runtime.errors.StageError` when the run could not start."""
        from grape.compiler.draw import FORMATS
        from grape.runtime.launch import launch
        from grape.runtime.probe import probe as look

        graph = self.checked.graph(pipeline)
        seen = look(self.checked, graph.pipeline) if probe else []
        if any(map(compiler.is_error, seen)):
            raise compiler.Invalid(seen)
        plan = self.plan(pipeline)
        svg = FORMATS["svg"](graph, plan)
        return launch(plan, graph_svg=svg, stream=None, trackers=trackers)
