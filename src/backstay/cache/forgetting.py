"""What makes cached values invalid besides the database's own commits: `forget` and `@invalidates`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from backstay.cache._signatures import Parameters
from backstay.cache._templates import Template
from backstay.cache.cache import current_cache
from backstay.cache.cached import BoundFunction, CachedFunction, find_cache, own_tag
from backstay.errors import ConfigurationError, UsageError
from backstay.transaction import Carrier, NamedTable, Readable, Source, Transaction, of, source_of

__all__ = ["forget", "invalidates"]

P = ParamSpec("P")
T = TypeVar("T")

Cached = CachedFunction[..., Any] | BoundFunction[Any]


async def forget(
    function: Cached | None = None,
    /,
    *,
    reads: Sequence[Source | Readable | NamedTable] = (),
    session: Carrier | None = None,
    **arguments: Any,
) -> None:
    """Make values of a cached function invalid, or everything that reads some tables.

    What SQLAlchemy writes needs no call of this. It is for data that comes from elsewhere, and for what other
    programs have written.

    Args:
        function: Whose value it is.
        reads: Models and tables; every value that declares to read one of them is forgotten.
        session: Forget with the commit of this session's transaction, instead of now.
        **arguments: The function's, by name, defaults left out or not.

    Raises:
        UsageError: It does not say what to forget.
        UnavailableError: The cache does not answer.
    """
    tags = [tag for source in reads for tag in _tags_of_everything(source_of(source))]
    if function is not None:
        tags.append(_tag_of(function, arguments))
    elif arguments:
        raise UsageError(f"forget() was given {', '.join(arguments)} and no function that they belong to.")
    if not tags:
        raise UsageError("forget() takes a cached function and its arguments, or `reads=[...]`.")
    if session is None:
        await current_cache().commits.forget(tags)
    else:
        mark(of(session), tags)


def _tags_of_everything(source: Source) -> tuple[str, ...]:
    """Return the tags that a statement over all rows would give."""
    return tuple(tag for table in source.tables() for tag in (table, f"{table}:*"))


def _tag_of(function: Cached, arguments: dict[str, Any]) -> str:
    if isinstance(function, BoundFunction):
        owner = function.function.parameters.owner or ""
        return _tag_of(function.function, {**arguments, owner: function.instance})
    parameters = function.parameters
    known = {*parameters.names, parameters.owner}
    if unknown := sorted(set(arguments) - known):
        raise UsageError(f"{parameters.function_name} has no parameter {', '.join(unknown)} in its key.")
    bound = parameters.complete(arguments)
    if missing := sorted(function.template.parameters - set(bound)):
        raise UsageError(f"forget({parameters.function_name}, ...) needs {', '.join(missing)}.")
    return own_tag(function.template, bound)


def mark(transaction: Transaction, tags: Sequence[str]) -> None:
    """Let a transaction's commit make these tags invalid, as if it had written them."""
    transaction.writes.update(tags)
    cache = find_cache(transaction)
    if cache is not None and not transaction.holds_connection:
        # Without a statement there is no COMMIT to announce.
        transaction.after_commit(cache.commits.forget, tuple(tags))


def invalidates(
    *targets: CachedFunction[..., Any] | str,
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Make values invalid by running an async function: for data that SQLAlchemy does not write.

    With a parameter `session` they become invalid with the commit of its transaction; else nobody gets them
    from the function's beginning on, and they are gone at its end, also when it raises.

    Args:
        *targets: Cached functions, whose key parameters this function has to have too; or templates such as
            `user:{user_id}`, for a function that is not imported here.

    Raises:
        ConfigurationError: A target needs what the function does not have.
    """
    if not targets:
        raise ConfigurationError("@invalidates names no cached function and no template.")

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        parameters = Parameters(function)
        templates = [_template_for(target, parameters) for target in targets]

        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            arguments = parameters.bind(args, kwargs)
            tags = [own_tag(template, arguments) for template in templates]
            async with _invalidating(parameters, arguments, tags):
                return await function(*args, **kwargs)

        return call

    return decorate


def _template_for(target: CachedFunction[..., Any] | str, parameters: Parameters) -> Template:
    text = target if isinstance(target, str) else target.template.text
    known = [one for one in (parameters.owner, *parameters.names) if one is not None]
    return Template(text, parameters=known, of=f"@invalidates on {parameters.function_name}")


@asynccontextmanager
async def _invalidating(
    parameters: Parameters, arguments: dict[str, Any], tags: Sequence[str]
) -> AsyncIterator[None]:
    if parameters.session is None:
        async with current_cache().commits.announced(tags):
            yield
        return
    session = arguments[parameters.session]
    transaction = of(session)
    mark(transaction, tags)
    yield
    if of(session) is not transaction:  # the function has committed; what came after it counts too
        cache = find_cache(transaction)
        if cache is not None:
            await cache.commits.forget(tags)
