"""Three times as many requests as can be served: as many as can be are, and the others are told so early."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import MetaData, text

from backstay import ReadSessionDep, create_app, public
from backstay.settings import Settings

pytestmark = [pytest.mark.proof, pytest.mark.databases("postgresql")]

WORK_SECONDS = 0.2
PLACES = 4
WAIT = timedelta(seconds=1)

_NO_TABLES = MetaData()


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return _NO_TABLES


router = APIRouter(dependencies=[public])


@router.get("/work")
async def work(session: ReadSessionDep) -> None:
    await session.execute(text(f"SELECT pg_sleep({WORK_SECONDS})"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    small = {"pool_size": PLACES + 1, "pool_overflow": 0, "pool_timeout": WAIT}
    logging = settings.logging.model_copy(update={"access": False})
    database = settings.database.model_copy(update=small)
    return settings.model_copy(update={"database": database, "logging": logging})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router])


@dataclass
class Load:
    """What became of requests that arrive at a constant rate, whatever becomes of those before them.

    Attributes:
        served: When each success came, in seconds from the beginning, and how long it took.
        refused: The same for each 503.
        seconds: For how long they arrived.
    """

    client: AsyncClient
    served: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    async def ask(self) -> None:
        asked = time.monotonic()
        answer = await self.client.get("/work")
        now = time.monotonic()
        if answer.status_code == 200:
            self.served.append((now - self.began, now - asked))
        else:
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
            self.refused.append((now - self.began, now - asked))

    @property
    def goodput(self) -> float:
        """Successes a second, as long as requests arrived."""
        return sum(when <= self.seconds for when, _ in self.served) / self.seconds


async def arrive(client: AsyncClient, *, rate: float, seconds: float) -> Load:
    load = Load(client)
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            await asyncio.sleep(load.began + number / rate - time.monotonic())
            group.create_task(load.ask())
        load.seconds = time.monotonic() - load.began
    return load


async def find_peak(client: AsyncClient, *, seconds: float) -> float:
    """Return how many requests a second are served when there is always one more, and none too many."""
    load = Load(client)

    async def keep_asking() -> None:
        while time.monotonic() < load.began + seconds:
            await load.ask()

    await asyncio.gather(*(keep_asking() for _ in range(2 * PLACES)))
    load.seconds = seconds
    return load.goodput


async def test_three_times_the_load_leaves_nine_tenths_of_the_peak_and_is_over_in_5_s(
    client: AsyncClient, length: Any
) -> None:
    for _ in range(3):  # a machine that is busy with something else serves nobody
        peak = await find_peak(client, seconds=2)
        load = await arrive(client, rate=3 * peak, seconds=length(short=3, full=60))
        after = await arrive(client, rate=peak / 2, seconds=length(short=1, full=10))
        if load.goodput >= 0.9 * peak:
            break

    assert load.goodput >= 0.9 * peak
    assert len(load.refused) > len(load.served)
    learned = [seconds for when, seconds in load.refused if when > 1.5 * WAIT.total_seconds()]
    assert median(learned) < WAIT.total_seconds() / 4
    assert [when for when, _ in after.refused if when > 5] == []
    assert after.served[-1][1] < 3 * WORK_SECONDS
