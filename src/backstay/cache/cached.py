"""`@cached`: a function whose values are kept, and are never older than the database."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import cached_property, lru_cache, partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload
from uuid import UUID

from backstay.cache._declarations import (
    Declaration,
    UndeclaredReadError,
    check_declaration,
    find_undeclared,
)
from backstay.cache._durations import parse_duration
from backstay.cache._fetching import Request
from backstay.cache._payloads import CorruptPayloadError, Payloads, UnfaithfulValueError
from backstay.cache._protocol import Address, Loaded
from backstay.cache._signatures import Parameters, find_hints
from backstay.cache._store import EVERYTHING
from backstay.cache._templates import Template
from backstay.cache.cache import Cache, Label, cache_variable, emit_bypass, emit_refusal
from backstay.errors import ConfigurationError
from backstay.transaction import (
    Carrier,
    NamedTable,
    Readable,
    Source,
    Transaction,
    observe_reads,
    observing_reads,
    of,
    source_of,
)

__all__ = [
    "BoundFunction",
    "CachedFunction",
    "UndeclaredReadError",
    "cached",
    "find_cache",
    "is_in_use",
    "own_tag",
]

_logger = logging.getLogger("backstay.cache")

P = ParamSpec("P")
T = TypeVar("T")

_MILLISECOND = timedelta(milliseconds=1)
_ADDRESSES = 4096
# Values of which equal ones of one type make equal keys.
_PLAIN = frozenset({int, str, bool, UUID, type(None)})


def cached(
    template: str,
    *,
    ttl: str | timedelta,
    reads: Sequence[Source | Readable | NamedTable] = (),
    soft_ttl: str | timedelta | None = None,
    jitter: float = 0.1,
) -> Callable[[Callable[P, Awaitable[T]]], CachedFunction[P, T]]:
    """Keep what an async function returns, and return it again while it is what the database holds.

    The function's parameter `session` says whose transaction asks, and is not part of the key; the load gets
    a session of its own. With changes in that session, inside REPEATABLE READ or SERIALIZABLE, and through
    `.fresh(...)` the function runs as if it were not cached.

    Args:
        template: The key: `user:{user_id}`. Every parameter but the session has to be in it, and for a method
            something of its owner, such as `{self.tenant_id}`.
        ttl: How long a value may be kept at the longest: `1h`, `90s`, `1.5h`, `500ms`, `1w`.
        reads: Models and rows that the function reads: `[User]`, `[row(User, "user_id")]`. Their changes make
            the value invalid at the moment in which they are committed.
        soft_ttl: After this long the old value is served once more while one caller loads it anew. Only
            without `reads`.
        jitter: So much of the ttl is taken off at random, so that not everything ends at once.

    Raises:
        ConfigurationError: Something does not fit together.
    """
    of_template = f"the cached function {template!r}"
    declaration = Declaration(
        template,
        parse_duration(ttl, of=f"`ttl` of {of_template}"),
        tuple(source_of(source) for source in reads),
        None if soft_ttl is None else parse_duration(soft_ttl, of=f"`soft_ttl` of {of_template}"),
        jitter,
    )
    check_declaration(declaration)
    return lambda function: CachedFunction(function, declaration)


_in_use: list[bool] = []


def is_in_use() -> bool:
    """Return whether any cached function was declared in this process."""
    return bool(_in_use)


class CachedFunction(Generic[P, T]):
    """A function with a cache in front of it; made by `@cached`."""

    def __init__(self, function: Callable[P, Awaitable[T]], declaration: Declaration) -> None:
        _in_use.append(True)
        self._function: Callable[..., Awaitable[T]] = function
        self._declaration = declaration
        self.parameters = Parameters(function)
        name = self.parameters.function_name
        known = [one for one in (self.parameters.owner, *self.parameters.names) if one is not None]
        self.template = Template(declaration.template, parameters=known, of=name)
        self._check_key()
        self._complaints: set[str] = set()
        self._label = Label(self.template.text, ())
        # Of the last calls: rendering a key costs more than finding its value in memory.
        self._find_address = lru_cache(maxsize=_ADDRESSES, typed=True)(self._make_address)
        self._is_plain = self.parameters.owner is None
        update_wrapper(self, function)
        if "return" not in self.parameters.hints:
            raise ConfigurationError(
                f"{name} does not say what it returns, and that is how its values are kept.",
                hint=f"Write def {name}(...) -> UserRead.",
            )
        if not isinstance(self.parameters.hints["return"], str):
            _ = self.payloads

    def _check_key(self) -> None:
        name, missing = self.parameters.function_name, set(self.parameters.names) - self.template.parameters
        if missing:
            raise ConfigurationError(
                f"The key template {self.template.text!r} of {name} leaves out {', '.join(sorted(missing))}, "
                "so calls that differ would share a value.",
                hint="Put every parameter but the session into it.",
            )
        owner = self.parameters.owner
        if owner is not None and not any(path[0] == owner and path[1:] for path in self.template.paths):
            raise ConfigurationError(
                f"{name} is a method, and its key template does not say whose.",
                hint=f"Name what tells one owner from another: '{self.template.text}:{{{owner}.tenant_id}}'.",
            )
        for source in self._declaration.reads:
            unknown = set(source.parameters) - set(self.parameters.names)
            if unknown:
                raise ConfigurationError(
                    f"{name} reads {source!r}, and has no parameter {', '.join(sorted(unknown))}.",
                    hint=f"It has {', '.join(self.parameters.names) or 'none'}.",
                )

    @cached_property
    def payloads(self) -> Payloads:
        """How its values are kept."""
        hints = find_hints(self._function)
        return Payloads(
            hints["return"], function=f"{self._function.__module__}.{self.parameters.function_name}"
        )

    @property
    def label(self) -> Label:
        """What events call it by; its tables are complete once all models are imported."""
        reads = self._declaration.reads
        if len(reads) == 1:
            tables = reads[0].tables()
        else:
            tables = tuple(table for source in reads for table in source.tables())
        if tables != self._label.tables:
            self._label = Label(self.template.text, tables)
            self._find_address.cache_clear()
        return self._label

    @overload
    def __get__(self, instance: None, owner: type) -> CachedFunction[P, T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> CachedFunction[..., T]: ...
    def __get__(self, instance: object, owner: type) -> CachedFunction[..., T]:
        """Return the function bound to an instance, as a method is."""
        return self if instance is None else cast("CachedFunction[..., T]", BoundFunction(self, instance))

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the value, from the cache or from the function."""
        values = self.parameters.order(args, kwargs)
        label = self.label
        outer = observe_reads()
        if outer is not None:
            outer.update(label.tables)
        session = self.parameters.find_session(values)
        transaction = None if self.parameters.session is None else of(session)
        cache = find_cache(transaction)
        if cache is None:
            return await self._run(values)
        if transaction is not None and (transaction.changed or transaction.isolated):
            emit_bypass(label, "changed" if transaction.changed else "isolated")
            return await self._run(values)
        return await self._read(cache, transaction, values, label)

    async def fresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function itself, in the session that is given: for values that will be written back."""
        emit_bypass(self.label, "fresh")
        return await self._function(*args, **kwargs)

    def _run(self, values: tuple[Any, ...]) -> Awaitable[T]:
        return cast("Awaitable[T]", self.parameters.call(self._function, values))

    def _read(
        self, cache: Cache, transaction: Transaction | None, values: tuple[Any, ...], label: Label
    ) -> Awaitable[T]:
        address = self._address(values)
        decode = self.payloads.decode

        def make_request() -> Request:  # a hit does without
            load = partial(self._load, cache, values, label)
            return Request(address, transaction, load, decode, self._declaration.jitter)

        if self._declaration.soft_ttl is not None:
            decode = partial(self._decode_soft, cache, make_request)
        return cache.read(address, make_request, decode=decode, label=label)

    def _decode_soft(self, cache: Cache, make_request: Callable[[], Request], payload: bytes) -> T:
        """Return a value that knows when it is due, and have it loaded anew when it is."""
        due, separator, rest = payload.partition(b"\n")
        if not separator or not due.isdigit():
            raise CorruptPayloadError(f"A stored value of {self.parameters.function_name} cannot be read.")
        value: T = self.payloads.decode(rest)
        if time.time() * 1000 >= int(due):
            cache.refresh(make_request())
        return value

    def _encode(self, value: T) -> bytes:
        payload, soft_ttl = self.payloads.encode(value), self._declaration.soft_ttl
        if soft_ttl is None:
            return payload
        return b"%d\n%s" % (time.time() * 1000 + soft_ttl / _MILLISECOND, payload)

    def _address(self, values: tuple[Any, ...]) -> Address:
        if self._is_plain:
            parts = self.parameters.leave_out_session(values)
            if _PLAIN.issuperset(map(type, parts)):
                return self._find_address(*parts)
        return self._make_address_of(self.parameters.name(values))

    def _make_address(self, *parts: Any) -> Address:
        return self._make_address_of(dict(zip(self.parameters.names, parts, strict=True)))

    def _make_address_of(self, arguments: dict[str, Any]) -> Address:
        tags = [EVERYTHING, own_tag(self.template, arguments)]
        for source in self._declaration.reads:
            tags += source.tags(arguments)
        key = f"{self.template.key(arguments)}#{self.payloads.fingerprint}"
        return Address(key, tuple(dict.fromkeys(tags)), max(1, self._declaration.ttl // _MILLISECOND))

    async def _load(
        self, cache: Cache, values: tuple[Any, ...], label: Label, session: Carrier | None
    ) -> Loaded:
        with observing_reads() as reads:
            value = await self._run(self.parameters.replace_session(values, session))
        may_store = self._is_declared(cache, reads, label)
        try:
            payload = self._encode(value)
        except UnfaithfulValueError as error:
            self._complain(str(error))
            emit_refusal(label, "unfaithful")
            return Loaded(value, None)
        if len(payload) > cache.max_value_bytes:
            emit_refusal(label, "too_large")
            may_store = False
        return Loaded(value, payload, may_store)

    def _is_declared(self, cache: Cache, reads: set[str], label: Label) -> bool:
        undeclared = find_undeclared(reads, label.tables)
        if not undeclared:
            return True
        error = UndeclaredReadError(self.parameters.function_name, undeclared, label.tables)
        if cache.raises_on_undeclared:
            raise error
        self._complain(f"{error} Its values are not stored.")
        emit_refusal(label, "undeclared")
        return False

    def _complain(self, problem: str) -> None:
        if problem not in self._complaints:
            self._complaints.add(problem)
            _logger.error("%s", problem)


class BoundFunction(Generic[T]):
    """A cached method of one instance."""

    def __init__(self, function: CachedFunction[..., T], instance: object) -> None:
        self.function = function
        self.instance = instance

    async def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Return the value, from the cache or from the method."""
        return await self.function(self.instance, *args, **kwargs)

    async def fresh(self, *args: Any, **kwargs: Any) -> T:
        """Run the method itself."""
        return await self.function.fresh(self.instance, *args, **kwargs)


def own_tag(template: Template, arguments: dict[str, Any]) -> str:
    """Return the tag that an entry is forgotten by."""
    return f"key:{template.name(arguments)}"


def find_cache(transaction: Transaction | None) -> Cache | None:
    """Return the cache that takes part in a transaction's commits; the current one without a transaction."""
    if transaction is None:
        return cache_variable.get()
    for participant in transaction.participants:
        if isinstance(participant, Cache):
            return participant
    return None
