"""A `Formula` as a torch.fx graph over flat tensors, and its value on a batch.

Token quantities are [N], sequence quantities [S], pair quantities [S/2], batch quantities
scalars; `Layout` says how they nest. The graph broadcasts by gathering and reduces by scattering,
so padding never exists and needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import logsigmoid

from grape.compiler.formula.ir import Formula, Term
from grape.compiler.formula.levels import Level, covers
from grape.compiler.formula.quantities import QUANTITIES
from grape.compiler.formula.terms import reaching
from grape.runtime import segments
from grape.runtime.layout import Layout


def _where(test: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(torch.as_tensor(test).bool(), yes, no)


def _extreme(chosen: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    def pick(left: Tensor | float, right: Tensor | float) -> Tensor:
        like = left if isinstance(left, Tensor) else right
        assert isinstance(like, Tensor)
        return chosen(torch.as_tensor(left).to(like), torch.as_tensor(right).to(like))

    pick.__name__ = chosen.__name__
    return pick


def _number(x: Any) -> Any:
    """True as 1 and false as 0: torch subtracts no truth values."""
    return x * 1.0 if isinstance(x, Tensor) and x.dtype == torch.bool else x


def _sub(left: Any, right: Any) -> Any:
    return _number(left) - _number(right)


def _neg(x: Any) -> Any:
    return -_number(x)


def _detach(x: Tensor) -> Tensor:
    return x.detach()


def _clamp(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return x.clamp(low, high)
    floor, ceiling = (torch.as_tensor(bound).to(x) for bound in (low, high))
    return torch.minimum(torch.maximum(x, floor), ceiling)


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": _sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "neg": _neg,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "where": _where,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "sigmoid": torch.sigmoid,
    "log_sigmoid": logsigmoid,
    "tanh": torch.tanh,
    "sign": torch.sign,
    "minimum": _extreme(torch.minimum),
    "maximum": _extreme(torch.maximum),
    "clamp": _clamp,
    "detach": _detach,
}


@dataclass(frozen=True, slots=True)
class Result:
    """`loss` is a scalar to minimise; `logs` are numbers."""

    loss: Tensor
    logs: dict[str, float]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A formula and the torch.fx module that computes its objective and logs."""

    formula: Formula
    graph_module: fx.GraphModule
    inputs: tuple[str, ...]
    """Placeholders in order: quantities, then `FINE_to_COARSE` index tensors and `num_LEVEL`."""

    def _run(self, values: Mapping[str, Tensor], layout: Layout) -> tuple[Tensor, ...]:
        args = [argument(name, values, layout) for name in self.inputs]
        outputs: tuple[Tensor, ...] = self.graph_module(*args)
        return outputs

    def loss(self, values: Mapping[str, Tensor], layout: Layout) -> Tensor:
        """The scalar that is minimised, with its gradient."""
        value = self._run(values, layout)[0]
        return -value if self.formula.goal == "maximize" else value

    def value(self, values: Mapping[str, Tensor], layout: Layout) -> Tensor:
        """The objective as it is written, at its own level."""
        return self._run(values, layout)[0]

    @torch.no_grad()
    def logs(self, values: Mapping[str, Tensor], layout: Layout) -> dict[str, float]:
        """Every `log` of the formula on the whole batch."""
        outputs = self._run(values, layout)[1:]
        names = [name for name, _ in self.formula.logs]
        return {name: float(output) for name, output in zip(names, outputs, strict=True)}

    def idle(self, values: Mapping[str, Tensor], layout: Layout) -> Tensor:
        """Bool [S]: the sequences whose live values provably touch neither the loss nor any
        gradient, given the constant quantities in `values`; they need no forward pass.

        A constant missing from `values` counts as unknown. Logs may still mention an idle one."""
        from grape.runtime.idle import idle

        return idle(self.formula, values, layout)

    def evaluate(self, batch: Mapping[str, Tensor]) -> Result:
        """Loss and logs of a padded batch: token quantities [S, T], sequence quantities [S], pair
        quantities [S/2], `mask` [S, T] and `group` [S].

        Raises ValueError naming what the batch lacks or what has a wrong shape."""
        layout, values = flatten(self.formula, batch)
        return Result(self.loss(values, layout), self.logs(values, layout))


def flatten(formula: Formula, batch: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    """A padded batch as a layout and flat tensors."""
    missing = sorted(({"mask", "group"} | formula.needs) - set(batch))
    if missing:
        raise ValueError(f"`{formula.name}` also needs {', '.join(missing)} in the batch")
    mask = batch["mask"].bool()
    layout = Layout.from_mask(mask, batch["group"], formula.on == "Preferences")
    values = {}
    for name in formula.needs:
        level = level_of(name)
        value = batch[name]
        wanted = {
            Level.TOKEN: tuple(mask.shape),
            Level.SEQUENCE: (mask.shape[0],),
            Level.PAIR: (mask.shape[0] // 2,),
            Level.BATCH: (),
        }[level]
        if tuple(value.shape) != wanted:
            raise ValueError(
                f"`{name}` is one per {level}: its shape is {list(wanted)}, not {list(value.shape)}"
            )
        values[name] = value[mask] if level is Level.TOKEN else value
    return layout, values


def level_of(name: str) -> Level:
    """The level of a quantity; `reward.PART` is a sequence quantity."""
    return Level.SEQUENCE if name.startswith("reward.") else QUANTITIES[name].level


def argument(name: str, values: Mapping[str, Tensor], layout: Layout) -> Tensor | int:
    """What a placeholder of the graph stands for on a batch."""
    if name.startswith("num_"):
        return layout.size(Level(name.removeprefix("num_")))
    if "_to_" in name:
        fine, coarse = name.split("_to_")
        return layout.index(Level(fine), Level(coarse))
    if name == "length":
        return layout.lengths.double()
    if name == "index":
        return layout.token_index.double()
    if name == "active":
        return torch.ones_like(layout.token_index).double()
    return values[name]


# --- lowering ---------------------------------------------------------------------------------


class _Lowering:
    """Writes one fx graph. Placeholders are made when they are first needed."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.graph = fx.Graph()
        self.placeholders: dict[str, fx.Node] = {}
        self.nodes: list[fx.Node | float | bool] = []

    def run(self, roots: Sequence[int]) -> tuple[fx.GraphModule, tuple[str, ...]]:
        """A module that returns the terms `roots`, and the names of its inputs."""
        wanted = reaching(self.formula.terms, roots)
        for index, term in enumerate(self.formula.terms):
            self.nodes.append(self._term(term) if index in wanted else 0.0)
        outputs = []
        for root in roots:
            node = self.nodes[root]
            if not isinstance(node, fx.Node):
                node = self.graph.call_function(torch.tensor, (float(node),))
            outputs.append(node)
        self.graph.output(tuple(outputs))
        self.graph.lint()
        return fx.GraphModule(torch.nn.Module(), self.graph), tuple(self.placeholders)

    def _input(self, name: str) -> fx.Node:
        if name not in self.placeholders:
            last = list(self.placeholders.values())
            point = last[-1].next if last else next(iter(self.graph.nodes), None)
            with self.graph.inserting_before(point) if point else self.graph.inserting_after():
                self.placeholders[name] = self.graph.placeholder(name.replace(".", "__"))
        return self.placeholders[name]

    def _term(self, term: Term) -> fx.Node | float | bool:
        if term.op == "const":
            value = term.attr("value")
            assert not isinstance(value, str)
            return value
        if term.op == "input":
            return self._input(str(term.attr("name")))
        if term.op == "reduce":
            return self._reduce(term)
        if term.op in ("chosen", "rejected"):
            side = 0 if term.op == "chosen" else 1
            return self.graph.call_function(segments.side, (self.nodes[term.args[0]], side))
        if term.op in ("at_end", "shift", "cumsum", "reverse_cumsum"):
            return self._along(term)
        args = tuple(self._operand(arg, term.level) for arg in term.args)
        return self.graph.call_function(_ELEMENTWISE[term.op], args)

    def _operand(self, index: int, level: Level) -> fx.Node | float | bool:
        """An operand at the level of the operation; batch values broadcast by themselves."""
        node = self.nodes[index]
        source = self.formula.terms[index].level
        if not isinstance(node, fx.Node) or source in (level, Level.BATCH):
            return node
        index_node = self._input(f"{level}_to_{source}")
        return self.graph.call_function(segments.gather, (node, index_node))

    def _reduce(self, term: Term) -> fx.Node:
        source = self.formula.terms[term.args[0]].level
        kind = str(term.attr("kind"))
        options: dict[str, Any] = {"ddof": int(term.attr("ddof"))} if kind in ("std", "var") else {}
        args = (
            self.nodes[term.args[0]],
            self._input(f"{source}_to_{term.level}"),
            self._input(f"num_{term.level}"),
        )
        node = self.graph.call_function(segments.REDUCTIONS[kind], args, options)
        if term.level is Level.BATCH:
            return self.graph.call_function(torch.squeeze, (node,))
        return node

    def _along(self, term: Term) -> fx.Node:
        sequence = self._input("token_to_sequence")
        value = self._operand(term.args[0], Level.TOKEN)
        extra = (int(term.attr("by")),) if term.op == "shift" else ()
        return self.graph.call_function(segments.ALONG[term.op], (value, sequence, *extra))


def compile_formula(formula: Formula) -> Compiled:
    """Lower a formula to torch.fx. The module holds no parameters and fits any device."""
    for term in formula.terms:
        for arg in term.args:
            operand = formula.terms[arg].level
            wider = term.op in ("reduce", "chosen", "rejected")
            assert wider or covers(term.level, operand), (term, operand)
    roots = (formula.objective, *(index for _, index in formula.logs))
    return Compiled(formula, *lower_terms(formula, roots))


@cache
def lower_terms(formula: Formula, roots: tuple[int, ...]) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """A torch.fx module that returns the terms `roots`, and the names of its inputs."""
    return _Lowering(formula).run(roots)
