"""What the settings say about tokens and their keys, made ready for a service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from backstay.errors import ConfigurationError
from backstay.security.key_file import KeyFile, write_key_ring
from backstay.security.keys import KeyRing, generate_key
from backstay.security.tokens import AccessTokens
from backstay.settings import Settings, variable_name
from backstay.settings.security import SigningAlgorithm

__all__ = ["DEVELOPMENT_FILE", "find_audience", "find_issuer", "open_access_tokens", "open_key_ring"]

_logger = logging.getLogger("backstay.security")

DEVELOPMENT_FILE: Final = Path(".backstay/keys.json")
"""Where development keeps the keys that it makes by itself."""

_DEVELOPMENT_ISSUER: Final = "http://127.0.0.1:8000"


def open_access_tokens(settings: Settings) -> AccessTokens:
    """Return what issues and verifies the service's access tokens.

    Raises:
        ConfigurationError: There are no keys, or none that this environment takes, or no issuer.
    """
    return AccessTokens(
        settings.security,
        open_key_ring(settings),
        issuer=find_issuer(settings),
        audience=find_audience(settings),
    )


def find_issuer(settings: Settings) -> str:
    """Return whose the tokens are.

    Raises:
        ConfigurationError: Nobody has said, in production.
    """
    if settings.security.issuer is not None:
        return settings.security.issuer
    if settings.environment == "production":
        variable = variable_name(settings, "security.issuer")
        raise ConfigurationError(
            f"{variable} is not set: access tokens have to say who issued them.",
            hint=f"Set it to the URL under which callers reach the service: {variable}=https://shop.example",
        )
    return _DEVELOPMENT_ISSUER


def find_audience(settings: Settings) -> str:
    """Return whom the tokens are for."""
    return settings.security.audience or find_issuer(settings)


def open_key_ring(settings: Settings) -> Callable[[], KeyRing]:
    """Return what gives the service's current keys.

    From the setting `security.key_file`. Without it development keeps a ring of its own in `.backstay`, and
    tests make one in memory.

    Raises:
        ConfigurationError: There is no file, it cannot be read, or production refuses it.
    """
    path = settings.security.key_file
    is_production = settings.environment == "production"
    if path is not None:
        return KeyFile(path, is_production=is_production).ring
    if is_production:
        variable = variable_name(settings, "security.key_file")
        raise ConfigurationError(
            f"{variable} is not set: there are no keys to sign access tokens with.",
            hint=f"backstay keys generate keys.json, then {variable}=keys.json",
        )
    if settings.environment == "test":
        ring = KeyRing((generate_key(settings.security.algorithm),), is_development=True)
        return lambda: ring
    return KeyFile(_ensure_development_file(settings)).ring


def _ensure_development_file(settings: Settings) -> Path:
    path = DEVELOPMENT_FILE
    if path.exists():
        return path
    try:
        _make_development_file(path, settings.security.algorithm)
    except OSError as error:
        raise ConfigurationError(
            f"Keys for access tokens cannot be written to {path}: {error.strerror}.",
            hint=f"Set {variable_name(settings, 'security.key_file')} to a file that was made elsewhere.",
        ) from error
    return path


def _make_development_file(path: Path, algorithm: SigningAlgorithm) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    ring = KeyRing((generate_key(algorithm),), is_development=True)
    try:
        write_key_ring(ring, path, replace=False)
    except FileExistsError:
        return  # another process was quicker, and its keys are as good
    _logger.info("Made keys for access tokens in %s, for development only.", path)
