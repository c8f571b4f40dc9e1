"""What a rate limit counts by: `login:{ip}`, filled in from a request and from what the code adds.

Values keep their type and are escaped, so that no two of them meet in one key; long ones and headers, which
may be secrets, are hashed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final
from urllib.parse import quote
from uuid import UUID

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from backstay.app._principals import principal_of
from backstay.errors import ConfigurationError, UsageError, did_you_mean

__all__ = ["LimitTemplate"]

_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART_OF_REQUEST: Final = re.compile(r"(header|query)\.([A-Za-z0-9_-]+)")
_LITERAL: Final = re.compile(r"[A-Za-z0-9 _.:/@+=,;-]*")
_CALLER: Final = frozenset({"principal", "api_key"})
_ANY_REQUEST: Final = frozenset({"ip"}) | _CALLER
_LONGEST_VALUE: Final = 64
_IPV6_SITE_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class LimitTemplate:
    """A template of keys, parsed.

    Attributes:
        text: As it was written: `login:{ip}`.
        names: The fields without those that any request has: path parameters, or keywords of `hit`.
    """

    text: str
    names: frozenset[str]
    _parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> LimitTemplate:
        """Return the template that `text` is.

        Raises:
            ConfigurationError: It is none.
        """
        # Literal, field, literal, field, ..., literal.
        parts = tuple(_FIELD.split(text))
        for literal in parts[::2]:
            if _LITERAL.fullmatch(literal) is None:
                raise ConfigurationError(
                    f"The rate limit {text!r} has {literal!r} outside of its fields: letters, digits, spaces "
                    "and _.:/@+=,;- may stand there, and a field is a name in braces, as in 'login:{ip}'."
                )
        if not text.strip():
            raise ConfigurationError("A rate limit needs a template of keys, such as 'login:{ip}'.")
        for field in parts[1::2]:
            _check_field(field, text)
        names = frozenset(
            field for field in parts[1::2] if _NAME.fullmatch(field) and field not in _ANY_REQUEST
        )
        return cls(text, names, parts)

    @property
    def asks_who_calls(self) -> bool:
        """Whether it counts by the caller, who has to be looked at first."""
        return not _CALLER.isdisjoint(self._parts[1::2])

    def expand(self, scope: Scope | None, given: Mapping[str, object]) -> str:
        """Return the key of a request.

        Args:
            scope: The request; None outside of one.
            given: Values by name; they come before path parameters.

        Raises:
            UsageError: A field has no value, or a name in `given` is no field.
        """
        for name in given:
            if name not in self.names:
                raise UsageError(
                    f"The rate limit {self.text!r} has no field {name!r}.{did_you_mean(name, self.names)}"
                )
        parts = [*self._parts]
        parts[1::2] = [self._read(field, scope, given) for field in parts[1::2]]
        return "".join(parts)

    def _read(self, field: str, scope: Scope | None, given: Mapping[str, object]) -> str:
        if field in given:
            return _encode(given[field])
        if scope is None:
            raise UsageError(f"The rate limit {self.text!r} needs a request, or a value for {field!r}.")
        if field == "ip":
            return _encode(_site_of(scope))
        if field in _CALLER:
            return _encode(_caller_of(scope, field))
        found = _PART_OF_REQUEST.fullmatch(field)
        if found is not None:
            return _read_part(scope, found[1], found[2])
        if field not in scope.get("path_params", {}):
            raise UsageError(
                f"The rate limit {self.text!r} has no value for {field!r}: `await limit.hit({field}=...)`."
            )
        return _encode(scope["path_params"][field])


def _check_field(field: str, text: str) -> None:
    if _NAME.fullmatch(field) is None and _PART_OF_REQUEST.fullmatch(field) is None:
        raise ConfigurationError(
            f"The rate limit {text!r} has the field {{{field}}}; a field is a name, {{header.x-tenant}} or "
            "{query.page}."
        )


def _site_of(scope: Scope) -> str | None:
    """Return the caller's address, as the server has it from the connection or from a trusted proxy.

    Of IPv6 the network of 64 bits: whoever has one address there has them all.
    """
    client = scope.get("client")
    if client is None:
        return None
    host = str(client[0])
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped
    return str(mapped or IPv6Network((int(address), _IPV6_SITE_BITS), strict=False))


def _caller_of(scope: Scope, field: str) -> str | None:
    """Return the caller's subject, or the id of its API key; all callers that have none count together."""
    principal = principal_of(scope)
    if principal is None:
        return None
    return principal.subject if field == "principal" else principal.key_id


def _read_part(scope: Scope, part: str, name: str) -> str:
    if part == "query":
        return _encode(QueryParams(scope["query_string"]).get(name))
    value = Headers(scope=scope).get(name)
    return _encode(None) if value is None else _hash(value.encode("latin-1"))


def _encode(value: object) -> str:
    """Return a value between signs that no value contains, with its type in front."""
    if value is None:
        return "<>"
    if isinstance(value, str):
        text = quote(value, safe="", errors="surrogatepass")
        return f"<s{text}>" if len(text) <= _LONGEST_VALUE else _hash(value.encode(errors="surrogatepass"))
    if isinstance(value, bool | int | UUID):
        text = f"<{type(value).__name__} {value}>"
        return text if len(text) <= _LONGEST_VALUE else _hash(text.encode())
    raise UsageError(
        f"A rate limit counts by text, whole numbers, booleans and UUIDs, not by {type(value).__name__}."
    )


def _hash(value: bytes) -> str:
    return f"<h{hashlib.blake2b(value, digest_size=16).hexdigest()}>"
