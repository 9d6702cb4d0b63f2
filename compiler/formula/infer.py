"""An algorithm's syntax to a typed `Formula`, or to findings that say why it is not one.

Levels are inferred from the leaves up; parameters are filled in, so that what a parameter switches
off (`beta = 0`) is not demanded. Nothing here knows torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from grape.compiler.formula.bounds import bounds, excludes_zero
from grape.compiler.formula.coupling import coupling
from grape.compiler.formula.expressions import expression
from grape.compiler.formula.ir import Formula, Scalar
from grape.compiler.formula.levels import Level
from grape.compiler.formula.quantities import BATCHES, QUANTITIES
from grape.compiler.formula.scope import Poisoned, Scope, choices_of
from grape.compiler.formula.terms import kept, reaching
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.nearest import did_you_mean


@dataclass(slots=True)
class _Body:
    """The lines of an algorithm as terms."""

    logs: dict[str, int] = field(default_factory=dict)
    objectives: list[tuple[ast.Objective, int]] = field(default_factory=list)
    constraints: list[tuple[int, float]] = field(default_factory=list)
    states: list[tuple[ast.State, float]] = field(default_factory=list)
    memory: list[tuple[str, float, int]] = field(default_factory=list)
    levels: list[Level | None] = field(default_factory=list)
    """The level of each line's expression, in order; None for one that is wrong."""

    @property
    def whole(self) -> bool:
        """No line is wrong, be it for a literal that was refused before."""
        return None not in self.levels


def infer(
    declaration: ast.AlgorithmDecl,
    params: Mapping[str, Scalar],
    *,
    parts: frozenset[str] = frozenset(),
    judged: frozenset[str] = frozenset(),
) -> tuple[Formula | None, list[Finding]]:
    """The formula of an algorithm with its parameters filled in.

    `parts` are the labels under which rewards were scored, for `reward.PART` and `sum_of_parts`;
    `judged` names the `confidence.PART`, `weight.PART` and `applies.PART` that exist. The formula
    is None when there are findings.
    """
    scope = Scope(declaration.on.name, params, parts, judged, choices_of(declaration.params))
    if scope.on not in BATCHES:
        hint = did_you_mean(scope.on, BATCHES)
        way = f"an algorithm is on {', '.join(BATCHES[:-1])} or {BATCHES[-1]}"
        message = f"there is no batch `{scope.on}`{hint}"
        scope.refuse("G306", message, declaration.on.span, hint=way)
        return None, scope.findings
    body = _body(scope, declaration)
    if len(body.objectives) != 1 and body.whole and not scope.findings:
        message = "an algorithm has one `maximize` or `minimize`"
        scope.refuse("G305", message, declaration.name.span)
    if scope.findings or not body.whole:
        return None, scope.findings
    objective, root = body.objectives[0]
    formula = _finish(scope, declaration.name.name, objective.goal, root, body)
    return (None if scope.findings else formula), scope.findings


def infer_expression(
    node: ast.Expr, on: str, *, parts: frozenset[str] = frozenset()
) -> tuple[Formula | None, list[Finding]]:
    """A formula that is one value at its own level, for the `where` of `keep`."""
    scope = Scope(on, {}, parts)
    try:
        root = expression(scope, node)
    except Poisoned:
        return None, scope.findings
    if scope.terms.items[root].live:
        message = "this needs a forward pass of the model, and none is running here"
        scope.refuse("G307", message, node.span)
        return None, scope.findings
    formula = _finish(scope, "where", "value", root, _Body())
    return (None if scope.findings else formula), scope.findings


def line_levels(declaration: ast.AlgorithmDecl, params: Mapping[str, Scalar]) -> list[Level | None]:
    """The level of the expression of each line, in order."""
    scope = Scope(declaration.on.name, params, frozenset(), choices=choices_of(declaration.params))
    return _body(scope, declaration).levels


def _body(scope: Scope, declaration: ast.AlgorithmDecl) -> _Body:
    body = _Body()
    for line in declaration.body:
        try:
            root = _line(scope, line, body)
            body.levels.append(scope.terms.items[root].level)
        except Poisoned:
            body.levels.append(None)
            if isinstance(line, ast.Let | ast.State):
                scope.names[line.name.name] = None
    for state, first in body.states:
        try:
            body.memory.append((state.name.name, first, _following(scope, state)))
        except Poisoned:
            continue
    return body


def _finish(scope: Scope, name: str, goal: str, root: int, body: _Body) -> Formula:
    items = scope.terms.items
    nexts = [index for _, _, index in body.memory]
    limits = [index for index, _ in body.constraints]
    roots = [root, *body.logs.values(), *limits, *nexts]
    _check_numbers(scope, roots)
    terms, renumber = kept(items, roots)
    named = {str(term.attr("name")) for term in terms if term.op == "input"}
    derived = {item for item in named if item in QUANTITIES and QUANTITIES[item].derived}
    tied = [
        max(
            (coupling(items, index, old_is_live=old) for index in (root, *limits)),
            key=list(Level).index,
        )
        for old in (True, False)
    ]
    return Formula(
        name=name,
        on=scope.on,
        params=tuple(scope.params.items()),
        terms=tuple(terms),
        goal=goal,
        objective=renumber[root],
        logs=tuple((log, renumber[index]) for log, index in body.logs.items()),
        needs=frozenset(item for item in named - derived if not item.startswith("state.")),
        coupling=tied[0],
        coupling_given_old=tied[1],
        constraints=tuple((renumber[index], bound) for index, bound in body.constraints),
        memory=tuple((state, first, renumber[index]) for state, first, index in body.memory),
    )


def _check_numbers(scope: Scope, roots: list[int]) -> None:
    """No divisor that may be zero and no constant without a value in what is computed."""
    items = scope.terms.items
    reached = reaching(items, roots)
    spans = bounds(items)
    for index in sorted(reached):
        term = items[index]
        if term.op == "impossible":
            where = scope.impossible[int(term.attr("number"))]
            scope.refuse("G310", f"`{where.text}` has no value", where)
        if term.op == "div" and index in scope.divisors and not excludes_zero(spans[term.args[1]]):
            where = scope.divisors[index]
            message = f"this divides by `{where.text}`, which can be zero"
            hint = f"add a small number, `({where.text} + 1e-6)`, or take `max(…, 1)`"
            scope.refuse("G314", message, where, hint=hint)


# --- lines ------------------------------------------------------------------------------------


def _line(scope: Scope, line: ast.FormulaStatement, body: _Body) -> int:
    match line:
        case ast.Let():
            return _let(scope, line)
        case ast.State():
            return _state(scope, line, body)
        case ast.SubjectTo():
            return _constraint(scope, line, body)
    root = expression(scope, line.value)
    term = scope.terms.items[root]
    what = f"log `{line.name.name}`" if isinstance(line, ast.Log) else line.goal
    _one_number(scope, root, what, line.value)
    if isinstance(line, ast.Log):
        if line.name.name in body.logs:
            raise scope.refuse("G303", f"`{line.name.name}` is logged twice", line.name.span)
        body.logs[line.name.name] = root
        return root
    if body.objectives:
        first = Label(body.objectives[0][0].span, "the other one")
        message = "an algorithm has one `maximize` or `minimize`"
        raise scope.refuse("G305", message, line.span, first)
    if not term.differentiable:
        message = "nothing here depends on the model: the gradient is always zero"
        raise scope.refuse("G304", message, line.value.span)
    body.objectives.append((line, root))
    return root


def _let(scope: Scope, line: ast.Let) -> int:
    _new_name(scope, line.name)
    root = expression(scope, line.value)
    name = line.name.name
    if name.endswith("advantage") and scope.terms.items[root].differentiable:
        message = f"`{name}` carries gradient; an advantage is a constant weight of the gradient"
        hint = "write `detach(…)` around what depends on the model, or choose another name"
        raise scope.refuse("G313", message, line.value.span, hint=hint)
    scope.names[name] = root
    return root


def _state(scope: Scope, line: ast.State, body: _Body) -> int:
    _new_name(scope, line.name)
    name = line.name.name
    first = scope.terms.value(expression(scope, line.initial))
    if first is None:
        message = f"`{name}` starts from a number that is known before the run"
        raise scope.refuse("G312", message, line.initial.span)
    body.states.append((line, float(first)))
    root = scope.terms.input(f"state.{name}", Level.BATCH, False)
    scope.names[name] = root
    return root


def _following(scope: Scope, line: ast.State) -> int:
    """The next value of a state; it may use every name of the algorithm."""
    root = expression(scope, line.following)
    level = scope.terms.items[root].level
    if level is not Level.BATCH:
        message = f"`{line.name.name}` keeps one number, and this is one per {level}"
        hint = "reduce it, as in `mean(… per batch)`"
        raise scope.refuse("G312", message, line.following.span, hint=hint)
    return scope.terms.apply("detach", root)


def _constraint(scope: Scope, line: ast.SubjectTo, body: _Body) -> int:
    test = line.test
    if not (isinstance(test, ast.Binary) and test.op in ("<=", ">=")):
        message = "a constraint is written `subject to EXPRESSION <= NUMBER`"
        raise scope.refuse("G315", message, test.span)
    root = expression(scope, test.left)
    limit = scope.terms.value(expression(scope, test.right))
    if limit is None or not math.isfinite(limit):
        message = "the bound of a constraint is a number that is known before the run"
        raise scope.refuse("G315", message, test.right.span)
    _one_number(scope, root, "a constraint", test.left)
    if not scope.terms.items[root].differentiable:
        message = "nothing here depends on the model, so no step can keep it"
        raise scope.refuse("G315", message, test.left.span)
    if test.op == ">=":
        root, limit = scope.terms.apply("neg", root), -limit
    body.constraints.append((root, float(limit)))
    return root


def _new_name(scope: Scope, ident: ast.Ident) -> None:
    name = ident.name
    if name in scope.names or name in scope.params or name in QUANTITIES:
        raise scope.refuse("G303", f"`{name}` already has a meaning here", ident.span)


def _one_number(scope: Scope, root: int, what: str, node: ast.Expr) -> None:
    level = scope.terms.items[root].level
    if level is not Level.BATCH:
        message = (
            f"{what} needs one number for the batch, and this is one per {level}; "
            f"reduce it, as in `mean(… per batch)`"
        )
        raise scope.refuse("G302", message, node.span)
