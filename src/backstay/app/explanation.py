"""What is on and what is off in a service, and which setting decided it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from pathlib import Path

from backstay.app._route_policies import demands_policies
from backstay.app.documentation import serves_documentation
from backstay.app.metrics import METRICS_PATH
from backstay.app.observation import block_limit, serves_metrics
from backstay.app.stopping import drain_time
from backstay.app.time_limits import TimeLimits
from backstay.redaction import Redactor
from backstay.settings import Settings, explain_settings, variable_name

__all__ = ["Part", "parts", "variable_name"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a service, as `backstay explain` and the start tell it.

    Attributes:
        name: What it is called: `documentation`.
        is_on: Whether the service has it.
        state: `on`, `off`, or which of several forms it has: `JSON`.
        reason: Why, to be read after "because".
        setting: The setting that decides it, `http.docs`; None when code does.
    """

    name: str
    is_on: bool
    state: str
    reason: str
    setting: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.state}, because {self.reason}"


def parts(
    settings: Settings,
    *,
    has_policy: bool = True,
    idempotent_routes: int = 0,
    has_accounts: bool = False,
    takes_api_keys: bool = False,
) -> list[Part]:
    """Return the parts of a service, in the order in which one asks for them.

    Args:
        settings: The settings that it was made with.
        has_policy: Whether `create_app` made it; False after `install`, which changes no answer of an app.
        idempotent_routes: How many routes take an idempotency key.
        has_accounts: Whether users can log in.
        takes_api_keys: Whether API keys are good as bearer tokens.
    """
    explainer = _Explainer(settings)
    return [
        explainer.explain_database(),
        explainer.explain_migrations(),
        explainer.explain_documentation(has_policy=has_policy),
        explainer.explain_cross_origin(),
        *explainer.explain_policy(has_policy=has_policy),
        explainer.explain_transport_security(has_policy=has_policy),
        explainer.explain_route_policies(has_policy=has_policy),
        explainer.explain_deadline(has_policy=has_policy),
        *explainer.explain_accounts(has_accounts=has_accounts),
        explainer.explain_api_keys(takes_api_keys=takes_api_keys),
        explainer.explain_idempotency(idempotent_routes),
        explainer.explain_cache(),
        explainer.explain_coherence(),
        explainer.explain_limits(),
        *explainer.explain_clients(),
        explainer.explain_access_lines(),
        explainer.explain_log_format(),
        explainer.explain_metrics(),
        explainer.explain_traces(),
        explainer.explain_slow_queries(),
        explainer.explain_blocked_loop(),
        explainer.explain_proxies(),
        explainer.explain_hosts(has_policy=has_policy),
        explainer.explain_connections(),
        explainer.explain_stop(),
        explainer.explain_debug(),
    ]


class _Explainer:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._origins = {origin.name: origin for origin in explain_settings(settings, redactor=Redactor())}

    def explain_database(self) -> Part:
        database = self._settings.database
        url = database.url.get_secret_value()
        if url.startswith("postgresql"):
            state = f"PostgreSQL at {self._origins['database.url'].value}"
        elif database.is_in_memory:
            state = "SQLite in memory, gone when the process ends"
        else:
            path = url.partition(":///")[2].partition("?")[0]
            state = f"SQLite file {Path(path).resolve()} with a write-ahead log"
        return Part("database", True, state, self._tell("database.url", shown=False), "database.url")

    def explain_migrations(self) -> Part:
        chosen = self._settings.database.upgrade_on_start
        is_on = self._is_development if chosen is None else chosen
        return self._decide(
            "migrations at start", "database.upgrade_on_start", is_on=is_on, by_environment=chosen is None
        )

    def explain_documentation(self, *, has_policy: bool) -> Part:
        if not has_policy:
            return _installed("documentation", "the app's own pages are as its code has them")
        chosen = self._settings.http.docs
        is_on = serves_documentation(self._settings)
        return self._decide("documentation", "http.docs", is_on=is_on, by_environment=chosen is None)

    def explain_cross_origin(self) -> Part:
        is_on = bool(self._settings.http.cors_origins)
        return self._decide("CORS", "http.cors_origins", is_on=is_on)

    def explain_policy(self, *, has_policy: bool) -> Iterator[Part]:
        if not has_policy:
            for name in ("security headers", "problem documents", "body limit"):
                yield _installed(name, "install() changes no answer of an existing app; create_app() has it")
            yield self._explain_strict_json(is_default=False)
            return
        yield Part("security headers", True, "on", "create_app() made the app", None)
        yield Part("problem documents", True, "on", "create_app() made the app", None)
        limit = f"{self._settings.http.max_body_bytes} bytes"
        yield Part("body limit", True, limit, self._tell("http.max_body_bytes"), "http.max_body_bytes")
        limit = (
            f"{self._settings.http.max_headers} lines of {self._settings.http.max_header_bytes} bytes in all"
        )
        yield Part("header limit", True, limit, self._tell("http.max_headers"), "http.max_headers")
        yield self._explain_strict_json(is_default=True)

    def _explain_strict_json(self, *, is_default: bool) -> Part:
        chosen = self._settings.http.strict_json
        part = self._decide("strict JSON", "http.strict_json", is_on=is_default if chosen is None else chosen)
        return _with_maker(part, is_created=is_default) if chosen is None else part

    def explain_route_policies(self, *, has_policy: bool) -> Part:
        chosen = self._settings.http.require_policies
        is_on = demands_policies(self._settings, is_created=has_policy)
        part = self._decide("route policies", "http.require_policies", is_on=is_on)
        part = replace(part, state="each route has to say who may call it" if is_on else "off")
        return _with_maker(part, is_created=has_policy) if chosen is None else part

    def explain_transport_security(self, *, has_policy: bool) -> Part:
        is_on = has_policy and self._is_production
        name = "strict transport security"
        return Part(name, is_on, _word(is_on), self._environment, "environment")

    def explain_deadline(self, *, has_policy: bool) -> Part:
        limit = (TimeLimits.of_created if has_policy else TimeLimits.of_installed)(
            self._settings
        ).limit_seconds
        reason = self._tell("http.deadline")
        if self._settings.http.deadline is None:
            made = "create_app() made the app" if has_policy else "install() changes no answer of an app"
            reason = f"{reason} and {made}"
        if limit == inf:
            return Part("deadline", False, "off", reason, "http.deadline")
        return Part("deadline", True, f"{limit:g} s for each request", reason, "http.deadline")

    def explain_accounts(self, *, has_accounts: bool) -> Iterator[Part]:
        if not has_accounts:
            yield Part("accounts", False, "off", "create_app() was given none", None)
            return
        setting, keys = "security.access_ttl", "security.key_file"
        state = f"access tokens are good for {self._origins[setting].value}"
        yield Part("accounts", True, state, self._tell(setting), setting)
        where, has_keys = str(self._settings.security.key_file), True
        if self._settings.security.key_file is None:
            where = f"made by itself, in {'a file' if self._is_development else 'memory'}"
            has_keys = not self._is_production
        state = where if has_keys else "none, and so no start"
        yield Part("signing keys", has_keys, state, self._tell(keys, shown=False), keys)

    def explain_api_keys(self, *, takes_api_keys: bool) -> Part:
        reason = "create_app() was given api_keys=True" if takes_api_keys else "create_app() was not asked to"
        return Part("API keys", takes_api_keys, _word(takes_api_keys), reason, None)

    def explain_idempotency(self, routes: int) -> Part:
        name = "idempotency keys"
        if not routes:
            return Part(name, False, "off", "no route is marked with idempotent()", None)
        setting = "idempotency.keep"
        on_routes = "on 1 route" if routes == 1 else f"on {routes} routes"
        state = f"{on_routes}, kept for {self._origins[setting].value}"
        return Part(name, True, state, self._tell(setting), setting)

    def explain_cache(self) -> Part:
        settings = self._settings
        if not settings.cache.is_in_memory:
            state = f"in Redis at {self._origins['cache.url'].value}"
        elif settings.server.workers > 1 and settings.database.url.get_secret_value().startswith("sqlite"):
            state = "in the memory of each process, emptied by every commit to the SQLite file"
        else:
            state = "in the memory of this process"
        return Part("cache", True, state, self._tell("cache.url", shown=False), "cache.url")

    def explain_coherence(self) -> Part:
        chosen = self._settings.cache.coherence
        state = {
            "available": "changes are committed and cached reads may be a second old",
            "strict": "changes are answered with 503",
        }[chosen]
        name, setting = "cache without Redis", "cache.coherence"
        if self._settings.cache.is_in_memory:
            return Part(name, False, "off", f"{self._tell('cache.url', shown=False)}", "cache.url")
        return Part(name, True, state, self._tell(setting), setting)

    def explain_limits(self) -> Part:
        is_shared = not self._settings.cache.is_in_memory
        where = f"in Redis at {self._origins['cache.url'].value}" if is_shared else "by each process"
        reason = self._tell("cache.url", shown=False)
        return Part("rate limits", True, f"counted {where}", reason, "cache.url")

    def explain_clients(self) -> Iterator[Part]:
        if not self._settings.clients:
            yield Part("clients", False, "off", "no setting names one", None)
        for name in self._settings.clients:
            setting = f"clients.{name}.base_url"
            where = self._origins[setting].value
            yield Part(f"client {name}", True, f"at {where}", self._tell(setting, shown=False), setting)

    def explain_access_lines(self) -> Part:
        return self._decide("access lines", "logging.access", is_on=self._settings.logging.access)

    def explain_log_format(self) -> Part:
        chosen = self._settings.logging.format
        reason = self._tell("logging.format")
        if chosen != "auto":
            return Part("log format", True, chosen, reason, "logging.format")
        state = "json" if self._is_production else "console on a terminal, json elsewhere"
        return Part("log format", True, state, f"{reason} and {self._environment}", "logging.format")

    def explain_metrics(self) -> Part:
        is_default = self._settings.telemetry.metrics is None
        part = self._decide(
            "metrics", "telemetry.metrics", is_on=serves_metrics(self._settings), by_environment=is_default
        )
        if not part.is_on:
            return part
        audience = "everyone" if self._settings.telemetry.metrics_token is None else "who has the token"
        return replace(part, state=f"at {METRICS_PATH} for {audience}")

    def explain_traces(self) -> Part:
        return self._decide("traces", "telemetry.traces", is_on=self._settings.telemetry.traces)

    def explain_slow_queries(self) -> Part:
        return self._explain_limit(
            "slow queries", "telemetry.slow_query", self._settings.telemetry.slow_query
        )

    def explain_blocked_loop(self) -> Part:
        part = self._explain_limit("blocked loop", "telemetry.blocked_loop", block_limit(self._settings))
        is_default = self._settings.telemetry.blocked_loop is None
        return replace(part, reason=f"{part.reason} and {self._environment}") if is_default else part

    def _explain_limit(self, name: str, setting: str, limit: timedelta) -> Part:
        state = f"logged over {limit / timedelta(milliseconds=1):g} ms" if limit else "off"
        return Part(name, bool(limit), state, self._tell(setting), setting)

    def explain_proxies(self) -> Part:
        trusted = self._settings.server.trusted_proxies
        state = f"believed from {', '.join(trusted)}" if trusted else "off"
        return Part(
            "proxy headers",
            bool(trusted),
            state,
            self._tell("server.trusted_proxies"),
            "server.trusted_proxies",
        )

    def explain_hosts(self, *, has_policy: bool) -> Part:
        name, setting, hosts = "hosts", "http.allowed_hosts", self._settings.http.allowed_hosts
        if not has_policy:
            return _installed(name, "install() changes no answer of an existing app; create_app() has it")
        state = f"answers to {', '.join(hosts)}" if hosts else "answers to any name"
        return Part(name, bool(hosts), state, self._tell(setting), setting)

    def explain_connections(self) -> Part:
        setting = "server.header_timeout"
        values = [
            self._origins[f"server.{name}"].value
            for name in ("header_timeout", "body_timeout", "stall_timeout")
        ]
        state = "heads within {}, bodies within {}, stalled ones closed after {}".format(*values)
        return Part("connections", True, state, self._tell(setting), setting)

    def explain_stop(self) -> Part:
        setting = "server.drain"
        drain = drain_time(self._settings).total_seconds()
        first = f"takes requests for {drain:g} more seconds" if drain else "takes no more requests"
        state = f"{first}, and finishes them within {self._origins['server.grace'].value}"
        is_default = self._settings.server.drain is None
        reason = f"{self._tell(setting)} and {self._environment}" if is_default else self._tell(setting)
        return Part("stop", True, state, reason, setting)

    def explain_debug(self) -> Part:
        return self._decide("tracebacks to callers", "debug", is_on=self._settings.debug)

    def _decide(self, name: str, setting: str, *, is_on: bool, by_environment: bool = False) -> Part:
        reason = self._tell(setting)
        return Part(
            name,
            is_on,
            _word(is_on),
            f"{reason} and {self._environment}" if by_environment else reason,
            setting,
        )

    def _tell(self, setting: str, *, shown: bool = True) -> str:
        """Return what was said about a setting: `SHOP_HTTP__DOCS is not set`, `SHOP_DEBUG is true`."""
        origin = self._origins[setting]
        if origin.source == "default":
            return f"{origin.variable} is not set"
        if origin.source == "argument":
            return f"the code sets {setting}"
        return f"{origin.variable} is {origin.value or 'empty'}" if shown else f"{origin.variable} is set"

    @property
    def _is_production(self) -> bool:
        return self._settings.environment == "production"

    @property
    def _is_development(self) -> bool:
        return self._settings.environment == "development"

    @property
    def _environment(self) -> str:
        return f"the environment is {self._settings.environment}"


def _installed(name: str, reason: str) -> Part:
    return Part(name, False, "off", reason, None)


def _with_maker(part: Part, *, is_created: bool) -> Part:
    made = "create_app() made the app" if is_created else "install() met the app"
    return replace(part, reason=f"{part.reason} and {made}")


def _word(is_on: bool) -> str:
    return "on" if is_on else "off"
