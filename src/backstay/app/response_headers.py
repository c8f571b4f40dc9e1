"""The headers that every answer of a service carries, whoever makes it."""

from typing import Final

__all__ = ["security_headers"]

_ALWAYS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)
_OVER_TLS: Final = ("Strict-Transport-Security", "max-age=63072000; includeSubDomains")


def security_headers(*, is_exposed: bool) -> tuple[tuple[str, str], ...]:
    """Return what browsers are to be told; a route may set another value for one of them.

    Args:
        is_exposed: Whether callers come over TLS, and have to from now on: in production.
    """
    return (*_ALWAYS, _OVER_TLS) if is_exposed else _ALWAYS
