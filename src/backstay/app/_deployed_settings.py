"""What the settings of a service say about the world that it is deployed in."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from backstay.app._deployed import Finding, Service
from backstay.app.documentation import serves_documentation
from backstay.app.observation import serves_metrics
from backstay.settings import find_weak_secrets as list_weak_secrets

__all__ = [
    "find_bad_logs",
    "find_exposed_pages",
    "find_loose_dependencies",
    "find_missing_headers",
    "find_open_errors",
    "find_open_redis",
    "find_plain_links",
    "find_shared_keys",
    "find_short_passwords",
    "find_unclear_json",
    "find_weak_secrets",
    "find_wide_origins",
    "find_wide_trust",
]

_LOCK_FILES: Final = ("requirements.lock", "uv.lock", "pylock.toml", "poetry.lock", "pdm.lock")
_PASSWORD_LENGTH: Final = 15
_SECRET_BITS: Final = 128


def find_wide_origins(service: Service) -> Iterator[Finding]:
    """Yield the origins that are any page, or a page that anyone on the way may change."""
    variable = service.variable("http.cors_origins")
    for origin in service.settings.http.cors_origins:
        if origin == "*":
            yield Finding("Pages of any origin may call the service.", f"Name the origins in {variable}.")
        elif not origin.startswith("https://"):
            yield Finding(
                f"Pages of {origin} may call the service, and anyone on the way can change those.",
                f"Name its https:// address in {variable}.",
            )


def find_short_passwords(service: Service) -> Iterator[Finding]:
    """Yield the length that is only enough beside a second factor."""
    length = service.settings.security.password_min_length
    if length < _PASSWORD_LENGTH:
        yield Finding(
            f"Passwords of {length} characters are taken, which is enough beside a second factor only.",
            f"Set {service.variable('security.password_min_length')}={_PASSWORD_LENGTH}.",
        )


def find_shared_keys(service: Service) -> Iterator[Finding]:
    """Yield why a service that only verifies tokens could make some."""
    if service.settings.security.algorithm == "HS256":
        yield Finding(
            "Access tokens are signed with a secret that everybody who verifies them has to have.",
            f"Set {service.variable('security.algorithm')}=EdDSA, then: backstay keys rotate",
        )


def find_missing_headers(service: Service) -> Iterator[Finding]:
    """Yield why answers lack the security headers."""
    if not service.has_policy:
        yield Finding(
            "install() leaves the headers of answers as they are.",
            "Make the app with create_app(), or let the proxy in front add them.",
        )
    if service.settings.environment != "production":
        yield Finding(
            f"The environment is {service.settings.environment}: browsers are not told to stay with HTTPS, "
            "and unsafe settings do not stop the start.",
            f"Set {service.variable('environment')}=production.",
        )


def find_open_errors(service: Service) -> Iterator[Finding]:
    """Yield what shows callers tracebacks or values."""
    if service.settings.debug:
        yield Finding("Callers see tracebacks.", f"Set {service.variable('debug')}=false.")
    if not service.has_policy:
        yield Finding(
            "install() leaves the bodies of errors as they are; those of FastAPI repeat what was sent.",
            "Make the app with create_app().",
        )


def find_exposed_pages(service: Service) -> Iterator[Finding]:
    """Yield the pages that tell everyone how the service is made and what it does."""
    settings = service.settings
    if serves_documentation(settings):
        yield Finding(
            "The documentation and the OpenAPI document are served to everyone.",
            f"Set {service.variable('http.docs')}=false, unless the API is meant for everyone.",
        )
    if serves_metrics(settings) and settings.telemetry.metrics_token is None:
        yield Finding(
            "The metrics are served to everyone.",
            f"Set {service.variable('telemetry.metrics_token')}, and give it to Prometheus.",
        )


def find_weak_secrets(service: Service) -> Iterator[Finding]:
    """Yield the secrets that are shorter or plainer than a random one of 128 bits."""
    for variable in list_weak_secrets(service.settings, bits=_SECRET_BITS):
        yield Finding(
            f"{variable} has less than {_SECRET_BITS} bits.",
            """Make one: python -c "import secrets; print(secrets.token_urlsafe(32))".""",
        )


def find_bad_logs(service: Service) -> Iterator[Finding]:
    """Yield what a log lacks, or holds too much of."""
    logging = service.settings.logging
    if not logging.access:
        yield Finding("Requests leave no line.", f"Set {service.variable('logging.access')}=true.")
    if logging.level == "DEBUG":
        yield Finding(
            "Everything is logged, also what libraries say for their own makers.",
            f"Set {service.variable('logging.level')}=INFO.",
        )


def find_wide_trust(service: Service) -> Iterator[Finding]:
    """Yield the proxies that are anybody, and whether the host is."""
    if not service.settings.http.allowed_hosts:
        yield Finding(
            "The service answers to any host's name, also in the links that it makes.",
            f"Name its own in {service.variable('http.allowed_hosts')}.",
        )
    variable = service.variable("server.trusted_proxies")
    for proxy in service.settings.server.trusted_proxies:
        if _is_anybody(proxy):
            yield Finding(
                f"The address of a caller is believed from {proxy}: anybody can claim to be anyone.",
                f"Name the proxies' own addresses or network in {variable}.",
            )


def _is_anybody(proxy: str) -> bool:
    try:
        return proxy == "*" or ip_network(proxy, strict=False).prefixlen == 0
    except ValueError:
        return False


def find_plain_links(service: Service) -> Iterator[Finding]:
    """Yield the connections to other machines that are not encrypted, or not to a verified side."""
    yield from chain(_plain_database(service), _plain_redis(service), _plain_clients(service))


def _plain_database(service: Service) -> Iterator[Finding]:
    url = urlsplit(service.settings.database.url.get_secret_value())
    if not url.scheme.startswith("postgresql") or _is_local(url.hostname):
        return
    options = parse_qs(url.query)
    mode = (options.get("sslmode") or options.get("ssl") or ["prefer"])[-1]
    if mode != "verify-full":
        yield Finding(
            f"The database is asked with sslmode={mode}, which anyone on the way can take the place of.",
            f"Add ?sslmode=verify-full to {service.variable('database.url')}.",
        )


def _plain_redis(service: Service) -> Iterator[Finding]:
    if service.settings.cache.url is None:
        return
    url = urlsplit(service.settings.cache.url.get_secret_value())
    if url.scheme != "rediss" and not _is_local(url.hostname):
        yield Finding(
            "Redis is asked without encryption.", f"Write rediss:// in {service.variable('cache.url')}."
        )
    if parse_qs(url.query).get("ssl_cert_reqs", ["required"])[-1] != "required":
        yield Finding(
            "The certificate of Redis is not verified.",
            f"Take ssl_cert_reqs out of {service.variable('cache.url')}.",
        )


def _plain_clients(service: Service) -> Iterator[Finding]:
    for name, client in service.settings.clients.items():
        url = urlsplit(client.base_url)
        if url.scheme != "https" and not _is_local(url.hostname):
            yield Finding(
                f"The client {name!r} calls {url.hostname} without encryption.",
                f"Write https:// in {service.variable(f'clients.{name}.base_url')}.",
            )


def _is_local(host: str | None) -> bool:
    """Return whether a host is this machine; none at all is a socket file."""
    if not host or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def find_open_redis(service: Service) -> Iterator[Finding]:
    """Yield why everybody who reaches Redis can do there what the service can, or more."""
    if service.settings.cache.url is None:
        return
    url = urlsplit(service.settings.cache.url.get_secret_value())
    variable = service.variable("cache.url")
    if not url.password:
        yield Finding("Redis asks nobody for a password.", f"Set one there, and write it into {variable}.")
    elif url.username in {None, "", "default"}:
        yield Finding(
            "The service is Redis' default user, who may do anything.",
            "Make one with ACL SETUSER that may use ~<prefix>* only, and write redis://<user>:<password>@... "
            f"into {variable}.",
        )


def find_unclear_json(service: Service) -> Iterator[Finding]:
    """Yield why two readers of one body may see two things."""
    chosen = service.settings.http.strict_json
    if not (service.has_policy if chosen is None else chosen):
        yield Finding(
            "JSON is read leniently: a name that stands twice counts once.",
            f"Set {service.variable('http.strict_json')}=true.",
        )


def find_loose_dependencies(service: Service) -> Iterator[Finding]:
    """Yield why a release of somebody else may change what is deployed."""
    if not any((folder / name).is_file() for folder in _with_parents(service) for name in _LOCK_FILES):
        yield Finding(
            "There is no lock file beside pyproject.toml.",
            "Write one with hashes, such as uv.lock by `uv lock`, and install from it.",
        )


def _with_parents(service: Service) -> Iterator[Path]:
    # A workspace has one lock for all; beyond the repository nobody's counts.
    for folder in (service.folder, *service.folder.parents):
        yield folder
        if (folder / ".git").exists():
            return
