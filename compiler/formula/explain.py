"""An algorithm as a person reads it: its lines with levels, what it needs, how it couples."""

from __future__ import annotations

from grape.compiler.formula.ir import Formula
from grape.compiler.formula.levels import Level
from grape.dsl import ast

_SYMBOLS = {"<=": "≤", ">=": "≥", "!=": "≠", "*": "·", "and": "∧", "or": "∨"}
_NAMES = {
    "logp": "log π",
    "old_logp": "log π_old",
    "ref_logp": "log π_ref",
    "teacher_logp": "log π_teacher",
    "behavior_logp": "log π_behavior",
    "entropy": "H",
    "beta": "β",
    "clip": "ε",
    "gamma": "γ",
    "tau": "τ",
}
_BINDING = {"or": 1, "and": 2, "+": 4, "-": 4, "*": 5, "/": 5, "^": 7}
_PASSES = {
    "old_logp": "log-probs of the policy before the update (free when each batch is used once)",
    "ref_logp": "a forward pass of the reference model",
    "teacher_logp": "a forward pass of the teacher",
    "entropy": "the entropy of every token",
}
_COUPLING = {
    Level.TOKEN: "token: any two tokens can be in different micro-batches",
    Level.SEQUENCE: "sequence: a completion stays whole",
    Level.PAIR: "pair: chosen and rejected stay together",
    Level.GROUP: "group: the completions of a prompt stay together",
    Level.BATCH: "batch: a first pass without gradient collects the values",
}


def explain(declaration: ast.AlgorithmDecl, formula: Formula) -> str:
    """The document that `grape explain NAME` prints."""
    params = ", ".join(f"{name} = {value}" for name, value in formula.params)
    lines = [f"{formula.name}({params}) on {formula.on}", ""]
    if declaration.doc:
        lines += [declaration.doc, ""]
    lines += ["  " + line for line in lines_of(declaration)]
    forward = ["log-probs of the policy, with gradient"]
    forward += [text for name, text in _PASSES.items() if name in formula.needs]
    lines += ["", f"needs     {', '.join(sorted(formula.needs))}"]
    lines += [f"forwards  {'; '.join(forward)}"]
    lines += [f"coupling  {_COUPLING[formula.coupling]}"]
    return "\n".join(lines)


def lines_of(declaration: ast.AlgorithmDecl) -> list[str]:
    """Every line of an algorithm as mathematics."""
    return [_line(line) for line in declaration.body]


def _line(line: ast.FormulaStatement) -> str:
    match line:
        case ast.Let():
            return f"{line.name.name} = {mathematics(line.value)}"
        case ast.Log():
            return f"log {line.name.name} = {mathematics(line.value)}"
        case ast.Objective():
            return f"{line.goal} {mathematics(line.value)}"
        case ast.SubjectTo():
            return f"subject to {mathematics(line.test)}"


def mathematics(node: ast.Expr, binding: int = 0) -> str:
    """An expression in Unicode mathematics."""
    match node:
        case ast.Number():
            return f"{node.value:g}"
        case ast.Bool():
            return str(node.value).lower()
        case ast.Name():
            return _NAMES.get(node.name, node.name)
        case ast.Member():
            return f"{mathematics(node.value)}.{node.name.name}"
        case ast.Unary():
            inner = mathematics(node.operand, 6)
            return f"¬{inner}" if node.op == "not" else f"−{inner}"
        case ast.Binary():
            own = _BINDING.get(node.op, 3)
            op = _SYMBOLS.get(node.op, node.op)
            left = mathematics(node.left, own)
            right = mathematics(node.right, own + 1)
            text = f"{left}^{right}" if op == "^" else f"{left} {op} {right}"
            return f"({text})" if own < binding else text
        case ast.Conditional():
            parts = [mathematics(part) for part in (node.test, node.yes, node.no)]
            return f"({parts[1]} if {parts[0]}, else {parts[2]})"
        case ast.Call():
            return _call(node)
    return "…"


def _call(node: ast.Call) -> str:
    name = node.function.name if isinstance(node.function, ast.Name) else "…"
    if name == "log_sigmoid":
        name = "log σ"
    elif name == "sigmoid":
        name = "σ"
    args = [mathematics(arg.value) for arg in node.args]
    level = next((arg.per.name for arg in node.args if arg.per), None)
    if level is None:
        return f"|{args[0]}|" if name == "abs" else f"{name}({', '.join(args)})"
    shown = "Σ" if name == "sum" else name
    return f"{shown}_{level}[{args[0]}]"
