"""From `algorithm = grpo(beta = 0.02)` to a `Formula`, and `where` of `keep` likewise.

Formula inference itself is in `formula/`; here names and parameters are resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grape.compiler.constants import Scope, Value
from grape.compiler.formula.ir import Formula
from grape.compiler.modules import Module, known_names, lookup
from grape.compiler.names import Refused, refuse, unknown
from grape.compiler.params import call_values, check_declared, default_of
from grape.dsl import ast
from grape.dsl.findings import Finding
from grape.dsl.source import Span


def declaration_of(expr: ast.Expr, module: Module) -> tuple[ast.AlgorithmDecl, Module]:
    """The algorithm that a call names. Raises `Refused`."""
    if not isinstance(expr, ast.Call) or not isinstance(expr.function, ast.Name):
        text = expr.span.text
        plain = expr.value if isinstance(expr, ast.String) else text
        callable_ = isinstance(expr, ast.Name) or plain in library()
        hint = f"write `{plain}()`" if callable_ else None
        refuse("G216", f"`{text}` is no algorithm; algorithms are called", expr.span, hint=hint)
    name = expr.function.name
    found = lookup(module, name)
    if found is None:
        known = known_names(module, ast.AlgorithmDecl)
        if name in library():
            message = f"the algorithm `{name}` is not imported"
            hint = f'add `use {name} from "std/algorithms"`'
            refuse("G101", message, expr.function.span, hint=hint)
        unknown("G101", f"there is no algorithm `{name}`", name, expr.function.span, known)
    declaration, home = found
    if not isinstance(declaration, ast.AlgorithmDecl):
        refuse("G216", f"`{name}` is a reward, an algorithm is expected here", expr.span)
    return declaration, home


def library() -> list[str]:
    """Names of the algorithms that ship with Grape."""
    from grape.compiler.modules import STD

    return sorted(path.stem for path in (STD / "algorithms").glob("*.grape"))


def formula_of(
    expr: ast.Call,
    declaration: ast.AlgorithmDecl,
    scope: Scope,
    parts: frozenset[str],
    findings: list[Finding],
) -> Formula:
    """The algorithm with its parameters filled in. Raises `Refused`; what inference finds in the
    algorithm itself goes to `findings`."""
    check_declared(declaration.params)
    name = declaration.name.name
    _check_settings(name, declaration, expr)
    values = call_values(name, declaration.params, expr.args, scope, expr.span)
    formula, found = _inferred(declaration, values, parts)
    findings += found
    if formula is None:
        raise Refused(None)
    _trainable(formula, expr.span)
    return formula


def _trainable(formula: Formula, span: Span) -> None:
    """Refuse what only `evaluate` runs so far. Raises `Refused`."""
    what = untrained(formula)
    if what:
        listed = " and ".join((", ".join(what[:-1]), what[-1]) if len(what) > 1 else what)
        message = f"`{formula.name}` uses {listed}, which `train` does not supply yet"
        hint = "its loss on tensors of your own is `grape.algorithm(…).evaluate(batch)`"
        refuse("G309", message, span, hint=hint)


def untrained(formula: Formula) -> list[str]:
    """What of a formula `train` does not supply yet, each in the reader's words."""
    from grape.compiler.formula.quantities import SAMPLED, TRAINED, markers_of
    from grape.compiler.formula.vocabulary import Uncut, split

    lacking = sorted(
        name
        for name in formula.needs
        if name.partition(".")[0] not in (*TRAINED, *SAMPLED, "reward") and not markers_of(name)
    )
    what = [f"`{name}`" for name in lacking]
    try:
        split(formula)
    except Uncut as reason:
        what.append(str(reason))
    what += [f"the level `{level}`" for level in sorted(formula.index_sets - SAMPLED.keys())]
    return what


def check_sampled(formula: Formula, adds: frozenset[str], span: Span) -> None:
    """Refuse a formula that reads what the sampler behind its data does not bring. Raises
    `Refused`."""
    from grape.compiler.formula.quantities import SAMPLED

    lacking = sorted(((formula.needs | formula.index_sets) & SAMPLED.keys()) - adds)
    if lacking:
        message = f"`{formula.name}` reads `{lacking[0]}`, which its rollouts do not bring"
        refuse("G270", message, span, hint=SAMPLED[lacking[0]])


def check_known(formula: Formula, adds: frozenset[str], span: Span) -> None:
    """Refuse a `where` that reads what is not known before training. Raises `Refused`."""
    from grape.compiler.formula.levels import Level, covers
    from grape.compiler.formula.quantities import BEFORE_TRAINING

    check_sampled(formula, adds, span)
    known = BEFORE_TRAINING | adds | {"step_index"}
    lacking = sorted(name for name in formula.needs if name.partition(".")[0] not in known)
    levels = sorted(f"{level}" for level in formula.index_sets - adds)
    if lacking or levels:
        name = [*lacking, *levels][0]
        message = f"`where` reads `{name}`, which nobody knows before training"
        hint = "it may read the reward and its parts, `length`, `truncated` and `behavior_logp`"
        refuse("G274", message, span, hint=hint)
    level = formula.terms[formula.objective].level
    if not covers(Level.SEQUENCE, level):
        message = f"`where` decides about whole completions, and this is one per {level}"
        refuse("G302", message, span, hint="reduce it first: `any(… per sequence)`")


def goes_through_parts(declaration: ast.AlgorithmDecl) -> bool:
    """Whether the algorithm uses `sum_of_parts`."""

    def within(node: ast.Expr) -> bool:
        named = isinstance(node, ast.Name) and node.name == "sum_of_parts"
        return named or any(within(inner) for inner in ast.inside(node))

    lines = (expressions_of(statement) for statement in declaration.body)
    return any(within(expr) for exprs in lines for expr in exprs)


def _check_settings(name: str, declaration: ast.AlgorithmDecl, expr: ast.Call) -> None:
    """A setting of the stage among the parameters of its algorithm: a common slip."""
    from grape.compiler.verbs import verb

    known = {param.name.name for param in declaration.params}
    for arg in expr.args:
        if arg.name is None or arg.name.name in known:
            continue
        if arg.name.name in verb("train").settings.model_fields:
            hint = f"`{arg.name.name}` is a setting of `train`: write it beside `algorithm`"
            refuse("G108", f"`{name}` has no parameter `{arg.name.name}`", arg.name.span, hint=hint)


def check_declaration(declaration: ast.AlgorithmDecl, findings: list[Finding]) -> None:
    """Infer an algorithm with its defaults; one with a parameter without default is checked where
    it is used, since its parts and values are known there. Raises `Refused`."""
    check_declared(declaration.params)
    values: dict[str, Value] = {}
    for param in declaration.params:
        if param.default is None:
            return
        values[param.name.name] = default_of(param, values, declaration.name.name, param.span)
    findings += _inferred(declaration, values, mentioned_parts(declaration))[1]


MAX_KEPT = 256
"""Inferred formulas that are kept."""

_Inferred = tuple[Formula | None, tuple[Finding, ...]]
_kept: dict[tuple[int, str, frozenset[str]], tuple[ast.AlgorithmDecl, _Inferred]] = {}


def _inferred(
    declaration: ast.AlgorithmDecl, values: Mapping[str, Value], parts: frozenset[str]
) -> _Inferred:
    """What inference says, kept for the same declaration (the same object) and the same values:
    stages often share an algorithm, and an editor checks a file at every keystroke."""
    from grape.compiler.formula.infer import infer

    key = id(declaration), repr(sorted(_scalars(values).items())), parts
    if key not in _kept:
        formula, found = infer(declaration, _scalars(values), parts=parts)
        while len(_kept) >= MAX_KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = (
            declaration,
            (formula, tuple(found)),
        )  # kept alive, so that its id stays its own
    return _kept[key][1]


def mentioned_parts(declaration: ast.AlgorithmDecl) -> frozenset[str]:
    """The parts that an algorithm reads as `reward.PART`; which of them exist, only a use tells."""
    found: set[str] = set()
    for statement in declaration.body:
        for expr in expressions_of(statement):
            _collect(expr, found)
    return frozenset(found)


def expressions_of(statement: ast.FormulaStatement) -> tuple[ast.Expr, ...]:
    """The expressions of one line of an algorithm."""
    match statement:
        case ast.SubjectTo():
            return (statement.test,)
        case ast.State():
            return (statement.initial, statement.following)
    return (statement.value,)


def _collect(node: ast.Expr, found: set[str]) -> None:
    match node:
        case ast.Member(ast.Name("reward"), part):
            found.add(part.name)
    for inner in ast.inside(node):
        _collect(inner, found)


def condition_of(expr: ast.Expr, parts: frozenset[str], findings: list[Finding]) -> Formula:
    """The `where` of `keep` as a formula over Rollouts. Raises `Refused`."""
    from grape.compiler.formula.infer import infer_expression

    formula, found = infer_expression(expr, "Rollouts", parts=parts)
    findings += found
    if formula is None:
        raise Refused(None)
    return formula


def _scalars(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: value.plain() for name, value in values.items()}
