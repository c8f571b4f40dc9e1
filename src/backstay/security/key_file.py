"""A key ring in a file: a private JWK Set with the times of each key, read again when it changes.

The file is replaced as a whole, so a reader sees the old ring or the new one.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from backstay.errors import ConfigurationError
from backstay.json import JSONDecodeError, dumps, loads
from backstay.security._jwk import UnsuitableKeyError, from_jwk, is_private, to_jwk
from backstay.security.keys import KeyRing, PublicKey, SigningKey

__all__ = ["KeyFile", "read_key_ring", "read_public_keys", "write_key_ring"]

_logger = logging.getLogger("backstay.security")

_LOOK_SECONDS: Final = 2.0


class KeyFile:
    """A ring in a file that others rotate; while the file is broken, what it held before goes on.

    Args:
        path: Where it is.
        is_production: Refuse a file that every account of the machine can read, and development's keys.
        clock: Seconds that never go back; the file is looked at every two of them.

    Raises:
        ConfigurationError: The file cannot be read, or production refuses it.
    """

    def __init__(
        self, path: Path, *, is_production: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._is_production = is_production
        self._clock = clock
        self._looks_at = clock() + _LOOK_SECONDS
        self._seen = self._identify()
        self._ring = self._read()

    def ring(self) -> KeyRing:
        """Return the current ring; costs a look at the clock, and now and then one at the file."""
        if self._clock() >= self._looks_at:
            self._looks_at = self._clock() + _LOOK_SECONDS
            self._look()
        return self._ring

    def _look(self) -> None:
        seen = self._identify()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._ring = self._read()
        except ConfigurationError as error:
            _logger.error("The keys for access tokens stay as they were. %s", error)  # noqa: TRY400  its words do
        else:
            _logger.info("Read new keys for access tokens from %s.", self._path)

    def _identify(self) -> tuple[int, ...] | None:
        """Return what changes when the file is written or replaced; None when it is not there."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def _read(self) -> KeyRing:
        try:
            mode = self._path.stat().st_mode
            text = self._path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"The keys for access tokens in {self._path} cannot be read: {error.strerror}.",
                hint=f"To make some: backstay keys generate {self._path}",
            ) from error
        ring = read_key_ring(text, name=str(self._path))
        if self._is_production:
            self._refuse_unsafe(ring, mode)
        return ring

    def _refuse_unsafe(self, ring: KeyRing, mode: int) -> None:
        # The group may read: that is how a secret of Kubernetes reaches a process that is not root.
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise ConfigurationError(
                f"The keys for access tokens in {self._path} are open to others on this machine, which "
                "production refuses.",
                hint=f"chmod 600 {self._path}",
            )
        if ring.is_development:
            raise ConfigurationError(
                f"The keys for access tokens in {self._path} were made for development, which production "
                "refuses.",
                hint="To make others: backstay keys generate keys.json",
            )


def read_key_ring(text: bytes | str, *, name: str = "the file") -> KeyRing:
    """Return the ring that `write_key_ring` wrote, or that somebody made in its form.

    Args:
        text: A private JWK Set; each key has `kid`, `alg` and, in seconds since 1970, `signs_from`.
        name: What the error calls it.

    Raises:
        ConfigurationError: It is none, or a key is weak or incomplete. The error shows nothing of the keys.
    """
    content = _load(text, name)
    try:
        keys = tuple(_read_signing_key(members) for members in _list_members(content))
        _refuse_twins(keys)
    except UnsuitableKeyError as error:
        raise ConfigurationError(f"A key in {name} cannot be used: {error}.", hint=_HINT) from None
    return KeyRing(keys, is_development=content.get("development") is True)


_HINT: Final = "backstay keys generate writes a file in the right form."


def _load(text: bytes | str, name: str) -> Mapping[str, Any]:
    try:
        content = loads(text)
    except JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{name} is no JWK Set.", hint=_HINT)
    return content


def _list_members(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    keys = content.get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise UnsuitableKeyError("keys must be an array with at least one")
    return keys


def _read_signing_key(members: Mapping[str, Any]) -> SigningKey:
    algorithm, material = from_jwk(members)
    if not is_private(material):
        raise UnsuitableKeyError("it is a public key, which cannot sign")
    return SigningKey(
        _read_key_id(members),
        algorithm,
        material,
        signs_from=_read_time(members, "signs_from") or datetime.fromtimestamp(0, UTC),
        verifies_until=_read_time(members, "verifies_until"),
    )


def _read_key_id(members: Mapping[str, Any]) -> str:
    key_id = members.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_ID:
        raise UnsuitableKeyError(f"kid must be a text of 1 to {_LONGEST_ID} characters")
    return key_id


_LONGEST_ID: Final = 200


def _read_time(members: Mapping[str, Any], name: str) -> datetime | None:
    seconds = members.get(name)
    if seconds is None:
        return None
    if type(seconds) is not int or not 0 <= seconds <= _LAST_SECOND:
        raise UnsuitableKeyError(f"{name} must be in seconds since 1970")
    return datetime.fromtimestamp(seconds, UTC)


_LAST_SECOND: Final = int(datetime.max.replace(tzinfo=UTC).timestamp())


def _refuse_twins(keys: tuple[SigningKey, ...]) -> None:
    if len({key.key_id for key in keys}) < len(keys):
        raise UnsuitableKeyError("another one has the same kid")


def read_public_keys(text: bytes | str) -> dict[str, PublicKey]:
    """Return the keys in the JWK Set of another issuer by their ids.

    Keys that are for something else, weak or without an id are left out, as RFC 7517 asks; shared secrets
    too: nobody publishes one.

    Raises:
        ConfigurationError: It is no JWK Set.
    """
    found: dict[str, PublicKey] = {}
    content = _load(text, "The answer")
    members = content.get("keys")
    for key in members if isinstance(members, list) else ():
        with suppress(UnsuitableKeyError):
            public = _read_public_key(key)
            found[public.key_id] = public
    return found


def _read_public_key(members: object) -> PublicKey:
    if not isinstance(members, dict) or members.get("use", "sig") != "sig":
        raise UnsuitableKeyError("it is for something else")
    algorithm, material = from_jwk({name: value for name, value in members.items() if name != "d"})
    if is_private(material):
        raise UnsuitableKeyError("it is no public key")
    return PublicKey(_read_key_id(members), algorithm, material)


def write_key_ring(ring: KeyRing, path: Path, *, replace: bool = True) -> None:
    """Write a ring so that nobody else can read it, and nobody ever sees half of it.

    Args:
        ring: The keys.
        path: Where to; its folder must be there.
        replace: Whether to take the place of a file that is there; its mode stays.

    Raises:
        FileExistsError: There is one, and it is not to be replaced.
    """
    mode = stat.S_IMODE(path.stat().st_mode) if replace and path.exists() else 0o600
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write_durably(temporary, dumps(_to_members(ring)) + b"\n", mode)
        if replace:
            temporary.replace(path)
        else:
            _place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _place(temporary: Path, path: Path) -> None:
    """Give a file its name unless that is taken."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as error:  # some file systems of desktops have no hard links
        if path.exists():
            raise FileExistsError(path) from error
        temporary.replace(path)


def _write_durably(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_members(ring: KeyRing) -> dict[str, object]:
    members: dict[str, object] = {"keys": [_write_signing_key(key) for key in ring.keys]}
    return members | ({"development": True} if ring.is_development else {})


def _write_signing_key(key: SigningKey) -> dict[str, object]:
    times = {"signs_from": key.signs_from, "verifies_until": key.verifies_until}
    seconds = {name: int(time.timestamp()) for name, time in times.items() if time is not None}
    return {
        "kid": key.key_id,
        "alg": key.algorithm,
        "use": "sig",
        **seconds,
        **to_jwk(key.algorithm, key.material),
    }
