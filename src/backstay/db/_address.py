"""What stands behind the `?` of a PostgreSQL address, in the words that every provider and psql use."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy.engine import URL

from backstay.errors import ConfigurationError, did_you_mean

__all__ = ["move_options", "refuse_unknown_options"]

# asyncpg knows these in an address only, and SQLAlchemy gives it arguments.
_IN_ADDRESS: Final = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_IN_SESSION: Final = ("application_name", "options")
_AS_ARGUMENTS: Final = (
    *("host", "port", "ssl", "direct_tls", "passfile", "krbsrvname", "gsslib", "target_session_attrs"),
    *("timeout", "command_timeout", "statement_cache_size"),
    *("prepared_statement_cache_size", "prepared_statement_name_func"),
)


def refuse_unknown_options(url: URL) -> None:
    """Do nothing when the driver knows every option of a PostgreSQL address.

    Raises:
        ConfigurationError: It does not know one.
    """
    known = (*_IN_ADDRESS, *_IN_SESSION, *_AS_ARGUMENTS)
    for name in url.query:
        if name not in known:
            raise ConfigurationError(
                f"The setting database.url has the option {name!r}, which asyncpg does not know."
                f"{did_you_mean(name, known)}",
                hint=f"Take {name} out of the address.",
            )


def move_options(arguments: MutableMapping[str, Any]) -> None:
    """Put the options of an address among the arguments for asyncpg where it looks for them."""
    options = {name: arguments.pop(name) for name in _IN_ADDRESS if name in arguments}
    if options:
        arguments["dsn"] = f"postgresql:///?{urlencode(options)}"
    session = {name: arguments.pop(name) for name in _IN_SESSION if name in arguments}
    if session:
        server: Mapping[str, str] = arguments.get("server_settings", {})
        arguments["server_settings"] = {**server, **session}
