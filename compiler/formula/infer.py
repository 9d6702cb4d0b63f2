"""An algorithm's syntax to a typed `Formula`, or to findings that say why it is not one.

Levels are inferred from the leaves up; parameters are filled in, so that what a parameter switches
off (`beta = 0`) is not demanded. Nothing here knows torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grape.compiler.formula import functions
from grape.compiler.formula.ir import Formula, Scalar
from grape.compiler.formula.levels import Level, covers
from grape.compiler.formula.quantities import BATCHES, NOT_YET, QUANTITIES
from grape.compiler.formula.terms import Terms, kept
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Span


class _Poisoned(Exception):
    """The expression already has a finding."""


@dataclass(slots=True)
class _Scope:
    """What names mean in one algorithm, and what has been found so far."""

    on: str
    params: Mapping[str, Scalar]
    parts: frozenset[str]
    terms: Terms = field(default_factory=Terms)
    names: dict[str, int | None] = field(default_factory=dict)
    """`let` names; None for one whose expression is wrong."""
    findings: list[Finding] = field(default_factory=list)

    def refuse(self, code: str, message: str, span: Span, *labels: Label) -> _Poisoned:
        self.findings.append(Finding(code, message, span, labels))
        return _Poisoned()


def infer(
    declaration: ast.AlgorithmDecl,
    params: Mapping[str, Scalar],
    *,
    parts: frozenset[str] = frozenset(),
) -> tuple[Formula | None, list[Finding]]:
    """The formula of an algorithm with its parameters filled in.

    `parts` are the labels under which rewards were scored, for `reward.PART`. The formula is None
    when there are findings.
    """
    scope = _Scope(declaration.on.name, params, parts)
    if scope.on not in BATCHES:
        hint = did_you_mean(scope.on, BATCHES)
        scope.refuse("G306", f"there is no batch `{scope.on}`{hint}", declaration.on.span)
        return None, scope.findings
    logs: dict[str, int] = {}
    objectives: list[tuple[ast.Objective, int]] = []
    broken = False
    for line in declaration.body:
        try:
            _line(scope, line, logs, objectives)
        except _Poisoned:
            broken = True
            if isinstance(line, ast.Let):
                scope.names[line.name.name] = None
    if len(objectives) != 1 and not broken:
        message = "an algorithm has one `maximize` or `minimize`"
        scope.refuse("G305", message, declaration.name.span)
    if scope.findings or len(objectives) != 1:
        return None, scope.findings
    objective, root = objectives[0]
    formula = _finish(scope, declaration.name.name, objective.goal, root, logs)
    return formula, scope.findings


def infer_expression(
    expression: ast.Expr, on: str, *, parts: frozenset[str] = frozenset()
) -> tuple[Formula | None, list[Finding]]:
    """A formula that is one value at its own level, for the `where` of `keep`."""
    scope = _Scope(on, {}, parts)
    try:
        root = _expr(scope, expression)
    except _Poisoned:
        return None, scope.findings
    if scope.terms.items[root].live:
        message = "this needs a forward pass of the model, and none is running here"
        scope.refuse("G307", message, expression.span)
        return None, scope.findings
    return _finish(scope, "where", "value", root, {}), scope.findings


def _finish(scope: _Scope, name: str, goal: str, root: int, logs: dict[str, int]) -> Formula:
    terms, renumber = kept(scope.terms.items, [root, *logs.values()])
    named = {str(term.attr("name")) for term in terms if term.op == "input"}
    needs = {item for item in named if item not in QUANTITIES or not QUANTITIES[item].derived}
    return Formula(
        name=name,
        on=scope.on,
        params=tuple(scope.params.items()),
        terms=tuple(terms),
        goal=goal,
        objective=renumber[root],
        logs=tuple((log, renumber[index]) for log, index in logs.items()),
        needs=frozenset(needs),
        coupling=scope.terms.coupling(root),
    )


def _line(
    scope: _Scope,
    line: ast.FormulaStatement,
    logs: dict[str, int],
    objectives: list[tuple[ast.Objective, int]],
) -> None:
    if isinstance(line, ast.SubjectTo):
        message = "`subject to` is part of the language, but this version does not run it yet"
        raise scope.refuse("G309", message, line.span)
    if isinstance(line, ast.Let):
        name = line.name.name
        if name in scope.names or name in scope.params or name in QUANTITIES:
            raise scope.refuse("G303", f"`{name}` already has a meaning here", line.name.span)
        scope.names[name] = _expr(scope, line.value)
        return
    root = _expr(scope, line.value)
    term = scope.terms.items[root]
    if term.level is not Level.BATCH:
        what = f"log `{line.name.name}`" if isinstance(line, ast.Log) else line.goal
        message = (
            f"{what} needs one number for the batch, and this is one per {term.level}; "
            f"reduce it, as in `mean(… per batch)`"
        )
        raise scope.refuse("G302", message, line.value.span)
    if isinstance(line, ast.Log):
        if line.name.name in logs:
            raise scope.refuse("G303", f"`{line.name.name}` is logged twice", line.name.span)
        logs[line.name.name] = root
        return
    if objectives:
        first = Label(objectives[0][0].span, "the other one")
        raise scope.refuse(
            "G305", "an algorithm has one `maximize` or `minimize`", line.span, first
        )
    if not term.differentiable:
        message = "nothing here depends on the model: the gradient is always zero"
        raise scope.refuse("G304", message, line.value.span)
    objectives.append((line, root))


# --- expressions ------------------------------------------------------------------------------


def _expr(scope: _Scope, node: ast.Expr) -> int:
    match node:
        case ast.Number(kind="refused"):
            raise _Poisoned
        case ast.Number() | ast.Bool():
            return scope.terms.const(node.value)
        case ast.Name():
            return _name(scope, node.name, node.span)
        case ast.Member():
            return _member(scope, node)
        case ast.Unary():
            operand = _expr(scope, node.operand)
            return _apply(scope, "not" if node.op == "not" else "neg", [operand], node.span)
        case ast.Binary():
            left, right = _expr(scope, node.left), _expr(scope, node.right)
            return _apply(scope, functions.BINARY[node.op], [left, right], node.span)
        case ast.Conditional():
            args = [_expr(scope, part) for part in (node.test, node.yes, node.no)]
            return _apply(scope, "where", args, node.span)
        case ast.Call():
            return _call(scope, node)
    raise scope.refuse("G308", "a formula is made of numbers and quantities", node.span)


def _apply(scope: _Scope, op: str, args: list[int], span: Span) -> int:
    try:
        return scope.terms.apply(op, *args)
    except (ArithmeticError, ValueError):
        raise scope.refuse("G310", "these numbers cannot be combined so", span) from None


def _name(scope: _Scope, name: str, span: Span) -> int:
    if name in scope.names:
        index = scope.names[name]
        if index is None:
            raise _Poisoned
        return index
    if name in scope.params:
        value = scope.params[name]
        if isinstance(value, str):
            raise scope.refuse("G308", f"`{name}` is text, not a number", span)
        return scope.terms.const(value)
    if name in NOT_YET:
        message = f"`{name}` is part of the language, but this version does not compute it yet"
        raise scope.refuse("G309", message, span)
    if name not in QUANTITIES:
        known = [*scope.names, *scope.params, *QUANTITIES]
        raise scope.refuse("G301", f"there is no `{name}`{did_you_mean(name, known)}", span)
    quantity = QUANTITIES[name]
    if scope.on not in quantity.on:
        step = (
            "score them first: `score(rollouts, …)`"
            if name == "reward"
            else (f"only {' and '.join(quantity.on)} have it")
        )
        raise scope.refuse("G307", f"{scope.on} have no `{name}`; {step}", span)
    return scope.terms.input(name, quantity.level, quantity.live)


def _member(scope: _Scope, node: ast.Member) -> int:
    if not (isinstance(node.value, ast.Name) and node.value.name == "reward"):
        raise scope.refuse("G308", "only `reward.PART` has a part", node.span)
    _name(scope, "reward", node.value.span)
    part = node.name.name
    if scope.parts and part not in scope.parts:
        hint = did_you_mean(part, scope.parts)
        raise scope.refuse("G301", f"the reward has no part `{part}`{hint}", node.name.span)
    return scope.terms.input(f"reward.{part}", Level.SEQUENCE, False)


def _call(scope: _Scope, node: ast.Call) -> int:
    if not isinstance(node.function, ast.Name):
        raise scope.refuse("G308", "only functions can be called", node.function.span)
    name = node.function.name
    if name in functions.NOT_YET:
        message = f"`{name}` is part of the language, but this version does not compute it yet"
        raise scope.refuse("G309", message, node.function.span)
    if name not in functions.NAMES:
        hint = did_you_mean(name, functions.NAMES)
        raise scope.refuse("G301", f"there is no function `{name}`{hint}", node.function.span)
    positional = [arg for arg in node.args if arg.name is None]
    if any(arg.per for arg in node.args):
        return _reduction(scope, name, node)
    if name in functions.REDUCTIONS and name not in functions.EXTREMES:
        message = f"`{name}` needs the level it reduces to: `{name}(x per sequence)`"
        raise scope.refuse("G302", message, node.span)
    for arg in node.args:
        if arg.name is not None:
            raise scope.refuse("G311", f"`{name}` has no argument `{arg.name.name}`", arg.name.span)
    if name in functions.ALONG_TOKENS:
        return _along(scope, name, node, positional)
    args = [_expr(scope, arg.value) for arg in positional]
    if name in functions.EXTREMES:
        if len(args) < 2:
            raise scope.refuse("G311", f"`{name}` takes two values, or one and a level", node.span)
        result = args[0]
        for other in args[1:]:
            result = _apply(scope, functions.EXTREMES[name], [result, other], node.span)
        return result
    wanted = 3 if name == "clamp" else 1
    if len(args) != wanted:
        raise scope.refuse(
            "G311", f"`{name}` takes {wanted} value{'s' * (wanted > 1)}, not {len(args)}", node.span
        )
    if name in functions.SIDES:
        return _side(scope, name, args[0], node.span)
    return _apply(scope, name, args, node.span)


def _side(scope: _Scope, name: str, arg: int, span: Span) -> int:
    if scope.on != "Preferences":
        message = (
            f"`{name}` picks one of a pair, and {scope.on} have no pairs; make them: `pair(…)`"
        )
        raise scope.refuse("G307", message, span)
    level = scope.terms.items[arg].level
    if covers(Level.PAIR, level):
        return arg
    if level is not Level.SEQUENCE:
        message = f"`{name}` takes one number per sequence, and this is one per {level}"
        raise scope.refuse("G302", message, span)
    return scope.terms.shaped(name, arg, Level.PAIR)


def _along(scope: _Scope, name: str, node: ast.Call, args: list[ast.Arg]) -> int:
    wanted = 2 if name == "shift" else 1
    if len(args) != wanted:
        raise scope.refuse("G311", f"`{name}` takes {wanted} value(s)", node.span)
    value = _expr(scope, args[0].value)
    level = scope.terms.items[value].level
    if name == "at_end":
        if not covers(Level.SEQUENCE, level):
            raise scope.refuse(
                "G302", f"`at_end` takes one number per sequence, not per {level}", node.span
            )
        return scope.terms.shaped(name, value, Level.TOKEN)
    if level is not Level.TOKEN:
        raise scope.refuse(
            "G302", f"`{name}` runs along tokens, and this is one per {level}", node.span
        )
    if name != "shift":
        return scope.terms.shaped(name, value, Level.TOKEN)
    by = args[1].value
    sign = -1 if isinstance(by, ast.Unary) else 1
    by = by.operand if isinstance(by, ast.Unary) else by
    if not (isinstance(by, ast.Number) and by.kind == "int"):
        raise scope.refuse("G311", "`shift` moves by a whole number", node.args[1].span)
    return scope.terms.shaped(name, value, Level.TOKEN, [("by", sign * int(by.value))])


def _reduction(scope: _Scope, name: str, node: ast.Call) -> int:
    if name not in functions.REDUCTIONS:
        raise scope.refuse("G311", f"`{name}` does not reduce to a level", node.span)
    first, rest = node.args[0], node.args[1:]
    if first.per is None:
        raise scope.refuse("G311", "the level belongs to the first value", node.span)
    ddof: int | float = 1
    for arg in rest:
        if arg.name is None or arg.name.name != "ddof" or name not in ("std", "var"):
            raise scope.refuse("G311", f"`{name}` has no such argument", arg.span)
        if not (isinstance(arg.value, ast.Number) and arg.value.value in (0, 1)):
            raise scope.refuse("G311", "`ddof` is 0 or 1", arg.span)
        ddof = arg.value.value
    try:
        target = Level(first.per.name)
    except ValueError:
        hint = did_you_mean(first.per.name, [level.value for level in Level])
        raise scope.refuse(
            "G301", f"there is no level `{first.per.name}`{hint}", first.per.span
        ) from None
    if target in (Level.STEP, Level.VOCAB):
        message = f"the level `{target}` is part of the language, but this version has none yet"
        raise scope.refuse("G309", message, first.per.span)
    if target is Level.PAIR and scope.on != "Preferences":
        raise scope.refuse("G307", f"{scope.on} have no pairs", first.per.span)
    value = _expr(scope, first.value)
    level = scope.terms.items[value].level
    switched_off = scope.terms.value(value) == 0 and not isinstance(first.value, ast.Number)
    if switched_off and name in ("mean", "sum", "min", "max", "median", "std", "var"):
        return value  # a parameter of 0 removed what stood here, and its level with it
    if level is target or not covers(level, target):
        message = f"this is one number per {level}, so it cannot be reduced per {target}"
        raise scope.refuse("G302", message, first.span)
    attrs: list[tuple[str, Scalar]] = [("kind", name)]
    if name in ("std", "var"):
        attrs.append(("ddof", int(ddof)))
    return scope.terms.shaped("reduce", value, target, attrs)
