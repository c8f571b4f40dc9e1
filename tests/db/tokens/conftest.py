"""The tables of logins, tokens and keys on both databases, and a clock that tests turn."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import MetaData

from backstay.db import Database
from backstay.db.tokens import (
    OneTimeTokens,
    Sessions,
    api_key_tables,
    one_time_token_tables,
    session_tables,
)
from backstay.security import opaque
from backstay.settings import SecuritySettings

_TABLES = MetaData()
for table in (*session_tables, *one_time_token_tables, *api_key_tables):
    table.to_metadata(_TABLES)


class Clock:
    """The present, as a test has it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 29, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return _TABLES


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(database: Database, clock: Clock) -> Sessions:
    return Sessions(database, SecuritySettings(), opaque, clock=clock)


@pytest.fixture
def one_time_tokens(database: Database, clock: Clock) -> OneTimeTokens:
    return OneTimeTokens(database, opaque, clock=clock)
