"""The tables of logins, one-time tokens and API keys."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from backstay.db.model import NAMING_CONVENTION
from backstay.db.records import LibraryTables
from backstay.db.types import JSON, String, UTCDateTime

__all__ = [
    "api_key_table",
    "api_key_tables",
    "one_time_token_table",
    "one_time_token_tables",
    "refresh_token_table",
    "session_table",
    "session_tables",
]

_RECORDS: Final = sa.MetaData(naming_convention=NAMING_CONVENTION)
_ID: Final = 32
_DIGEST: Final = 64
_NAME: Final = 255

session_table: Final = sa.Table(
    "backstay_sessions",
    _RECORDS,
    sa.Column("id", String(_ID), primary_key=True),
    sa.Column("subject", String(_NAME), nullable=False, index=True),
    sa.Column("client_id", String(_NAME), nullable=False),
    sa.Column("scopes", JSON(), nullable=False),
    sa.Column("created_at", UTCDateTime(), nullable=False),
    sa.Column("expires_at", UTCDateTime(), nullable=False, index=True),
    sa.Column("revoked_at", UTCDateTime()),
)
"""One row for each login: the family of its refresh tokens."""

refresh_token_table: Final = sa.Table(
    "backstay_refresh_tokens",
    _RECORDS,
    sa.Column("digest", String(_DIGEST), primary_key=True),
    sa.Column(
        "session_id",
        String(_ID),
        sa.ForeignKey(session_table.c.id, ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("created_at", UTCDateTime(), nullable=False),
    sa.Column("expires_at", UTCDateTime(), nullable=False, index=True),
    sa.Column("used_at", UTCDateTime()),
    sa.Column("successor_sealed", sa.LargeBinary()),
)
"""One row for each refresh token, also after its use: who brings it again has stolen it, or was stolen from.

`successor_sealed` is there for as long as the answer may have been lost.
"""

_USED: Final = refresh_token_table.c.successor_sealed.is_not(None)
# Small at any time: it holds the tokens that were used in the last seconds, and is what the sweep looks at.
sa.Index(
    "ix_backstay_refresh_tokens_sealed",
    refresh_token_table.c.used_at,
    postgresql_where=_USED,
    sqlite_where=_USED,
)

one_time_token_table: Final = sa.Table(
    "backstay_one_time_tokens",
    _RECORDS,
    sa.Column("digest", String(_DIGEST), primary_key=True),
    sa.Column("purpose", String(_ID), nullable=False),
    sa.Column("subject", String(_NAME), nullable=False),
    sa.Column("bound_to", String(_DIGEST), nullable=False),
    sa.Column("created_at", UTCDateTime(), nullable=False),
    sa.Column("expires_at", UTCDateTime(), nullable=False, index=True),
    sa.Column("used_at", UTCDateTime()),
)
"""One row for each token that resets a password or verifies an address, once."""

api_key_table: Final = sa.Table(
    "backstay_api_keys",
    _RECORDS,
    sa.Column("key_id", String(_ID), primary_key=True),
    sa.Column("subject", String(_NAME), nullable=False, index=True),
    sa.Column("name", String(_NAME), nullable=False),
    sa.Column("scopes", JSON(), nullable=False),
    sa.Column("digest", String(_DIGEST), nullable=False),
    sa.Column("created_at", UTCDateTime(), nullable=False),
    sa.Column("expires_at", UTCDateTime()),
    sa.Column("revoked_at", UTCDateTime()),
)
"""One row for each API key, also when it was revoked."""

session_tables: Final[LibraryTables] = (session_table, refresh_token_table)
"""What a service with accounts needs, in the order in which they are created."""

one_time_token_tables: Final[LibraryTables] = (one_time_token_table,)
"""What a service needs that resets passwords or verifies addresses."""

api_key_tables: Final[LibraryTables] = (api_key_table,)
"""What a service with API keys needs."""
