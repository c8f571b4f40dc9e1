"""Server defaults: compared by what they mean and written so that both databases read them.

Alembic compares them by their text: it takes `'it''s'` for a change of `it's`, and writes the `0` that SQLite
has for false, which PostgreSQL refuses.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import AlterColumnOp
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult

__all__ = ["PLUGIN", "render_default"]

PLUGIN = "backstay.server_defaults"

_CAST = re.compile(r"^(.*)::[a-z][\w \"\[\](),.]*$", re.DOTALL | re.IGNORECASE)
_LITERAL = re.compile(r"^'((?:[^']|'')*)'$")
_SAME = {"now()": "current_timestamp", "false": "0", "true": "1"}


def _compare(  # noqa: PLR0913, PLR0917 - Alembic calls it so
    context: AutogenContext,
    change: AlterColumnOp,
    schema: str | None,
    table: str,
    name: str,
    existing: sa.Column[Any],
    wanted: sa.Column[Any],
) -> PriorityDispatchResult:
    before, after = existing.server_default, wanted.server_default
    if not isinstance(before, sa.DefaultClause) or not isinstance(after, sa.DefaultClause):
        return PriorityDispatchResult.CONTINUE
    change.existing_server_default = before
    is_text = isinstance(after.arg, str)
    if _meaning(_source(before, context)) == (after.arg if is_text else _meaning(_source(after, context))):
        return PriorityDispatchResult.STOP
    if not is_text:
        return PriorityDispatchResult.CONTINUE
    change.modify_server_default = after
    return PriorityDispatchResult.STOP


def _source(default: Any, context: AutogenContext) -> str:
    return str(default.arg.compile(dialect=context.dialect, compile_kwargs={"literal_binds": True}))


def _meaning(source: str) -> str:
    text = source.strip()
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if match := _CAST.match(text):
        text = match[1]
    if match := _LITERAL.match(text):
        return match[1].replace("''", "'")
    return _SAME.get(text.lower(), text.lower())


def render_default(default: object) -> str | Literal[False]:
    """Return a server default as both databases read it, or False to leave it to Alembic."""
    meaning = default.arg if isinstance(default, sa.DefaultClause) else None
    source = meaning.text if isinstance(meaning, sa.TextClause) else ""
    if isinstance(meaning, sa.sql.functions.now) or _meaning(source) == "current_timestamp":
        return "sa.func.now()"
    if isinstance(meaning, sa.True_ | sa.False_):
        return f"sa.{str(meaning).lower()}()"
    return repr(_meaning(source)) if _LITERAL.match(_CAST.sub(r"\1", source)) else False


Plugin(PLUGIN).add_autogenerate_comparator(
    _compare, "column", "server_default", priority=DispatchPriority.FIRST
)
