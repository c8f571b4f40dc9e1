"""Python source as Ruff's formatter would lay it out, for the operations that Alembic renders."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

__all__ = ["literal", "roots", "tidy"]

# The narrowest width in common use: a call broken for it, with its trailing comma, stays broken at any other.
_WIDTH = 88


def tidy(code: str) -> str:
    """Return statements laid out for the body of a function, four columns in."""
    return "\n".join(line for statement in _parse(code).body for line in _statement(statement, 4))


def roots(code: str) -> set[str]:
    """Return the names that statements begin their dotted names with, such as `op` and `sa`."""
    return {node.id for node in ast.walk(_parse(code)) if isinstance(node, ast.Name)}


def literal(value: object) -> str:
    """Return a string, None or tuple of them as source."""
    return _flat(ast.parse(repr(value), mode="eval").body)


def _parse(code: str) -> ast.Module:
    return ast.parse(textwrap.dedent(code))


def _statement(statement: ast.stmt, indent: int) -> Iterator[str]:
    margin = " " * indent
    if isinstance(statement, ast.With):
        yield margin + ast.unparse(statement).partition("\n")[0].replace("'", '"')
        for inner in statement.body:
            yield from _statement(inner, indent + 4)
    elif isinstance(statement, ast.Expr):
        yield margin + _fitted(statement.value, indent, 0)
    else:
        yield from textwrap.indent(ast.unparse(statement), margin).splitlines()


def _fitted(node: ast.expr, indent: int, used: int) -> str:
    flat = _flat(node)
    if indent + used + len(flat) <= _WIDTH:
        return flat
    if isinstance(node, ast.Call) and (node.args or node.keywords):
        arguments = [("", argument) for argument in node.args]
        arguments += [(f"{keyword.arg}=", keyword.value) for keyword in node.keywords]
        return _broken(f"{_flat(node.func)}(", arguments, ")", indent)
    if isinstance(node, ast.List) and node.elts:
        return _broken("[", [("", element) for element in node.elts], "]", indent)
    return flat


def _broken(head: str, parts: list[tuple[str, ast.expr]], tail: str, indent: int) -> str:
    margin = " " * (indent + 4)
    lines = [f"{margin}{name}{_fitted(part, indent + 4, len(name) + 1)}," for name, part in parts]
    return "\n".join([head, *lines, f"{' ' * indent}{tail}"])


def _flat(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return _quoted(text)
        case ast.Attribute(value=value, attr=name):
            return f"{_flat(value)}.{name}"
        case ast.Call(func=function, args=arguments, keywords=keywords):
            parts = [_flat(argument) for argument in arguments]
            parts += [f"{keyword.arg}={_flat(keyword.value)}" for keyword in keywords]
            return f"{_flat(function)}({', '.join(parts)})"
        case ast.List(elts=elements):
            return f"[{', '.join(map(_flat, elements))}]"
        case ast.Tuple(elts=elements):
            return f"({', '.join(map(_flat, elements))}{',' if len(elements) == 1 else ''})"
        case _:
            return ast.unparse(node)


def _quoted(text: str) -> str:
    shown = repr(text)
    return shown if '"' in text or shown.startswith('"') else f'"{shown[1:-1]}"'
