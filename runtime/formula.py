"""A `Formula` as a torch.fx graph over flat tensors, and its value on a batch.

Vocabulary quantities are [N, V], token quantities [N], sequence quantities [S], pair quantities
[S/2], batch quantities scalars; `Layout` says how they nest. The graph broadcasts by gathering and
reduces by scattering, so padding never exists and needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import logsigmoid

from grape.compiler.formula.ir import Formula, Term
from grape.compiler.formula.levels import SUBGROUPS, Level, covers
from grape.compiler.formula.quantities import level_of as level_of
from grape.compiler.formula.quantities import markers_of
from grape.compiler.formula.terms import reaching
from grape.runtime import segments
from grape.runtime.layout import Layout


def _where(test: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
    if not isinstance(yes, Tensor) and not isinstance(no, Tensor):
        yes = torch.as_tensor(yes, dtype=torch.float64, device=torch.as_tensor(test).device)
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


def _add(left: Any, right: Any) -> Any:
    return _number(left) + _number(right)


def _sub(left: Any, right: Any) -> Any:
    return _number(left) - _number(right)


def _neg(x: Any) -> Any:
    return -_number(x)


def _abs(x: Any) -> Any:
    return abs(_number(x))


def _detach(x: Tensor) -> Tensor:
    return x.detach()


def _clamp(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return x.clamp(low, high)
    floor, ceiling = (torch.as_tensor(bound).to(x) for bound in (low, high))
    return torch.minimum(torch.maximum(x, floor), ceiling)


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": _add,
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
    "abs": _abs,
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
    """`loss` is a scalar to minimise; `logs` are numbers. `constraints` are `subject to` values
    less their bounds: kept where they are not positive. `state` is what the algorithm remembers
    for the next batch: put each of its numbers into that batch as `state.NAME`."""

    loss: Tensor
    logs: dict[str, float]
    constraints: tuple[Tensor, ...] = ()
    state: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A formula and the torch.fx module that computes its objective and logs."""

    formula: Formula
    graph_module: fx.GraphModule
    inputs: tuple[str, ...]
    """Placeholders in order: quantities, then `FINE_to_COARSE` index tensors and `num_LEVEL`."""

    def _run(self, values: Mapping[str, Tensor], layout: Layout) -> tuple[Tensor, ...]:
        args = [argument(name, self.remembered(values), layout) for name in self.inputs]
        outputs: tuple[Tensor, ...] = self.graph_module(*args)
        return outputs

    def remembered(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The values with the first number of every state that they do not hold."""
        memory = self.formula.memory
        start = {
            f"state.{name}": torch.tensor(first, dtype=torch.float64) for name, first, _ in memory
        }
        return {**start, **values} if start else values

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
        return {name: float(output) for name, output in zip(names, outputs, strict=False)}

    def constraints(self, values: Mapping[str, Tensor], layout: Layout) -> tuple[Tensor, ...]:
        """For each `subject to E <= NUMBER`, E less the number, with its gradient."""
        start = 1 + len(self.formula.logs)
        bounds = [bound for _, bound in self.formula.constraints]
        outputs = self._run(values, layout)[start : start + len(bounds)]
        return tuple(output - bound for output, bound in zip(outputs, bounds, strict=True))

    @torch.no_grad()
    def next_state(self, values: Mapping[str, Tensor], layout: Layout) -> dict[str, float]:
        """What every `state` becomes after this batch, on the whole batch; changes nothing."""
        memory = self.formula.memory
        outputs = self._run(values, layout)[len(self.formula.roots) - len(memory) :]
        return {name: float(output) for (name, _, _), output in zip(memory, outputs, strict=True)}

    def idle(self, values: Mapping[str, Tensor], layout: Layout) -> Tensor:
        """Bool [S]: the sequences whose live values provably touch neither the loss nor any
        gradient, given the constant quantities in `values`; they need no forward pass.

        A constant missing from `values` counts as unknown. Logs may still mention an idle one."""
        from grape.runtime.idle import idle

        return idle(self.formula, values, layout)

    def evaluate(self, batch: Mapping[str, Tensor]) -> Result:
        """Loss and logs of a padded batch: token and step quantities [S, T], sequence quantities
        [S], pair quantities [S/2], vocabulary quantities [S, T, V], `mask` [S, T] and `group` [S],
        and `step` [S, T], `tree` [S], `cluster` [S], `set` [S] where they are used.

        Raises ValueError naming what the batch lacks or what has a wrong shape."""
        layout, values = flatten(self.formula, batch)
        return Result(
            self.loss(values, layout),
            self.logs(values, layout),
            self.constraints(values, layout) if self.formula.constraints else (),
            self.next_state(values, layout) if self.formula.memory else {},
        )


def flatten(formula: Formula, batch: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    """A padded batch as a layout and flat tensors."""
    sets = formula.index_sets
    missing = sorted(({"mask", "group"} | sets | formula.needs) - set(batch))
    if missing:
        raise ValueError(f"`{formula.name}` also needs {', '.join(missing)} in the batch")
    mask = batch["mask"].bool()
    layout = Layout.from_mask(
        mask,
        batch["group"],
        formula.on == "Preferences",
        steps=batch["step"] if "step" in sets else None,
        subgroups={level: batch[level.value] for level in SUBGROUPS if level.value in sets},
    )
    values = {name: _flat(name, batch[name], mask, layout) for name in formula.needs}
    kept = {name: value for name, value in batch.items() if name.startswith("state.")}
    return layout, {**values, **kept}


def _flat(name: str, value: Tensor, mask: Tensor, layout: Layout) -> Tensor:
    level = level_of(name)
    shape = tuple(mask.shape)
    wanted = {
        Level.SEQUENCE: shape[:1],
        Level.PAIR: (shape[0] // 2,),
        Level.BATCH: (),
    }.get(level, shape)
    found = tuple(value.shape)[:-1] if level is Level.VOCAB else tuple(value.shape)
    if found != wanted:
        shown = [*wanted, "V"] if level is Level.VOCAB else list(wanted)
        raise ValueError(
            f"`{name}` is one per {level}: its shape is {shown}, not {list(value.shape)}"
        )
    if not value.is_floating_point():
        value = value.double()
    if level in (Level.VOCAB, Level.TOKEN):
        return value[mask]
    if level is Level.STEP:  # the value at any token of the step
        step = layout.index(Level.TOKEN, Level.STEP)
        return value.new_zeros(layout.size(Level.STEP)).index_copy(0, step, value[mask])
    return value


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
    if name == "step_index":
        return layout.step_index.double()
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
                plain = f"span_{len(last)}" if markers_of(name) else name.replace(".", "__")
                self.placeholders[name] = self.graph.placeholder(plain)
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
        if term.op in ("rank", "widest"):
            return self._within(term)
        if term.op in ("chosen", "rejected"):
            side = 0 if term.op == "chosen" else 1
            return self.graph.call_function(segments.side, (self.nodes[term.args[0]], side))
        if term.op == "gae":
            return self._gae(term)
        if term.op in segments.ALONG:
            return self._along(term)
        args = tuple(self._operand(arg, term.level) for arg in term.args)
        return self.graph.call_function(_ELEMENTWISE[term.op], args)

    def _operand(self, index: int, level: Level) -> fx.Node | float | bool:
        """An operand at the level of the operation; batch values broadcast by themselves."""
        node = self.nodes[index]
        source = self.formula.terms[index].level
        if not isinstance(node, fx.Node) or source in (level, Level.BATCH):
            return node
        if level is Level.VOCAB:
            token = self._operand(index, Level.TOKEN)
            return self.graph.call_function(torch.unsqueeze, (token, -1))
        index_node = self._input(f"{level}_to_{source}")
        return self.graph.call_function(segments.gather, (node, index_node))

    def _items(self, term: Term, target: Level) -> tuple[Any, Any, Any]:
        """The first operand as a flat tensor, the segment of each value, how many there are."""
        source = self.formula.terms[term.args[0]].level
        node: Any = self.nodes[term.args[0]]
        size = self._input(f"num_{target}")
        if source is not Level.VOCAB:
            return node, self._input(f"{source}_to_{target}"), size
        index = None if target is Level.TOKEN else self._input(f"token_to_{target}")
        segment = self.graph.call_function(segments.vocab_index, (index, node))
        return self.graph.call_function(torch.flatten, (node,)), segment, size

    def _reduce(self, term: Term) -> fx.Node:
        attrs = dict(term.attrs)
        kind = str(attrs["kind"])
        source = self.formula.terms[term.args[0]].level
        if (source, term.level, kind) == (Level.VOCAB, Level.TOKEN, "sum") and len(term.args) == 1:
            return self.graph.call_function(segments.row_sum, (self.nodes[term.args[0]],))
        options: dict[str, Any] = {"ddof": int(attrs["ddof"])} if "ddof" in attrs else {}
        value, segment, size = self._items(term, term.level)
        args: tuple[Any, ...] = (value, segment, size)
        function = segments.REDUCTIONS[kind]
        if len(term.args) > 1:
            level = self.formula.terms[term.args[0]].level
            test = self._operand(term.args[1], level)
            function, args = segments.where, (kind, value, test, segment, size)
        node = self.graph.call_function(function, args, options)
        if "singleton" in attrs:
            args = (node, segment, size, float(attrs["singleton"]))
            node = self.graph.call_function(segments.singleton, args)
        if term.level is Level.BATCH:
            return self.graph.call_function(torch.squeeze, (node,))
        return node

    def _within(self, term: Term) -> fx.Node:
        extra = (int(term.attr("keep")),) if term.op == "widest" else ()
        args = (*self._items(term, Level(str(term.attr("per")))), *extra)
        node = self.graph.call_function(getattr(segments, term.op), args)
        if term.level is Level.VOCAB:
            like = self.nodes[term.args[0]]
            return self.graph.call_function(torch.Tensor.view_as, (node, like))
        return node

    def _gae(self, term: Term) -> fx.Node:
        reward, value = (self._operand(arg, Level.TOKEN) for arg in term.args)
        sequence = self._input("token_to_sequence")
        args = (reward, value, sequence, float(term.attr("gamma")), float(term.attr("lam")))
        return self.graph.call_function(segments.gae, args)

    def _along(self, term: Term) -> fx.Node:
        per = str(term.attr("per")) if term.op == "at_end" else "sequence"
        value = self._operand(term.args[0], Level.TOKEN)
        extra = (int(term.attr("by")),) if term.op == "shift" else ()
        args = (value, self._input(f"token_to_{per}"), *extra)
        return self.graph.call_function(segments.ALONG[term.op], args)


def compile_formula(formula: Formula) -> Compiled:
    """Lower a formula to torch.fx. The module holds no parameters and fits any device."""
    for term in formula.terms:
        for arg in term.args:
            operand = formula.terms[arg].level
            wider = term.op in ("reduce", "chosen", "rejected")
            assert wider or covers(term.level, operand), (term, operand)
    return Compiled(formula, *lower_terms(formula, formula.roots))


@cache
def lower_terms(formula: Formula, roots: tuple[int, ...]) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """A torch.fx module that returns the terms `roots`, and the names of its inputs."""
    return _Lowering(formula).run(roots)
