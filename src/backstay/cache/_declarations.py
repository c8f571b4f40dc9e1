"""What `@cached` was told, checked; and what a load reads beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from backstay.errors import ConfigurationError, UsageError
from backstay.transaction import UNKNOWN_READS, Source

__all__ = ["Declaration", "UndeclaredReadError", "check_declaration", "find_undeclared"]

_LIBRARY = "backstay_"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the decorator was given."""

    template: str
    ttl: timedelta
    reads: tuple[Source, ...]
    soft_ttl: timedelta | None
    jitter: float


def check_declaration(declaration: Declaration) -> None:
    """Do nothing when what was told fits together.

    Raises:
        ConfigurationError: It does not.
    """
    if declaration.soft_ttl is not None and declaration.reads:
        raise ConfigurationError(
            f"{declaration.template!r} has `soft_ttl` and `reads`: it would serve what it knows to be old.",
            hint="Leave `soft_ttl` out; a value with `reads` is never older than the database.",
        )
    if declaration.soft_ttl is not None and declaration.soft_ttl >= declaration.ttl:
        raise ConfigurationError(f"`soft_ttl` of {declaration.template!r} has to be shorter than its `ttl`.")
    if not 0 <= declaration.jitter < 1:
        raise ConfigurationError(f"`jitter` of {declaration.template!r} is a share of the ttl, 0 to under 1.")


class UndeclaredReadError(UsageError):
    """A cached function read what it does not declare to read, so its values could be stale.

    Attributes:
        tables: What it read besides.
    """

    def __init__(self, function: str, tables: Sequence[str], declared: Sequence[str]) -> None:
        names = ", ".join("what SQL text names" if table == UNKNOWN_READS else table for table in tables)
        super().__init__(
            f"{function} reads {names}, and declares {', '.join(declared) or 'nothing'}: add the model to "
            "`reads`, and write SQL text as a statement that can be looked into."
        )
        self.tables = tuple(tables)


def find_undeclared(reads: Collection[str], declared: Collection[str]) -> list[str]:
    """Return the tables that were read and not declared; the library's own need not be."""
    return sorted(table for table in reads if table not in declared and not table.startswith(_LIBRARY))
