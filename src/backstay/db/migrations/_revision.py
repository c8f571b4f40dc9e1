"""What a migration file is, to those who read it and to those who complain about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Revision"]


@dataclass(frozen=True, slots=True)
class Revision:
    """One migration file.

    Attributes:
        parents: The revisions it follows: none for the first, two or more for a merge.
        depends_on: Revisions of other branches that must be there before it.
        message: The first line of its docstring.
    """

    id: str
    parents: tuple[str, ...]
    depends_on: tuple[str, ...]
    message: str
    path: Path
