"""What a migration file is, to those who read it and to those who complain about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

__all__ = ["MergeOptions", "PlaceOptions", "Revision"]


@dataclass(frozen=True, slots=True)
class Revision:
    """One migration file.

    Attributes:
        parents: The revisions it follows: none for the first, two or more for a merge.
        depends_on: Revisions of other branches that must be there before it.
        branch_labels: Names that it gives to the branch which begins with it.
        message: The first line of its docstring.
    """

    id: str
    parents: tuple[str, ...]
    depends_on: tuple[str, ...]
    message: str
    path: Path
    branch_labels: tuple[str, ...] = ()


class MergeOptions(TypedDict, total=False):
    """What may be said about a migration that joins branches."""

    branch_label: str | None
    splice: bool


class PlaceOptions(MergeOptions, total=False):
    """Where a migration goes in the history."""

    head: str
    depends_on: tuple[str, ...]
