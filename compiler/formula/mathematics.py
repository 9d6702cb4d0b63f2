"""Expressions of formulas as mathematics, in Unicode or in LaTeX.

Tests of parameters alone are decided with their values, so that a reader sees the variant at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grape.compiler.formula.ir import Scalar
from grape.dsl import ast

_POLICIES = ("old", "ref", "teacher", "behavior", "proposal")
_UNICODE = {
    "logp": "log π",
    "logp_all": "log π(·)",
    **{f"{name}_logp": f"log π_{name}" for name in _POLICIES},
    **{f"{name}_logp_all": f"log π_{name}(·)" for name in _POLICIES},
    "entropy": "H",
    "reward": "r",
    "value": "V",
    "old_value": "V_old",
    "length": "ℓ",
    "beta": "β",
    "gamma": "γ",
    "lam": "λ",
    "tau": "τ",
    "alpha": "α",
    "eps": "ε",
    "delta": "δ",
    "kappa": "κ",
    "rho": "ρ",
    "eta": "η",
}
_LATEX = {
    "logp": r"\log \pi",
    "logp_all": r"\log \pi(\cdot)",
    **{f"{name}_logp": rf"\log \pi_{{\text{{{name}}}}}" for name in _POLICIES},
    **{f"{name}_logp_all": rf"\log \pi_{{\text{{{name}}}}}(\cdot)" for name in _POLICIES},
    "entropy": "H",
    "reward": "r",
    "value": "V",
    "length": r"\ell",
    "old_value": r"V_{\text{old}}",
    "beta": r"\beta",
    "gamma": r"\gamma",
    "lam": r"\lambda",
    "tau": r"\tau",
    "alpha": r"\alpha",
    "eps": r"\varepsilon",
    "delta": r"\delta",
    "kappa": r"\kappa",
    "rho": r"\rho",
    "eta": r"\eta",
}
_BINDING = {"or": 1, "and": 2, "+": 4, "-": 4, "*": 5, "/": 5, "^": 7}
_OPERATORS = {
    "<=": "≤",
    ">=": "≥",
    "!=": "≠",
    "==": "=",
    "*": "·",
    "and": "∧",
    "or": "∨",
    "-": "−",
    "in": "∈",
}
_LATEX_OPERATORS = {
    "<=": r"\le",
    ">=": r"\ge",
    "!=": r"\ne",
    "==": "=",
    "*": r"\,",
    "and": r"\land",
    "or": r"\lor",
    "in": r"\in",
}
_FUNCTIONS = {"log_sigmoid": "log σ", "sigmoid": "σ", "sqrt": "√", "detach": "sg"}
_LATEX_FUNCTIONS = {
    "log_sigmoid": r"\log \sigma",
    "sigmoid": r"\sigma",
    "exp": r"\exp",
    "log": r"\log",
    "min": r"\min",
    "max": r"\max",
    "tanh": r"\tanh",
    "detach": r"\operatorname{sg}",
}


def _verbatim(text: str) -> str:
    """Text inside LaTeX mathematics."""
    plain = text.strip().replace("\\", r"\textbackslash ")
    for special in "#$%&_{}":
        plain = plain.replace(special, "\\" + special)
    return rf"\text{{{plain}}}"


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes expressions; `params` are values that decide tests of parameters."""

    params: Mapping[str, Scalar]
    latex: bool = False

    def name(self, name: str) -> str:
        """A quantity, parameter or `let` name."""
        if not self.latex:
            return _UNICODE.get(name, name)
        return _LATEX.get(name) or rf"\text{{{name.replace('_', ' ')}}}"

    def write(self, node: ast.Expr, binding: int = 0) -> str:
        """The expression, in brackets where `binding` is tighter than its own."""
        match node:
            case ast.Number():
                return self._number(node.value)
            case ast.Bool():
                return str(node.value).lower()
            case ast.String():
                return rf"\text{{{node.value}}}" if self.latex else f'"{node.value}"'
            case ast.List():
                return "{" + ", ".join(self.write(item) for item in node.items) + "}"
            case ast.Name():
                return self.name(node.name)
            case ast.Member():
                return (
                    f"{self.write(node.value)}_{{{node.name.name}}}"
                    if self.latex
                    else (f"{self.write(node.value)}.{node.name.name}")
                )
            case ast.Unary():
                sign = ("\\lnot " if self.latex else "¬") if node.op == "not" else "−"
                sign = "-" if self.latex and node.op == "-" else sign
                return self._bracketed(sign + self.write(node.operand, 6), binding > 6)
            case ast.Binary():
                return self._binary(node, binding)
            case ast.Conditional():
                return self._conditional(node, binding)
            case ast.Call():
                return self._call(node)
        return "…"

    def _number(self, value: float) -> str:
        """`1e-8`, and 10 to the power of -8 in LaTeX."""
        digits, _, power = f"{value:g}".partition("e")
        if not power:
            return digits
        if not self.latex:
            return f"{digits}e{int(power)}"
        factor = "" if digits == "1" else rf"{digits} \cdot "
        return f"{factor}10^{{{int(power)}}}"

    def decided(self, test: ast.Expr) -> bool | None:
        """Whether a test of parameters alone holds; None for one of the batch."""
        from grape.compiler.constants import Value, truth
        from grape.compiler.names import Refused

        kinds = {bool: "bool", int: "int", float: "float", str: "string"}
        scope = {name: Value(value, kinds[type(value)]) for name, value in self.params.items()}
        try:
            return truth(test, scope)
        except Refused:
            return None

    def _bracketed(self, text: str, needed: bool) -> str:
        if not needed:
            return text
        return rf"\left({text}\right)" if self.latex else f"({text})"

    def _binary(self, node: ast.Binary, binding: int) -> str:
        own = _BINDING.get(node.op, 3)
        if self.latex and node.op == "/":
            return rf"\frac{{{self.write(node.left)}}}{{{self.write(node.right)}}}"
        if node.op == "^":
            power = self.write(node.right, 0 if self.latex else own)
            base = self.write(node.left, own + 1)
            return f"{base}^{{{power}}}" if self.latex else f"{base}^{power}"
        left, right = self.write(node.left, own), self.write(node.right, own + 1)
        if isinstance(node.right, ast.Unary) and node.right.op == "-":
            right = self._bracketed(self.write(node.right), True)
        shown = (_LATEX_OPERATORS if self.latex else _OPERATORS).get(node.op, node.op)
        return self._bracketed(f"{left} {shown} {right}", own < binding)

    def _conditional(self, node: ast.Conditional, binding: int) -> str:
        decided = self.decided(node.test)
        if decided is not None:
            return self.write(node.yes if decided else node.no, binding)
        test, yes, no = (self.write(part) for part in (node.test, node.yes, node.no))
        if self.latex:
            return (
                rf"\begin{{cases}} {yes} & \text{{if }} {test} \\ "
                rf"{no} & \text{{else}} \end{{cases}}"
            )
        return f"({yes} if {test}, else {no})"

    def _call(self, node: ast.Call) -> str:
        name = node.function.name if isinstance(node.function, ast.Name) else "…"
        if name == "span":
            return self._span(node)
        level = next((arg.per.name for arg in node.args if arg.per), None)
        args = [self.write(arg.value) for arg in node.args if arg.name is None]
        if level is not None:
            return self._reduction(name, level, args[0], node)
        if name == "abs":
            return rf"\left|{args[0]}\right|" if self.latex else f"|{args[0]}|"
        if name == "sqrt" and self.latex:
            return rf"\sqrt{{{args[0]}}}"
        listed = ", ".join(args)
        if not self.latex:
            return f"{_FUNCTIONS.get(name, name)}({listed})"
        plain = name.replace("_", r"\_")
        shown = _LATEX_FUNCTIONS.get(name) or rf"\operatorname{{{plain}}}"
        return rf"{shown}\left({listed}\right)"

    def _span(self, node: ast.Call) -> str:
        """The indicator of the tokens between two texts, the texts of parameters written out."""
        found = [
            str(self.params.get(arg.value.name, arg.value.name))
            if isinstance(arg.value, ast.Name)
            else arg.value.value
            for arg in node.args
            if isinstance(arg.value, ast.Name | ast.String)
        ]
        ends = [text.strip() or word for text, word in zip(found, ("start", "end"), strict=True)]
        if self.latex:
            return r"\mathbb{1}_{" + r"\ldots ".join(_verbatim(text) for text in ends) + "}"
        return f"𝟙[{' to '.join(ends)}]"

    def _reduction(self, name: str, level: str, value: str, node: ast.Call) -> str:
        named = {arg.name.name: arg for arg in node.args if arg.name}
        where = named.pop("where", None)
        more = [f"{option} {self.write(arg.value)}" for option, arg in named.items()]
        if more:
            listed = ", ".join(more)
            value += rf"\text{{; {listed}}}" if self.latex else f"; {listed}"
        if self.latex:
            shown = r"\sum" if name == "sum" else rf"\operatorname{{{name}}}"
            test = "" if where is None else rf" \,\middle|\, {self.write(where.value)}"
            return rf"{shown}_{{\text{{{level}}}}}\left[{value}{test}\right]"
        test = "" if where is None else f" | {self.write(where.value)}"
        return f"{'Σ' if name == 'sum' else name}_{level}[{value}{test}]"
