"""SQL as words: enough of PostgreSQL's grammar to tell what a statement of a migration does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

__all__ = ["name_of", "split_commas", "split_statements", "words_of"]

_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<escaped> [eE] ' (?: [^'\\] | '' | \\. )* ' )
    | (?P<string> ' (?: [^'] | '' )* ' )
    | (?P<dollar> \$ (?P<tag> [^\W\d]\w* | ) \$ .*? \$ (?P=tag) \$ )
    | (?P<quoted> " (?: [^"] | "" )* " )
    | (?P<word> [^\W\d] [\w$]* )
    | (?P<number> \d [\w.]* | \$\d+ )
    | (?P<sign> :: | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_NOISE = (("IF", "NOT", "EXISTS"), ("IF", "EXISTS"), ("ONLY",))


def split_statements(sql: str) -> Iterator[str]:
    """Yield the statements of a script, without the semicolons between them."""
    start = 0
    for kind, token, position in _tokens(sql):
        if (kind, token) == ("sign", ";"):
            yield from _filled(sql[start:position])
            start = position + 1
    yield from _filled(sql[start:])


def _filled(statement: str) -> Iterator[str]:
    if next(_tokens(statement), None) is not None:
        yield statement.strip()


def words_of(statement: str) -> list[str]:
    """Return a statement's words: keywords in capitals, quoted names bare, `schema.table` as one.

    What does not matter to a lock is left out: comments, ONLY, IF EXISTS, IF NOT EXISTS.
    """
    words: list[str] = []
    for kind, token, _ in _tokens(statement):
        word = token[1:-1].replace('""', '"') if kind == "quoted" else token
        word = word.upper() if kind == "word" else word
        if len(words) > 1 and words[-1] == "." and kind in {"word", "quoted"}:
            words[-2:] = [f"{words[-2]}.{word}"]
        else:
            words.append(word)
    return _without_noise(words)


def _tokens(sql: str) -> Iterator[tuple[str, str, int]]:
    position = 0
    while match := _TOKEN.match(sql, position):
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "comment":
            position = _end_of_comment(sql, position)
        elif kind != "space":
            yield kind, match.group(), match.start()


def _end_of_comment(sql: str, position: int) -> int:
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(sql, position)):
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return len(sql) if depth else position


def _without_noise(words: list[str]) -> list[str]:
    kept: list[str] = []
    position = 0
    while position < len(words):
        noise = next((one for one in _NOISE if tuple(words[position : position + len(one)]) == one), None)
        if noise:
            position += len(noise)
        else:
            kept.append(words[position])
            position += 1
    return kept


def name_of(word: str) -> str:
    """Return a table's or another thing's name as one spelling: PostgreSQL folds what is not quoted."""
    return word.lower().removeprefix("public.")


def split_commas(words: Sequence[str]) -> list[list[str]]:
    """Return the parts between the commas that no parenthesis encloses."""
    parts: list[list[str]] = [[]]
    depth = 0
    for word in words:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(word, 0)
        if word == "," and not depth:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]
