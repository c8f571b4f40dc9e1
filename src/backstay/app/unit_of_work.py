"""The unit of work of one request: at most one session that writes and one that reads, ended in one place.

docs/decisions/0001-unit-of-work.md says why it ends where it does: after the response is serialised, before
its first byte leaves.
"""

from __future__ import annotations

import logging
from types import TracebackType

from starlette.types import Scope

from backstay.db import Database, IsolationLevel, ReadingSession, TransactionSession
from backstay.errors import OutcomeUnknownError, SessionEndedError, UsageError
from backstay.transaction import Outcome

__all__ = ["UnitOfWork"]

_logger = logging.getLogger("backstay.app")


class UnitOfWork:
    """The sessions of one attempt at one request.

    Attributes:
        error: What the route or one of its dependencies raised, also when a handler turned it into a
            response.
    """

    __slots__ = ("_database", "_has_ended", "_isolation", "_may_repeat", "_reading", "_session", "error")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: TransactionSession | None = None
        self._reading: ReadingSession | None = None
        self._isolation: IsolationLevel | None = None
        self._has_ended = False
        self.error: BaseException | None = None
        self._may_repeat = False
        database.keep_place()

    def session(self, scope: Scope) -> TransactionSession:
        """Return the session that writes, opened at the first call."""
        self._refuse_late_use()
        if self._session is None:
            self._session = self._database.session(isolation=self._isolation, finds_outcome=self._may_repeat)
            self._watch(scope)
        return self._session

    def reading(self) -> ReadingSession:
        """Return the session that reads, opened at the first call."""
        self._refuse_late_use()
        if self._reading is None:
            self._reading = self._database.reading_session()
        return self._reading

    def make_repeatable(self, isolation: IsolationLevel) -> None:
        """Let the request run again when it loses against another transaction."""
        if self._session is not None:
            raise UsageError(
                "`repeatable` must come before the session: put it into the route's `dependencies`."
            )
        self._isolation = isolation
        self._may_repeat = True

    @property
    def is_repeatable(self) -> bool:
        """Whether the route said that it may run again, and did not commit part of its work itself."""
        return self._may_repeat and not (self._session is not None and self._session.has_committed)

    @property
    def has_only_read(self) -> bool:
        """Whether the session that writes was never connected."""
        ended = self._session.ended if self._session is not None else None
        return ended is None or not ended.has_begun

    def _refuse_late_use(self) -> None:
        if self._has_ended:
            raise SessionEndedError(
                "The request's unit of work has ended: background tasks and streamed bodies open "
                "`database.transaction()` or `database.reading()` themselves."
            )

    def _watch(self, scope: Scope) -> None:
        # FastAPI leaves this stack before it sends the response and hands it whatever the route raised, so
        # an error that an exception handler turns into a success status is still seen here.
        stack = scope.get("fastapi_function_astack")
        if stack is None:
            raise UsageError(
                "SessionDep works in routes of FastAPI; elsewhere open `database.transaction()`."
            )
        stack.push(self._notice)

    def _notice(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.error = error
        return False

    def would_commit(self, status: int) -> bool:
        """Return whether a response with this status commits; any other end rolls back."""
        return status < 400 and self.error is None

    async def end(self, *, status: int) -> None:
        """Commit what a success status promises, or roll back; then close. The second call does nothing.

        Args:
            status: The status about to be sent; 400 and above roll back, as does an error of the route.

        Raises:
            OutcomeUnknownError: The connection was lost during COMMIT.
            Exception: The commit failed; nothing was written.
        """
        if self._has_ended:
            return
        self._has_ended = True
        try:
            if self._session is not None and self.would_commit(status):
                await self._session.complete()
        except Exception as error:
            await self._close()
            if self._was_committed_all_the_same:
                _logger.warning("The connection was lost during COMMIT, which happened.", exc_info=error)
                return
            raise self._explain(error) from error
        await self._close()

    @property
    def _was_committed_all_the_same(self) -> bool:
        ended = self._session.ended if self._session is not None else None
        return ended is not None and ended.outcome is Outcome.COMMITTED and ended.commit_error is not None

    def _explain(self, error: Exception) -> Exception:
        ended = self._session.ended if self._session is not None else None
        if ended is not None and ended.outcome is Outcome.UNKNOWN:
            return OutcomeUnknownError(
                "The connection to the database was lost while saving; check before you retry."
            )
        return error

    async def abandon(self) -> None:
        """Roll back whatever is open; for a request that ends without a response."""
        if not self._has_ended:
            self._has_ended = True
            await self._close()

    async def _close(self) -> None:
        for session in (self._session, self._reading):
            if session is None:
                continue
            try:
                await session.close()
            except Exception:
                _logger.warning("A session could not be closed; its connection is dropped.", exc_info=True)
        self._database.let_place_go()
