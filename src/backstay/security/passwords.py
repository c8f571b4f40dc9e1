"""Passwords: checked when they are new, hashed with Argon2id, verified in the same time for anybody."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

from pwdlib import PasswordHash
from pwdlib.exceptions import PwdlibError
from pwdlib.hashers.argon2 import Argon2Hasher

from backstay.errors import UnavailableError, UsageError
from backstay.security._password_rules import PasswordRules, encode_password
from backstay.settings import SecuritySettings

__all__ = ["PasswordCheck", "Passwords"]

# A container sees the cores of its machine, and may use fewer; each thread takes the memory of a hash.
_MOST_THREADS: Final = 8

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """What came of comparing a password.

    Attributes:
        is_right: Whether it is the one that was hashed.
        new_hash: What to store instead, because the present hash was made with other settings; else None.
    """

    is_right: bool
    new_hash: str | None = field(default=None, repr=False)


class Passwords:
    """Check, hash and verify passwords; open it with `async with`.

    Hashing takes tens of milliseconds and megabytes on purpose. It runs in threads of its own, as many as
    `security.password_threads`; `security.password_queue` callers more may wait, the next is sent away.

    Args:
        settings: The cost of a hash, how many run at once, and what a password has to be.
    """

    def __init__(self, settings: SecuritySettings) -> None:
        self._rules = PasswordRules(settings)
        self._max_bytes = settings.password_max_bytes
        self._threads = settings.password_threads or min(os.cpu_count() or 1, _MOST_THREADS)
        self._most_jobs = self._threads + settings.password_queue
        self._jobs = 0
        self._hasher: Final = PasswordHash(
            [
                Argon2Hasher(
                    memory_cost=settings.argon2_memory_kib,
                    time_cost=settings.argon2_time_cost,
                    parallelism=settings.argon2_parallelism,
                )
            ]
        )
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="backstay-passwords")
        self._is_open = False
        self._dummy = ""

    async def __aenter__(self) -> Self:
        self._is_open = True
        try:
            self._dummy = await self.hash(secrets.token_urlsafe())
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        self._is_open = False
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)

    def check_password(self, password: str, *, context: Sequence[str] = ()) -> None:
        """Refuse a new password that is too short, too long, or easily guessed.

        Args:
            password: As it was typed; no character is special, and none is needed.
            context: What others know and would try: the service's name, the user's address and names.

        Raises:
            WeakPasswordError: It says what to do, and nothing of the password.
        """
        self._rules.check(password, context=context)

    async def hash(self, password: str) -> str:
        """Return what to store instead of a password.

        Raises:
            UnavailableError: Too many are waiting.
            UsageError: It is too long, or no text: `check_password` comes first.
        """
        encoded = self._encode(password)
        if encoded is None:
            raise UsageError("A password that `check_password` refuses cannot be hashed.")
        return await self._run(self._hasher.hash, encoded)

    async def verify(self, password: str, hash: str | None) -> PasswordCheck:  # noqa: A002  what it is
        """Return whether a password is right; never tell whether there was anything to compare with.

        Args:
            password: As it was typed.
            hash: What `hash` returned; None for a user that does not exist or has no password, which takes
                as long and is never right.

        Raises:
            UnavailableError: Too many are waiting.
        """
        encoded = self._encode(password)
        is_possible = encoded is not None and hash is not None
        stored = hash if hash is not None else self._dummy
        check = await self._run(self._compare, encoded or b"", stored)
        return check if is_possible else PasswordCheck(is_right=False)

    def _encode(self, password: str) -> bytes | None:
        encoded = encode_password(password)
        return encoded if encoded is not None and len(encoded) <= self._max_bytes else None

    def _compare(self, password: bytes, stored: str) -> PasswordCheck:
        try:
            return PasswordCheck(*self._hasher.verify_and_update(password, stored))
        except PwdlibError:  # what is stored is no hash: such a user cannot log in, and takes as long
            self._hasher.verify(password, self._dummy)
            return PasswordCheck(is_right=False)

    async def _run(
        self, work: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Result:
        if not self._is_open:
            raise UsageError("`Passwords` is not open: use it inside of `async with`.")
        if self._jobs >= self._most_jobs:
            raise UnavailableError("Too many callers are logging in; come back in a moment.")
        loop = asyncio.get_running_loop()
        job = self._executor.submit(work, *args, **kwargs)
        self._jobs += 1
        # Not when the caller is done: a thread goes on with the work of one that has left.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finish))
        return await asyncio.wrap_future(job)

    def _finish(self) -> None:
        self._jobs -= 1
