"""`backstay keys`: the file with the keys that sign access tokens."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

from backstay.app.explanation import variable_name
from backstay.cli.messages import say
from backstay.cli.project import enter_project, load_app
from backstay.errors import ConfigurationError
from backstay.security.key_file import read_key_ring, write_key_ring
from backstay.security.keys import DEFAULT_OVERLAP, KeyRing, SigningKey, generate_key, rotate
from backstay.security.opening import DEVELOPMENT_FILE
from backstay.settings import SecuritySettings, Settings
from backstay.settings.security import SigningAlgorithm

__all__ = ["generate_keys", "list_keys", "rotate_keys"]


def generate_keys(app: str | None, file: Path | None, *, algorithm: SigningAlgorithm | None) -> None:
    """Write a file with one new key.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        file: Where to; what the settings say when None.
        algorithm: What the key is for; what the settings say when None.

    Raises:
        ConfigurationError: There is a file already, or nobody says where to write it.
    """
    security = SecuritySettings()
    if file is None:
        settings = _load_settings(app)
        file, security = _require_file(settings), settings.security
    key = generate_key(algorithm or security.algorithm)
    _require_folder(file)
    try:
        write_key_ring(KeyRing((key,)), file, replace=False)
    except FileExistsError:
        raise ConfigurationError(
            f"{file} is there already; the tokens that its keys have signed would become invalid.",
            hint=f"To add a key: backstay keys rotate {file}. After a theft, move the file away first.",
        ) from None
    say(f"Wrote {file} with the key {key.key_id} for {key.algorithm}. Nobody but you can read it.")


def rotate_keys(
    app: str | None, file: Path | None, *, overlap: timedelta | None, algorithm: SigningAlgorithm | None
) -> None:
    """Add a key to a file.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        file: Which; what the settings say when None.
        overlap: How long the new key is published before it signs.
        algorithm: What it is for; the same as the last one when None.

    Raises:
        ConfigurationError: The file is none, or the overlap is too short.
    """
    path = file or _require_file(_load_settings(app))
    ring, now = _read(path), datetime.now(UTC)
    rotated = rotate(
        ring, now=now, overlap=DEFAULT_OVERLAP if overlap is None else overlap, algorithm=algorithm
    )
    write_key_ring(rotated, path)
    known = {key.key_id for key in ring.keys}
    for key in rotated.keys:
        if key.key_id not in known:
            say(f"Added the key {key.key_id} for {key.algorithm}. It signs from {_show(key.signs_from)}.")


def list_keys(app: str | None, file: Path | None) -> None:
    """Write the keys of a file to standard output, without anything that signs.

    Args:
        app: `module:attribute`, instead of what pyproject.toml says.
        file: Which; what the settings say when None.
    """
    ring, now = _read(file or _require_file(_load_settings(app))), datetime.now(UTC)
    for key in ring.keys:
        typer.echo(f"{key.key_id}  {key.algorithm}  {_describe(key, ring, now)}")
    if ring.is_development:
        say("These keys were made for development; production refuses them.")


def _describe(key: SigningKey, ring: KeyRing, now: datetime) -> str:
    if now < key.signs_from:
        return f"signs from {_show(key.signs_from)}"
    end = "" if key.verifies_until is None else f" until {_show(key.verifies_until)}"
    if not key.is_alive(now):
        return f"is over since {_show(key.verifies_until or now)}"
    if ring.signing_key(now) is not key:
        return f"verifies{end}"
    return f"signs since {_show(key.signs_from)}" + (end and f", verifies{end}")


def _show(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _load_settings(app: str | None) -> Settings:
    return load_app(enter_project(app)).settings


def _require_file(settings: Settings) -> Path:
    """Return where the service's settings say that its keys are."""
    path = settings.security.key_file
    if path is not None:
        return path
    if settings.environment == "development" and DEVELOPMENT_FILE.exists():
        return DEVELOPMENT_FILE
    raise ConfigurationError(
        "Nobody says which file the keys are in.",
        hint=f"Name it behind the command, or set {variable_name(settings, 'security.key_file')}=keys.json",
    )


def _require_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"There is no folder {path.parent}.", hint=f"mkdir -p {path.parent}, then the same command again."
        )


def _read(path: Path) -> KeyRing:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", hint=f"To make it: backstay keys generate {path}"
        ) from error
    return read_key_ring(text, name=str(path))
