"""Every error that backstay raises, as one tree.

    BackstayError
    ├── ConfigurationError            a setting or a declaration is wrong; stops the start
    ├── UsageError                    the library is called in a way that cannot work
    │   ├── SessionEndedError         a session is used after its unit of work ended
    │   ├── ReadOnlySessionError      a reading session is asked to write
    │   └── TransactionAbortedError   a statement failed, the error was swallowed, and then came a commit
    └── AppError                      what a caller is answered; each knows its HTTP status
        ├── BadRequestError           400
        ├── UnauthenticatedError      401
        │   └── InvalidTokenError     401  a token is malformed, forged, expired, or for somebody else
        ├── PermissionDeniedError     403
        ├── NotFoundError             404
        ├── ConflictError             409
        │   ├── EditConflictError     409  another request changed the same row meanwhile
        │   └── KeyInUseError         409  another request with this idempotency key is at work
        ├── PreconditionFailedError   412  the row is not in the version that the caller named
        ├── InvalidInputError         422
        │   ├── KeyReusedError        422  this idempotency key came with another request before
        │   └── WeakPasswordError     422  a new password is too short, too long, or easily guessed
        ├── PreconditionRequiredError 428  the caller has to name the version that it changes
        ├── RateLimitedError          429
        ├── UpstreamError             502  a service that this one calls did not do its part
        │   ├── UpstreamAnswerError   502  it answered with an error, in another shape, or with too much
        │   ├── UpstreamUnavailableError  503  it was not reached, it is overloaded, or nobody asks it for now
        │   └── UpstreamTimeoutError  504  its answer did not come in time
        ├── UnavailableError          503
        │   ├── RetryableError        503  two transactions met; the same request may succeed now
        │   └── OutcomeUnknownError   503  the connection was lost while committing
        ├── DeadlineExceededError     504
        └── StorageFullError          507

The message of an `AppError` goes over the wire as the problem's `detail`: never put into it what the caller
sent, nor SQL, paths or secrets. The messages of the other two branches are for developers and stay in the
logs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import ClassVar

__all__ = [
    "AppError",
    "BackstayError",
    "BadRequestError",
    "ConfigurationError",
    "ConflictError",
    "DeadlineExceededError",
    "EditConflictError",
    "InvalidInputError",
    "InvalidTokenError",
    "KeyInUseError",
    "KeyReusedError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "PreconditionRequiredError",
    "RateLimitedError",
    "ReadOnlySessionError",
    "RetryableError",
    "SessionEndedError",
    "StorageFullError",
    "TransactionAbortedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UpstreamAnswerError",
    "UpstreamError",
    "UpstreamTimeoutError",
    "UpstreamUnavailableError",
    "UsageError",
    "WeakPasswordError",
    "did_you_mean",
]


class BackstayError(Exception):
    """Anything that backstay raises on purpose."""


class ConfigurationError(BackstayError):
    """A setting or a declaration is wrong. The service does not start.

    Args:
        message: One sentence: what is wrong, with the setting's or declaration's name.
        hint: What to do about it, as one sentence or command; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(BackstayError):
    """The library is called in a way that cannot work; a bug in the calling code."""


class SessionEndedError(UsageError):
    """A session is used after its unit of work ended."""


class ReadOnlySessionError(UsageError):
    """A reading session is asked to write."""


class TransactionAbortedError(UsageError):
    """A statement failed, its error was swallowed, and then the transaction was asked to commit.

    PostgreSQL answers such a COMMIT with a silent ROLLBACK. Wrap what may fail in `session.begin_nested()`.
    """


class AppError(BackstayError):
    """An answer to the caller, raised from anywhere below a route.

    Subclass it for the errors of your own domain; `status`, `title` and `code` are class attributes.

    Args:
        detail: One sentence for the caller; the title when omitted.
        headers: Response headers to add, such as `Retry-After`.
        **extensions: Further members of the problem document, such as `sku="A-1"`.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal Server Error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, detail: str | None = None, *, headers: Mapping[str, str] | None = None, **extensions: object
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.extensions = extensions


class BadRequestError(AppError):
    """The request cannot be understood."""

    status = 400
    title = "Bad Request"
    code = "bad_request"


class UnauthenticatedError(AppError):
    """The caller did not say, or could not prove, who it is."""

    status = 401
    title = "Unauthorized"
    code = "unauthenticated"


class InvalidTokenError(UnauthenticatedError):
    """A token is malformed, forged, expired, or meant for somebody else.

    Callers are told no more than that, and neither the token nor anything in it is kept here.

    Args:
        reason: Which rule it broke, in a word for logs and metrics, such as `expired`.
    """

    code = "invalid_token"

    def __init__(self, reason: str) -> None:
        super().__init__("The token is not valid, or no longer.")
        self.reason = reason


class PermissionDeniedError(AppError):
    """The caller is known and may not do this."""

    status = 403
    title = "Forbidden"
    code = "permission_denied"


class NotFoundError(AppError):
    """There is no such thing, or not for this caller."""

    status = 404
    title = "Not Found"
    code = "not_found"


class ConflictError(AppError):
    """The request contradicts the present state, such as a name that is taken."""

    status = 409
    title = "Conflict"
    code = "conflict"


class EditConflictError(ConflictError):
    """Another request changed the same row between this one's read and its write; nothing was written."""

    code = "edit_conflict"


class KeyInUseError(ConflictError):
    """Another request with the same idempotency key is at work, or was cut off after it had saved."""

    code = "idempotency_key_in_use"

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is at work; send it again in a moment.",
            headers={"Retry-After": "1"},
        )


class PreconditionFailedError(AppError):
    """The row is not in the version that the caller named with `If-Match`, or exists against its wish."""

    status = 412
    title = "Precondition Failed"
    code = "precondition_failed"


class InvalidInputError(AppError):
    """The input is well-formed and still unacceptable."""

    status = 422
    title = "Unprocessable Content"
    code = "invalid_input"


class KeyReusedError(InvalidInputError):
    """The idempotency key came with another request before: a caller has to make a new one for each."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key belongs to a request that was different; make a new one.")


class WeakPasswordError(InvalidInputError):
    """A new password is too short, too long, or one of those that are tried first.

    Args:
        detail: What to do about it; it holds nothing of the password.
        reason: `too_short`, `too_long`, `common`, `context` or `not_text`; a member of the problem, too.
    """

    code = "weak_password"

    def __init__(self, detail: str, *, reason: str) -> None:
        super().__init__(detail, reason=reason)
        self.reason = reason


class PreconditionRequiredError(AppError):
    """The route changes only what its caller has read: the request needs `If-Match`."""

    status = 428
    title = "Precondition Required"
    code = "precondition_required"


class RateLimitedError(AppError):
    """The caller asks too often."""

    status = 429
    title = "Too Many Requests"
    code = "rate_limited"


class UnavailableError(AppError):
    """Something the service depends on cannot be reached or is overloaded.

    Args:
        detail: One sentence for the caller.
        retry_after_seconds: Sent as `Retry-After`; no header when None.
    """

    status = 503
    title = "Service Unavailable"
    code = "unavailable"

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int | None = 1) -> None:
        headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
        super().__init__(detail, headers=headers)


class RetryableError(UnavailableError):
    """Two transactions met and this one gave way; nothing was written, the same request may succeed now."""

    code = "retryable"


class OutcomeUnknownError(UnavailableError):
    """The connection was lost while committing: the write may have happened or not."""

    code = "outcome_unknown"


class DeadlineExceededError(AppError):
    """The time given to the request is spent."""

    status = 504
    title = "Gateway Timeout"
    code = "deadline_exceeded"


class UpstreamError(AppError):
    """A service that this one calls did not do its part.

    Callers are told no more than that; who is called, and what went wrong there, is for the logs.

    Args:
        client: The name of the client that called it.
        reason: What went wrong, in words that hold nothing of the answer.
        upstream_status: The status that it answered with; None when there was no answer.
        retry_after_seconds: Sent as `Retry-After`; no header when None.
    """

    status = 502
    title = "Bad Gateway"
    code = "upstream_failed"
    what_callers_read: ClassVar[str] = "A service that this one depends on did not do its part."

    def __init__(
        self,
        client: str,
        reason: str,
        *,
        upstream_status: int | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
        super().__init__(self.what_callers_read, headers=headers)
        self.client = client
        self.reason = reason
        self.upstream_status = upstream_status

    def __str__(self) -> str:
        return f"Client {self.client!r}: {self.reason}"


class UpstreamAnswerError(UpstreamError):
    """A service that this one calls answered with an error, in another shape, or with too much."""

    code = "upstream_answer"
    what_callers_read = "A service that this one depends on gave an answer that is of no use."


class UpstreamUnavailableError(UpstreamError):
    """A service that this one calls was not reached, is overloaded, or nobody asks it for now."""

    status = 503
    title = "Service Unavailable"
    code = "upstream_unavailable"
    what_callers_read = "A service that this one depends on cannot be reached now."


class UpstreamTimeoutError(UpstreamError):
    """The answer of a service that this one calls did not come in time."""

    status = 504
    title = "Gateway Timeout"
    code = "upstream_timeout"
    what_callers_read = "A service that this one depends on did not answer in time."


class StorageFullError(AppError):
    """There is no room left to store what the request brings; reading goes on."""

    status = 507
    title = "Insufficient Storage"
    code = "storage_full"


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest known name, or an empty string."""
    matches = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
