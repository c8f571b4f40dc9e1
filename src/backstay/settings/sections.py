"""The sections of the settings: what can be set, with its default, its limits and its description."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from backstay.settings.durations import read_span

__all__ = [
    "CacheSettings",
    "ClientName",
    "ClientSettings",
    "DatabaseSettings",
    "Duration",
    "HttpSettings",
    "IdempotencySettings",
    "LoggingSettings",
    "MigrationSettings",
    "SecretUrl",
    "ServerSettings",
    "SettingsSection",
    "TelemetrySettings",
    "UrlMarker",
]


class SettingsSection(BaseModel):
    """Subclass it for a section of your own: frozen, and refusing unknown names.

    Give each field a `Field(..., description=...)`: it is what `.env.example` and `backstay explain` show.
    Secrets are `SecretStr`, durations `Duration`, URLs with a password in them `SecretUrl`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)


class UrlMarker:
    """Tell that a secret is a URL, of which everything but the password may be shown."""

    __slots__ = ()


SecretUrl = Annotated[SecretStr, UrlMarker]
"""A URL that may hold a password: hidden from repr and logs, shown by `explain` without the password."""


def _parse_duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?<=\d)\s+(?=[a-z])", "", value.strip())
    span = read_span(f"{text}s" if text[-1:].isdigit() else text)
    return value if span is None else span


Duration = Annotated[timedelta, BeforeValidator(_parse_duration), Field(ge=timedelta(0))]
"""A timedelta; in the environment `250ms`, `2s`, `1h30m`, `1d`, `1w`, a number of seconds, or ISO 8601."""

PositiveDuration = Annotated[Duration, Field(gt=timedelta(0))]
"""A duration that is not 0."""


class DatabaseSettings(SettingsSection):
    """Where the data lives, and how long to wait for it."""

    url: SecretUrl = Field(
        default=SecretStr("sqlite:///service.db"),
        description="Where the data lives: sqlite:///file.db, sqlite:// (in memory) or "
        "postgresql://user:password@host/name. The asynchronous driver is added for you.",
        examples=["postgresql://shop:<password>@localhost/shop"],
    )
    pool_size: int = Field(default=10, ge=1, description="Connections that each worker process keeps open.")
    pool_overflow: int = Field(
        default=5, ge=0, description="Connections that it opens on top of them under load."
    )
    pool_timeout: Duration = Field(
        default=timedelta(seconds=2),
        description="How long to wait for a free connection before answering 503.",
    )
    pool_recycle: Duration = Field(
        default=timedelta(minutes=15),
        description="A connection older than this is replaced before it is used again.",
    )
    lock_timeout: Duration = Field(
        default=timedelta(seconds=2), description="PostgreSQL: how long a statement waits for a lock."
    )
    busy_timeout: Duration = Field(
        default=timedelta(seconds=5), description="SQLite: how long a writer waits for the one before it."
    )
    echo: bool = Field(default=False, description="Log each statement, without its values.")
    migrations: Path = Field(
        default=Path("migrations"),
        description="The folder with the migrations, relative to the working directory.",
    )
    upgrade_on_start: bool | None = Field(
        default=None, description="Apply missing migrations at the start. Unset: only in development."
    )
    repeat_attempts: int = Field(
        default=5,
        ge=1,
        description="How often in all a repeatable unit of work is tried when two transactions meet.",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        value = url.get_secret_value().strip()
        if value == ":memory:":
            return SecretStr("sqlite://")
        if value.startswith("postgres://"):
            raise ValueError("must start with postgresql://, not postgres://")
        if _DATABASE_URL.match(value) is None:
            raise ValueError("must be a URL that starts with sqlite:// or postgresql://")
        return SecretStr(value)

    @property
    def is_in_memory(self) -> bool:
        """Whether the data is gone when the process ends."""
        value = self.url.get_secret_value()
        path = value.partition("://")[2].partition("?")[0].strip("/")
        return value.startswith("sqlite") and (not path or ":memory:" in path or "mode=memory" in value)


_DATABASE_URL: Final = re.compile(r"(?:sqlite(?:\+\w+)?://(?:/|\?|$)|postgresql(?:\+\w+)?://.)")


class MigrationSettings(SettingsSection):
    """How long migrations wait and are tried, and which tables are none of theirs."""

    # Shorter than database.lock_timeout and pool_timeout: who queues behind a migration waits, and is served.
    lock_timeout: Duration = Field(
        default=timedelta(seconds=1),
        description="PostgreSQL: how long a migration waits for a lock. Those who come to the table later "
        "wait as long.",
    )
    statement_timeout: Duration = Field(
        default=timedelta(minutes=15),
        description="PostgreSQL: how long one statement of a migration may run; 0 for as long as it takes.",
    )
    attempts: int = Field(
        default=10, ge=1, description="How often in all a migration that does not get its locks is tried."
    )
    lock_wait: Duration = Field(
        default=timedelta(minutes=5), description="How long to wait for another process that is migrating."
    )
    foreign_tables: tuple[str, ...] = Field(
        default=(),
        description="Tables that no model declares and that are to stay, by name or pattern.",
        examples=["spatial_ref_sys,audit_*"],
    )
    batch_size: int = Field(
        default=200, ge=1, description="How many rows a data migration changes in one transaction."
    )
    rows_per_second: int | None = Field(
        default=None,
        ge=1,
        description="How fast a data migration goes at the most. Unset: it rests for as long as it works.",
    )


class CacheSettings(SettingsSection):
    """Where cached values and counters live, and what happens while that place does not answer."""

    url: SecretUrl | None = Field(
        default=None,
        description="Where cached values live: redis://host/0, or rediss:// for TLS. Unset, or memory://: in "
        "each process.",
        examples=["redis://:<password>@localhost:6379/0"],
    )
    prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="What every key in Redis starts with. Unset: the name of the service.",
    )
    coherence: Literal["available", "strict"] = Field(
        default="available",
        description="While Redis is unreachable, a change is committed and cached reads may be a second old "
        "(available), or the change is answered with 503 (strict).",
    )
    operation_timeout: Duration = Field(
        default=timedelta(milliseconds=50),
        gt=timedelta(0),
        description="How long to wait for one answer of Redis before going on without it.",
    )
    max_value_bytes: int = Field(
        default=1024 * 1024, ge=1, description="A larger value is served, and not stored."
    )
    max_memory_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1024,
        description="memory://: how much each process keeps; what was not used for longest goes first.",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr | None) -> SecretStr | None:
        value = url.get_secret_value().strip() if url is not None else "memory://"
        if _CACHE_URL.match(value) is None:
            raise ValueError("must be memory:// or a URL that starts with redis:// or rediss://")
        return None if value == "memory://" else SecretStr(value)

    @property
    def is_in_memory(self) -> bool:
        """Whether each process has a cache of its own."""
        return self.url is None


_CACHE_URL: Final = re.compile(r"(?:memory://$|rediss?://.)")


def _to_upper_case(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class LoggingSettings(SettingsSection):
    """What is logged, in which shape, and what is masked in it."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_to_upper_case)
    ] = Field(default="INFO", description="The lowest level that is written.")
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto is console on a terminal outside production, else json."
    )
    redact_keys: tuple[str, ...] = Field(
        default=(),
        description="Keys whose values are masked, besides the built-in ones such as password and token.",
        examples=["iban,shoe_size"],
    )
    access: bool = Field(default=True, description="Write one line per request.")


class HttpSettings(SettingsSection):
    """What the service accepts over HTTP, and from whom."""

    docs: bool | None = Field(
        default=None, description="Serve the OpenAPI page and document. Unset: on outside production."
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description="Origins whose pages may call this service; * for any.",
        examples=["https://shop.example,https://admin.shop.example"],
    )
    cors_credentials: bool = Field(
        default=False, description="Let these pages send cookies and authorization. Not together with *."
    )
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1, description="A larger request body is answered with 413."
    )
    max_headers: int = Field(
        default=100, ge=1, description="A request with more header lines is answered with 431."
    )
    max_header_bytes: int = Field(
        default=32 * 1024,
        ge=1,
        description="A request whose header lines are longer together is answered with 431.",
    )
    max_target_bytes: int = Field(
        default=8 * 1024,
        ge=1,
        description="A request whose path and query are longer together is answered with 414.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="The names that callers may call the service by, without a port; *.shop.example for all "
        "below one. Others are answered with 421. Unset: any.",
        examples=["shop.example,*.shop.example"],
    )
    max_form_fields: int = Field(
        default=200, ge=0, description="A form with more fields that are no files is answered with 400."
    )
    max_form_files: int = Field(default=20, ge=0, description="A form with more files is answered with 400.")
    strict_json: bool | None = Field(
        default=None,
        description="Refuse JSON bodies that readers understand in several ways, such as a name that stands "
        "twice. Unset: on for apps that create_app makes.",
    )
    require_policies: bool | None = Field(
        default=None,
        description="Refuse to start when a route does not say who may call it. Unset: on for apps that "
        "create_app makes.",
    )
    max_json_depth: int = Field(
        default=32,
        ge=1,
        le=250,
        description="strict_json: arrays and objects that are nested deeper are answered with 422.",
    )
    max_json_values: int = Field(
        default=10_000,
        ge=1,
        description="strict_json: a body whose arrays and objects hold more together is answered with 422.",
    )
    request_id_header: str = Field(
        default="X-Request-ID",
        pattern=r"^[A-Za-z0-9-]+$",
        description="The header that carries a request's id, in and out.",
    )
    deadline: Duration | None = Field(
        default=None,
        description="How long a request may take, with all that it waits for and a streamed body; 0 for as "
        "long as it likes. Unset: 30s for apps that create_app makes.",
    )
    deadline_header: str = Field(
        default="X-Request-Timeout-Ms",
        pattern=r"^[A-Za-z0-9-]*$",
        description="The header in which callers at server.trusted_proxies say how many milliseconds they "
        "wait; it only shortens the deadline. Empty: nobody can.",
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(_HOST.fullmatch, hosts)):
            raise ValueError("must be names without scheme and port, such as shop.example or *.shop.example")
        return hosts


_HOST: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")


class IdempotencySettings(SettingsSection):
    """How long idempotency keys are kept, and how long a request waits for another one with its key."""

    keep: Annotated[Duration, Field(ge=timedelta(minutes=1))] = Field(
        default=timedelta(days=1),
        description="For how long a request that comes again gets the answer of the first one.",
    )
    wait: Duration = Field(
        default=timedelta(seconds=5),
        description="PostgreSQL: how long a request waits for another one with its key before the 409.",
    )


class ClientSettings(SettingsSection):
    """A service that this one calls over HTTP, and how long to wait for it."""

    base_url: str = Field(
        description="Where it is; paths are added to it.", examples=["https://rates.example/v1"]
    )
    connect_timeout: Duration = Field(
        default=timedelta(seconds=2),
        description="How long to wait for a connection, its name's look-up included.",
    )
    read_timeout: Duration = Field(
        default=timedelta(seconds=5), description="How long to wait for the next piece of an answer."
    )
    write_timeout: Duration = Field(
        default=timedelta(seconds=5),
        description="How long to wait until it takes the next piece of a request.",
    )
    pool_timeout: Duration = Field(
        default=timedelta(seconds=1), description="How long to wait while `concurrency` calls are under way."
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10),
        description="How long a call may take in all, with everything that is tried again. The deadline "
        "of the request that is being served shortens it.",
    )
    pass_deadline: bool = Field(
        default=False,
        description="Say in each call, in the header http.deadline_header, how many milliseconds are left.",
    )
    max_response_bytes: int = Field(
        default=10 * 1024 * 1024, ge=1, description="A longer answer, once it is unpacked, is an error."
    )
    concurrency: int = Field(
        default=50, ge=1, description="So many calls may be under way at once, in each process."
    )
    retries: int = Field(
        default=2,
        ge=0,
        le=10,
        description="How often a call that failed is tried again, if it is safe to; in all, one retry for "
        "each ten calls.",
    )
    user_agent: str | None = Field(
        default=None,
        min_length=1,
        description="Who calls, as the other side sees it. Unset: the service's name.",
    )
    proxy: SecretUrl | None = Field(
        default=None,
        description="The proxy to go through. The variables HTTP_PROXY and HTTPS_PROXY are not read.",
        examples=["http://proxy.example:3128"],
    )

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, base_url: str) -> str:
        if _BASE_URL.fullmatch(base_url) is None:
            raise ValueError(
                "must be a URL that starts with http:// or https://, without a password, query and fragment"
            )
        return base_url

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy is not None and re.match(r"https?://[^/\s]", proxy.get_secret_value()) is None:
            raise ValueError("must be a URL that starts with http:// or https://")
        return proxy


_BASE_URL: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#@]*)?", re.IGNORECASE)


def _check_client_name(name: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*", name) is None:
        raise ValueError(f"has the name {name!r}; a name is of small letters, digits and single underscores")
    return name


ClientName = Annotated[str, AfterValidator(_check_client_name)]
"""What a client is called in code, in variables (there in capitals), logs and metrics."""


class ServerSettings(SettingsSection):
    """Where `backstay run` listens, and how it stops."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="The address to listen on; 0.0.0.0 for all of them."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 for any free one.")
    workers: int = Field(default=1, ge=1, description="How many processes serve.")
    grace: Duration = Field(
        default=timedelta(seconds=30),
        description="How long a stopping service finishes the requests it has accepted.",
    )
    drain: Duration | None = Field(
        default=None,
        description="How long a service that is told to stop still takes requests, while /readyz says 503 "
        "already: twice what the proxies need to notice. Unset: 10s in production, 0 elsewhere.",
        examples=["20s"],
    )
    header_timeout: PositiveDuration = Field(
        default=timedelta(seconds=5),
        description="How long a new connection may take until it has sent a request's head, and each later "
        "head from its first byte on.",
    )
    body_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30), description="How long a request's body may take to arrive."
    )
    stall_timeout: PositiveDuration = Field(
        default=timedelta(seconds=5),
        description="How long a caller may send or read more slowly than `min_bytes_per_second` before the "
        "connection is closed.",
    )
    min_bytes_per_second: int = Field(
        default=500, ge=1, description="The bytes a second that a caller sends or reads at the least."
    )
    keep_alive: PositiveDuration = Field(
        default=timedelta(seconds=75),
        description="How long a connection is kept after an answer. Longer than the proxies keep theirs, or "
        "they send into one that is being closed.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=("127.0.0.1",),
        description="Addresses or networks whose X-Forwarded-* headers, and http.deadline_header, are "
        "believed.",
        examples=["10.0.0.0/8"],
    )
    root_path: str = Field(
        default="",
        pattern=r"^(?:|/.*[^/])$",
        description="The path under which a proxy mounts the service, such as /shop.",
        examples=["/shop"],
    )


class TelemetrySettings(SettingsSection):
    """What the service tells about itself while it runs; spans go where the OTEL_* variables say."""

    metrics: bool | None = Field(
        default=None,
        description="Serve metrics for Prometheus at /metrics. Unset: on outside production.",
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        description="The bearer token that /metrics asks for. Unset: it answers everyone.",
        examples=["<32 random characters>"],
    )
    traces: bool = Field(
        default=False, description="Send spans of requests, statements and commits by OTLP over HTTP."
    )
    slow_query: Duration = Field(
        default=timedelta(milliseconds=500),
        description="Log each statement that takes longer, without its values; 0 logs none.",
    )
    blocked_loop: Duration | None = Field(
        default=None,
        description="Log what blocks the event loop for longer; 0 logs nothing. Unset: 100ms in development, "
        "0 elsewhere.",
    )

    @field_validator("metrics_token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < _SHORTEST_TOKEN:
            raise ValueError(f"must have at least {_SHORTEST_TOKEN} characters")
        return token


_SHORTEST_TOKEN: Final = 16
