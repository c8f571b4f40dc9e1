"""By which names a service may be called."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Self

from starlette.types import Scope

__all__ = ["AllowedHosts"]

_FOR_PROBES: Final = frozenset({"/livez", "/readyz"})
"""Probes call by address; what they are told holds nothing of the service."""


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The names of a service; none at all allow any."""

    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, patterns: Collection[str]) -> Self:
        """Read them as they are set: `shop.example`, or `*.shop.example` for all below one."""
        lowered = [pattern.lower() for pattern in patterns]
        return cls(
            frozenset(pattern for pattern in lowered if not pattern.startswith("*")),
            tuple(pattern[1:] for pattern in lowered if pattern.startswith("*")),
        )

    def refuses(self, scope: Scope) -> bool:
        """Return whether the request calls the service by another name, by none, or by two."""
        if not (self.names or self.suffixes) or scope["path"] in _FOR_PROBES:
            return False
        named = [value for name, value in scope["headers"] if name == b"host"]
        return len(named) != 1 or not self._allows(_without_port(named[0].decode("latin-1")))

    def _allows(self, host: str) -> bool:
        return host in self.names or host.endswith(self.suffixes)


def _without_port(host: str) -> str:
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")
