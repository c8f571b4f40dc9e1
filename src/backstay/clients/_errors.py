"""What a failed call raises: an error of HTTPX, and at the same time one that knows its answer.

A handler that lets it pass answers 502, 503 or 504; code that expects HTTPX's own errors catches it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx2

from backstay.errors import UpstreamAnswerError, UpstreamError, UpstreamTimeoutError, UpstreamUnavailableError

__all__ = [
    "FAILURES",
    "BadAnswerError",
    "CallFailedError",
    "CallRefusedError",
    "CallTimeoutError",
    "typed_errors",
]

FAILURES: Final = (
    httpx2.TimeoutException,
    httpx2.NetworkError,
    httpx2.ProxyError,
    httpx2.RemoteProtocolError,
)
"""What HTTPX raises when the other side did not do its part."""


class CallTimeoutError(UpstreamTimeoutError, httpx2.TimeoutException):
    """The call, or one step of it, took too long."""


class CallFailedError(UpstreamUnavailableError, httpx2.NetworkError):
    """There was no connection, or it broke."""


class CallRefusedError(UpstreamUnavailableError, httpx2.TransportError):
    """Nothing was sent: too many calls failed, or are under way, or nobody may call there."""


class BadAnswerError(UpstreamAnswerError, httpx2.TransportError):
    """The answer is no HTTP, cannot be unpacked, or is too long."""


@contextmanager
def typed_errors(client: str) -> Iterator[None]:
    """Turn what HTTPX raises in the block into errors that know their answer.

    What the calling code did wrong, such as a URL without a scheme, stays what it is.
    """
    try:
        yield
    except UpstreamError:
        raise
    except httpx2.PoolTimeout as error:
        raise CallRefusedError(client, "all its connections are in use", retry_after_seconds=1) from error
    except httpx2.TimeoutException as error:
        raise CallTimeoutError(client, f"a step took too long ({type(error).__name__})") from error
    except (httpx2.NetworkError, httpx2.ProxyError) as error:
        raise CallFailedError(client, f"there was no connection ({type(error).__name__})") from error
    except (httpx2.RemoteProtocolError, httpx2.DecodingError) as error:
        raise BadAnswerError(client, f"the answer cannot be read ({type(error).__name__})") from error
