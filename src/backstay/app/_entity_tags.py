"""Entity tags (RFC 9110, 8.8.3): how ours are written, and what `If-Match` and `If-None-Match` may say.

A tag of ours is `"7-<digest>"`: the version of the row, then a digest of the body. Where no body is shown it
is `"7"`. Either names version 7.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

__all__ = ["EntityTags", "MalformedTagsError", "tag_of_body", "tag_of_version"]

_ELEMENT = re.compile(r'[ \t]*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')
_DIGEST_BYTES = 16


def tag_of_version(version: int) -> str:
    """Return the tag that stands for a version where no body is shown."""
    return f'"{version}"'


def tag_of_body(version: int, body: bytes) -> str:
    """Return the tag of a version as it is shown by a body."""
    return f'"{version}-{blake2b(body, digest_size=_DIGEST_BYTES).hexdigest()}"'


class MalformedTagsError(ValueError):
    """A header holds something else than `*` or a list of entity tags."""


@dataclass(frozen=True, slots=True)
class EntityTags:
    """What an `If-Match` or `If-None-Match` header names; the tags are kept without their quotes."""

    is_any: bool
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()

    @classmethod
    def read(cls, lines: Sequence[str]) -> Self:
        """Return what the lines of one header say together.

        Raises:
            MalformedTagsError: They are not `*` alone and no list of entity tags.
        """
        text = ",".join(lines).strip(" \t")
        if text == "*":
            return cls(is_any=True)
        strong: set[str] = set()
        weak: set[str] = set()
        position = 0
        while position < len(text):
            element = _ELEMENT.match(text, position)
            if element is None:
                raise MalformedTagsError
            if element[2] is not None:
                (weak if element[1] else strong).add(element[2])
            position = element.end()
        if not strong and not weak:
            raise MalformedTagsError
        return cls(False, frozenset(strong), frozenset(weak))

    def name_version(self, version: int) -> bool:
        """Return whether a version is named, by strong comparison: a weak tag names none."""
        return self.is_any or _is_among(version, self.strong)

    def name_version_weakly(self, version: int) -> bool:
        """Return whether a version is named, by weak comparison: a weak tag is as good as a strong one."""
        return self.name_version(version) or _is_among(version, self.weak)

    def name_tag(self, tag: str) -> bool:
        """Return whether exactly this tag is named, by weak comparison."""
        opaque = tag.removeprefix("W/").strip('"')
        return self.is_any or opaque in self.strong or opaque in self.weak


def _is_among(version: int, tags: frozenset[str]) -> bool:
    return any(tag.partition("-")[0] == str(version) for tag in tags)
