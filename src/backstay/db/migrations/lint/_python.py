"""What the Python of a migration says: comments that allow something, and habits that SQL does not show."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import sqlalchemy as sa

__all__ = ["Allowance", "Habit", "read_allowances", "read_habits"]

_ALLOW = re.compile(r"#\s*allow\[(?P<rules>[^\]]*)\]\s*:?\s*(?P<reason>.*)")
_DATA = ("DELETE", "INSERT", "MERGE", "SELECT", "UPDATE", "WITH")
_OTHERS = ("alembic", "backstay", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Allowance:
    """A comment `# allow[rule]: reason`, and the lines that it speaks of."""

    line: int
    rules: tuple[str, ...]
    reason: str
    lines: range


@dataclass(frozen=True, slots=True)
class Habit:
    """A rule that the source breaks, and about what."""

    rule: str
    line: int
    what: str


def read_allowances(source: str) -> Iterator[Allowance]:
    """Yield the comments that allow something; one alone on its line speaks of the statement below it."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        match = _ALLOW.match(token.string) if token.type == tokenize.COMMENT else None
        if match:
            line, is_alone = token.start[0], not token.line[: token.start[1]].strip()
            rules = tuple(filter(None, (rule.strip() for rule in match["rules"].split(","))))
            yield Allowance(
                line, rules, match["reason"].strip(), _lines_meant(statements, line, is_alone=is_alone)
            )


def _lines_meant(statements: Sequence[ast.stmt], line: int, *, is_alone: bool) -> range:
    # A comment below `def upgrade():` speaks of the first statement, one inside of a call of the call.
    holders = [one for one in statements if not (is_alone and hasattr(one, "body"))]
    around = [_head(one) for one in holders if line in _head(one)]
    below = [_head(one) for one in statements if one.lineno > line]
    if around:
        return max(around, key=lambda lines: lines.start)
    return min(below, key=lambda lines: lines.start, default=range(0))


def _head(statement: ast.stmt) -> range:
    """Return the lines of a statement, of a compound one those above its body."""
    body: list[ast.stmt] = getattr(statement, "body", [])
    end = body[0].lineno if body else (statement.end_lineno or statement.lineno) + 1
    return range(statement.lineno, max(end, statement.lineno + 1))


def read_habits(source: str, *, does_something: bool) -> Iterator[Habit]:
    """Yield what the source does that it should not.

    Args:
        source: The migration.
        does_something: Whether its upgrade() changes anything.
    """
    tree = ast.parse(source)
    yield from _imported_models(tree)
    yield from _pasted_values(tree)
    if does_something:
        yield from _missing_way_back(tree)


def _imported_models(tree: ast.Module) -> Iterator[Habit]:
    for node in ast.walk(tree):
        for module, name in _imports(node):
            if module.partition(".")[0] not in _OTHERS and _has_model(module, name):
                assert isinstance(node, ast.stmt)  # noqa: S101 - for the type checker
                yield Habit("imports-models", node.lineno, f"{module}.{name}" if name else module)


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from ((node.module, alias.name) for alias in node.names)


def _has_model(module: str, name: str) -> bool:
    found: object = sys.modules.get(module)
    if name:
        found = getattr(found, name, None)
    inside = vars(found).values() if isinstance(found, ModuleType) else [found]
    return any(_is_model(one) for one in inside)


def _is_model(value: object) -> bool:
    return isinstance(value, sa.Table) or (isinstance(value, type) and hasattr(value, "__mapper__"))


def _pasted_values(tree: ast.Module) -> Iterator[Habit]:
    told: set[int] = set()
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name == "downgrade":
            continue
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and _called(call) in {"execute", "text"} and call.args:
                start = _literal_start(call.args[0])
                verb = start.split(maxsplit=1)[0].upper() if start.strip() else ""
                if verb in _DATA and call.args[0].lineno not in told:
                    told.add(call.args[0].lineno)
                    yield Habit("interpolated-sql", call.args[0].lineno, verb)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _literal_start(node: ast.expr) -> str:
    """Return how a text begins that something is pasted into; nothing for one that is written out."""
    match node:
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), _, *_]):
            return start
        case ast.BinOp(left=ast.Constant(value=str(start)), op=ast.Mod() | ast.Add(), right=right):
            return "" if isinstance(right, ast.Constant) and isinstance(node.op, ast.Add) else start
        case ast.BinOp(left=ast.BinOp() as left):
            return _literal_start(left)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(start)), attr="format")):
            return start
    return ""


def _missing_way_back(tree: ast.Module) -> Iterator[Habit]:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    downgrade = functions.get("downgrade")
    if downgrade is None:
        upgrade = functions.get("upgrade")
        yield Habit("irreversible", upgrade.lineno if upgrade else 1, "is missing")
        return
    body = [statement for statement in downgrade.body if not _says_nothing(statement)]
    if not body:
        yield Habit("irreversible", downgrade.lineno, "does nothing")
    elif isinstance(body[0], ast.Raise):
        yield Habit("irreversible", downgrade.lineno, "raises")


def _says_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
