"""SQL without the values that somebody wrote into it."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["operation_of", "strip_literals"]

_LONGEST = 2_000
"""Characters of a statement that are shown."""

_LITERAL = re.compile(
    r"""
      --[^\n]*                                          # comments may hold anything
    | /\*.*?(?:\*/|\Z)
    | \$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|\Z)  # $$ text $$
    | \b[Ee]'(?:[^'\\]|\\.|'')*(?:'|\Z)                # only here a backslash escapes
    | (?:\b[BbXxNn]|\b[Uu]&)?'(?:[^']|'')*(?:'|\Z)
    | (?P<name>"\w+"|[$:@?]\w+|[^\W\d]\w*)             # names and placeholders keep their digits
    | "(?:[^"]|"")*(?:"|\Z)                             # SQLite may take it for a text
    | (?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\w*
    """,
    re.VERBOSE | re.DOTALL,
)


@lru_cache(maxsize=512)
def strip_literals(statement: str) -> str:
    """Return a statement on one line with `?` in place of each literal; its placeholders stay.

    What SQLAlchemy builds has placeholders only; a `text()` may hold anything. In doubt about where a text
    ends, more of the statement is dropped, not less.
    """
    stripped = _LITERAL.sub(_replace, statement)
    return " ".join(stripped.split())[:_LONGEST]


def _replace(found: re.Match[str]) -> str:
    if found["name"] is not None:
        return found[0]
    return " " if found[0].startswith(("--", "/*")) else "?"


def operation_of(statement: str) -> str:
    """Return the first word of a statement that was stripped: `SELECT`."""
    word = re.match(r"[A-Za-z]+", statement)
    return word[0].upper() if word else "SQL"
