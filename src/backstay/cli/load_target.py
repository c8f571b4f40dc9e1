"""What a load test is pointed at: the service on this machine, or what the user says twice."""

import socket
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import typer

from backstay.cli.messages import complain
from backstay.errors import ConfigurationError
from backstay.settings import Settings

__all__ = ["Target", "find_target", "knock"]

_MISUSE = 2
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where the service answers.

    Args:
        url: Without a slash at its end.
        is_remote: Whether it is another machine.
    """

    url: str
    is_remote: bool = False


def find_target(settings: Settings, *, against: str | None, allow_remote: str | None) -> Target:
    """Return where to send the load.

    Args:
        settings: Say where the service listens, when nothing else does.
        against: A URL, instead.
        allow_remote: The host of that URL once more, when it is not this machine.

    Raises:
        typer.Exit: The URL is none, or names a machine that may not be loaded; it has been told.
    """
    if against is None:
        return Target(_find_own_url(settings))
    parts = urlsplit(against)
    host = parts.hostname
    if parts.scheme not in {"http", "https"} or not host or not _has_usable_port(against):
        example = "http://127.0.0.1:8000" if "://" in against else f"http://{against}"
        raise _refuse(f"{against} is not a URL.", hint=f"Write it like --against {example}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _refuse(
            "The URL of a load test has nothing but a host, a port and a path.",
            hint=f"Write it like --against {parts.scheme}://{host}",
        )
    is_remote = not _is_this_machine(host)
    if is_remote and allow_remote != host:
        raise _refuse(
            f"{host} is another machine, and a load test may take down what it is pointed at.",
            hint=f"If it is yours to load, name it twice: --against {against} --allow-remote {host}",
        )
    return Target(against.rstrip("/"), is_remote=is_remote)


def _find_own_url(settings: Settings) -> str:
    host, port = settings.server.host, settings.server.port
    if port == 0:
        raise _refuse(
            "The service listens on any free port, so it is not known where.",
            hint="Name the address that it told at its start: --against http://127.0.0.1:8000",
        )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  asked, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _has_usable_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _is_this_machine(host: str) -> bool:
    """Tell whether a host is reached by the loopback interface, whichever of its addresses is taken."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ip_address(address[4][0]).is_loopback for address in found)


def _refuse(message: str, *, hint: str) -> typer.Exit:
    complain(message, hint=hint)
    return typer.Exit(_MISUSE)


def knock(target: Target) -> None:
    """See to it that somebody answers, whatever the answer is.

    Raises:
        ConfigurationError: Nobody does.
    """
    try:
        # The load passes by any proxy that the environment names; so do we.
        with build_opener(ProxyHandler({})).open(f"{target.url}/livez", timeout=_PATIENCE_SECONDS):
            pass
    except HTTPError as error:
        error.close()
    except (OSError, HTTPException) as error:
        raise ConfigurationError(
            f"Nothing answers at {target.url}.",
            hint="Check the address, and that the service runs."
            if target.is_remote
            else "Start the service in another terminal: backstay run",
        ) from error
