import asyncio
from datetime import timedelta

import pytest

from backstay.background import Supervisor
from backstay.errors import UsageError


async def test_the_end_waits_for_running_tasks() -> None:
    ran: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        ran.append("done")

    async with Supervisor() as supervisor:
        supervisor.start(work(), name="work")

    assert ran == ["done"]


async def test_the_grace_can_be_shortened_while_tasks_run_and_never_lengthened() -> None:
    async with Supervisor(grace=timedelta(hours=1)) as supervisor:
        task = supervisor.start(asyncio.Event().wait(), name="endless")
        supervisor.limit_grace(0)
        supervisor.limit_grace(3600)

    assert task.cancelled()


async def test_a_task_that_does_not_end_in_time_is_cancelled_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Supervisor(grace=timedelta(0)) as supervisor:
        task = supervisor.start(asyncio.Event().wait(), name="endless")

    assert task.cancelled()
    assert "endless did not end in time" in caplog.text


async def test_a_failing_task_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    async with Supervisor() as supervisor:
        supervisor.start(fail(), name="mailer")

    assert "Background task mailer failed." in caplog.text
    assert "broken" in caplog.text


async def test_a_closed_supervisor_starts_nothing() -> None:
    with pytest.raises(UsageError, match="'late' cannot start"):
        Supervisor().start(asyncio.sleep(0), name="late")
