"""Function calls of formulas to terms: what each takes, at which level, and what it gives."""

from __future__ import annotations

from grape.compiler.formula import functions
from grape.compiler.formula.expressions import apply, expression, level_named, texts
from grape.compiler.formula.ir import Scalar
from grape.compiler.formula.levels import Level, covers
from grape.compiler.formula.quantities import span_name
from grape.compiler.formula.scope import Scope
from grape.dsl import ast
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Span


def call(scope: Scope, node: ast.Call) -> int:
    """The term of a call. Raises `Poisoned`."""
    if not isinstance(node.function, ast.Name):
        raise scope.refuse("G308", "only functions can be called", node.function.span)
    name = node.function.name
    if name not in functions.NAMES:
        hint = did_you_mean(name, functions.NAMES)
        raise scope.refuse("G301", f"there is no function `{name}`{hint}", node.function.span)
    if any(arg.per for arg in node.args):
        return _per(scope, name, node)
    if name in functions.WITHIN or name in functions.REDUCTIONS - set(functions.EXTREMES):
        message = f"`{name}` needs a level: `{name}(x per sequence)`"
        raise scope.refuse("G302", message, node.span)
    for arg in node.args:
        if arg.name is not None:
            raise scope.refuse("G311", f"`{name}` has no argument `{arg.name.name}`", arg.name.span)
    if name == "sum_of_parts":
        return _sum_of_parts(scope, node)
    if name == "span":
        return _span(scope, node)
    args = [expression(scope, arg.value) for arg in node.args]
    if name in functions.EXTREMES:
        if len(args) < 2:
            raise scope.refuse("G311", f"`{name}` takes two values, or one and a level", node.span)
        result = args[0]
        for other in args[1:]:
            result = apply(scope, functions.EXTREMES[name], [result, other], node.span)
        return result
    _count(scope, name, args, {"clamp": 3, "shift": 2, "gae": 4}.get(name, 1), node.span)
    if name == "gae":
        return _gae(scope, node, args)
    if name in functions.ALONG_TOKENS:
        return _along(scope, name, node, args)
    if name in functions.SIDES:
        return _side(scope, name, args[0], node.span)
    return apply(scope, name, args, node.span)


def _count(scope: Scope, name: str, args: list[int], wanted: int, span: Span) -> None:
    if len(args) != wanted:
        values = "value" if wanted == 1 else "values"
        message = f"`{name}` takes {wanted} {values}, not {len(args)}"
        raise scope.refuse("G311", message, span)


def _sum_of_parts(scope: Scope, node: ast.Call) -> int:
    if len(node.args) != 1 or scope.part is not None:
        message = "`sum_of_parts` takes one expression with `part` in it, and does not nest"
        raise scope.refuse("G311", message, node.span)
    total: int | None = None
    try:
        for label in sorted(scope.parts) or [""]:
            scope.part = label
            one = expression(scope, node.args[0].value)
            total = one if total is None else apply(scope, "add", [total, one], node.span)
    finally:
        scope.part = None
    assert total is not None
    return total


def _span(scope: Scope, node: ast.Call) -> int:
    """`span(OPENING, CLOSING)`: 1 at the tokens between two texts of the completion."""
    found = [texts(scope, arg.value) for arg in node.args]
    if len(found) != 2 or any(text is None or len(text) != 1 for text in found):
        message = '`span` takes two texts, as in `span("<think>", "</think>")`'
        raise scope.refuse("G311", message, node.span)
    opening, closing = (text[0] for text in found if text)
    if not opening and not closing:
        message = "a span without an opening and a closing text is the whole completion"
        raise scope.refuse("G311", message, node.span, hint="write `active`, or leave it out")
    return scope.terms.input(span_name(opening, closing), Level.TOKEN, False)


def _side(scope: Scope, name: str, arg: int, span: Span) -> int:
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
    return scope.terms.shaped(name, [arg], Level.PAIR)


# --- along the tokens of a sequence -----------------------------------------------------------


def _along(scope: Scope, name: str, node: ast.Call, args: list[int]) -> int:
    level = scope.terms.items[args[0]].level
    if name == "at_end":
        return _at_end(scope, args[0], node.span)
    if level is not Level.TOKEN:
        message = f"`{name}` runs along tokens, and this is one per {level}"
        raise scope.refuse("G302", message, node.span)
    if name != "shift":
        return scope.terms.shaped(name, [args[0]], Level.TOKEN)
    by = scope.terms.value(args[1])
    if by is None or by != int(by):
        raise scope.refuse("G311", "`shift` moves by a whole number", node.args[1].span)
    return scope.terms.shaped(name, [args[0]], Level.TOKEN, [("by", int(by))])


def _at_end(scope: Scope, arg: int, span: Span) -> int:
    """A value on the last token of its sequence, or of its step when it is one per step."""
    level = scope.terms.items[arg].level
    if not covers(Level.STEP, level):
        message = f"`at_end` takes one number per sequence or step, not per {level}"
        raise scope.refuse("G302", message, span)
    per = Level.STEP if level is Level.STEP else Level.SEQUENCE
    return scope.terms.shaped("at_end", [arg], Level.TOKEN, [("per", per.value)])


def _gae(scope: Scope, node: ast.Call, args: list[int]) -> int:
    """`gae(reward, value, gamma, lam)`: a reward that is not one per token comes at the end."""
    items = scope.terms.items
    for arg, written in zip(args[:2], node.args, strict=False):
        if items[arg].differentiable:
            message = "`gae` makes advantages, which are constants, and this carries gradient"
            hint = "give it `old_value`, or write `detach(…)`"
            raise scope.refuse("G313", message, written.span, hint=hint)
        if not covers(Level.TOKEN, items[arg].level):
            message = f"`gae` runs along tokens, and this is one per {items[arg].level}"
            raise scope.refuse("G302", message, written.span)
    attrs: list[tuple[str, Scalar]] = []
    for key, arg, written in zip(("gamma", "lam"), args[2:], node.args[2:], strict=True):
        value = scope.terms.value(arg)
        if value is None or not 0 <= value <= 1:
            message = f"`{key}` of `gae` is a number from 0 to 1"
            raise scope.refuse("G311", message, written.span)
        attrs.append((key, float(value)))
    reward = args[0]
    if items[reward].level is not Level.TOKEN:
        reward = _at_end(scope, reward, node.args[0].span)
    return scope.terms.shaped("gae", [reward, args[1]], Level.TOKEN, attrs)


# --- per level --------------------------------------------------------------------------------


def _per(scope: Scope, name: str, node: ast.Call) -> int:
    if name not in functions.REDUCTIONS | functions.WITHIN:
        raise scope.refuse("G311", f"`{name}` does not reduce to a level", node.span)
    first, rest = node.args[0], node.args[1:]
    if first.per is None:
        raise scope.refuse("G311", "the level belongs to the first value", node.span)
    target = level_named(scope, first.per)
    value = expression(scope, first.value)
    options = _options(scope, name, rest)
    if not isinstance(first.value, ast.Number | ast.Bool):
        constant = _switched_off(scope, name, value)
        if constant is not None:
            return constant
    level = scope.terms.items[value].level
    if level is target or not covers(level, target):
        message = f"this is one number per {level}, so it cannot be reduced per {target}"
        if level is target:
            message = f"this is one number per {level} already; a coarser level has several of it"
        raise scope.refuse("G302", message, first.span)
    if name in functions.WITHIN:
        return _within(scope, name, value, target, options, node)
    args = [value]
    if "where" in options:
        args.append(_test(scope, options["where"], level))
    attrs: list[tuple[str, Scalar]] = [("kind", name)]
    if name in ("std", "var"):
        attrs.append(("ddof", int(_number(scope, options.get("ddof"), 1, "`ddof`", (0, 1)))))
    if "singleton" in options:
        attrs.append(("singleton", _number(scope, options["singleton"], 0, "`singleton`")))
    truth = name in ("any", "all")
    flows = not truth and name != "count"
    return scope.terms.shaped("reduce", args, target, attrs, flows=flows, boolean=truth)


def _options(scope: Scope, name: str, rest: tuple[ast.Arg, ...]) -> dict[str, ast.Arg]:
    known = functions.OPTIONS.get(name, ("where",))
    found: dict[str, ast.Arg] = {}
    for arg in rest:
        if arg.name is None or arg.name.name not in known:
            has = f"; it has {', '.join(known)}" if known else ""
            raise scope.refuse("G311", f"`{name}` has no such argument{has}", arg.span)
        found[arg.name.name] = arg
    return found


def _switched_off(scope: Scope, name: str, value: int) -> int | None:
    """A parameter removed what stood here, and its level with it: the number that is left."""
    number = scope.terms.value(value)
    if number is None:
        return None
    if name in ("std", "var"):
        return scope.terms.const(0.0)
    if name in ("mean", "min", "max", "median") or (name == "sum" and number == 0):
        return value
    return None


def _test(scope: Scope, arg: ast.Arg, level: Level) -> int:
    test = expression(scope, arg.value)
    found = scope.terms.items[test].level
    if not covers(level, found):
        message = f"the values are one per {level}, and this test is one per {found}"
        raise scope.refuse("G302", message, arg.span)
    return test


def _number(
    scope: Scope, arg: ast.Arg | None, default: float, what: str, known: tuple[int, ...] = ()
) -> float:
    if arg is None:
        return default
    value = scope.terms.value(expression(scope, arg.value))
    if value is None or (known and value not in known):
        listed = " or ".join(str(item) for item in known) or "a number known before the run"
        raise scope.refuse("G311", f"{what} is {listed}", arg.span)
    return float(value)


def _within(
    scope: Scope,
    name: str,
    value: int,
    target: Level,
    options: dict[str, ast.Arg],
    node: ast.Call,
) -> int:
    level = scope.terms.items[value].level
    attrs: list[tuple[str, Scalar]] = [("per", target.value)]
    if name == "rank":
        return scope.terms.shaped("rank", [value], level, attrs, flows=False)
    if "keep" not in options:
        message = "`widest` needs how many to keep: `widest(x per batch, keep = 64)`"
        raise scope.refuse("G311", message, node.span)
    keep = _number(scope, options["keep"], 0, "`keep`")
    if keep < 1 or keep != int(keep):
        raise scope.refuse("G311", "`keep` is a whole number from 1", options["keep"].span)
    attrs.append(("keep", int(keep)))
    return scope.terms.shaped("widest", [value], level, attrs, flows=False, boolean=True)
