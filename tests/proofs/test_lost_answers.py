"""Clients whose answers get lost stay logged in: each asks again with the token that it still has."""

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import MetaData

from backstay.db import Database
from backstay.db.tokens import Renewed, ReuseDetected, Sessions, session_tables
from backstay.security import opaque
from backstay.settings import SecuritySettings

pytestmark = [pytest.mark.proof, pytest.mark.databases("sqlite", "postgresql")]

CLIENTS = 4
FULL = 1000

tables = MetaData()
for each in session_tables:
    each.to_metadata(tables)


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return tables


@dataclass
class Client:
    """Logs in once and renews; of each answer that is lost it hears nothing, and asks again."""

    database: Database
    sessions: Sessions
    random: random.Random
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    lost: int = 0
    logged_out: int = 0
    tokens: set[str] = field(default_factory=set)

    async def run(self, *, losses: int) -> None:
        token = await self._log_in()
        while self.lost < losses:
            self.now += timedelta(minutes=self.random.uniform(1, 60))
            token = await self._renew(token) or await self._log_in()

    async def _log_in(self) -> str:
        async with self.database.transaction() as session:
            begun = await self.sessions.begin(session, "7", client_id="web", scopes=())
        return begun.refresh_token

    async def _renew(self, token: str) -> str | None:
        """Renew until an answer arrives; None when it says that the login is over."""
        self.lost += 1
        await self._ask(token)  # nobody hears the answer
        self.now += timedelta(seconds=self.random.uniform(0, 9))
        # A client that is impatient asks twice at once; a proxy does so for it.
        answers = await asyncio.gather(*(self._ask(token) for _ in range(self.random.choice((1, 2)))))
        for answer in answers:
            if not isinstance(answer, Renewed):
                self.logged_out += 1
                return None
        (successor,) = {answer.refresh_token for answer in answers if isinstance(answer, Renewed)}
        assert successor not in self.tokens
        self.tokens.add(successor)
        return successor

    async def _ask(self, token: str) -> Any:
        async with self.database.transaction() as session:
            return await self.sessions.renew(session, token, client_id="web")


def make_client(database: Database, settings: SecuritySettings, seed: int) -> Client:
    sessions = Sessions(database, settings, opaque, clock=lambda: client.now)
    client = Client(database, sessions, random.Random(seed))
    return client


async def test_without_the_grace_each_lost_answer_logs_somebody_out(database: Database) -> None:
    """The fault: the token that comes again counts as stolen at once."""
    client = make_client(database, SecuritySettings(refresh_grace=timedelta(0)), seed=0)

    await client.run(losses=10)

    assert client.logged_out == client.lost == 10


async def test_lost_answers_log_nobody_out(database: Database, length: Any) -> None:
    losses = length(short=60, full=FULL) // CLIENTS
    clients = [make_client(database, SecuritySettings(), seed) for seed in range(CLIENTS)]

    await asyncio.gather(*(client.run(losses=losses) for client in clients))

    assert sum(client.lost for client in clients) == losses * CLIENTS
    assert sum(client.logged_out for client in clients) == 0
    assert sum(len(client.tokens) for client in clients) == losses * CLIENTS


async def test_a_stolen_token_ends_the_login_however_many_answers_were_lost(database: Database) -> None:
    client = make_client(database, SecuritySettings(), seed=1)
    stolen = await client._log_in()
    token: str | None = stolen
    for _ in range(5):
        client.now += timedelta(minutes=5)
        assert token is not None
        token = await client._renew(token)

    assert isinstance(await client._ask(stolen), ReuseDetected)
    assert token is not None
    assert not isinstance(await client._ask(token), Renewed)
