"""Async tests need neither a mark nor a setting, and run on the loop that the service uses."""

import asyncio
import sys

import pytest

from .conftest import Project


def test_a_plain_async_test_runs(project: Project) -> None:
    project.test("async def test_it(): assert False").assert_outcomes(failed=1)


def test_the_strict_mode_can_be_asked_for(project: Project) -> None:
    source = "import pytest\n@pytest.mark.anyio\nasync def test_it(): pass"
    project.test(source, "--anyio-mode", "strict").assert_outcomes(passed=1)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop")
async def test_it_runs_on_uvloop() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")


def test_the_plugin_loads_neither_factories_nor_servers(project: Project) -> None:
    """Collecting a test must not cost what it does not use."""
    slow = {"polyfactory", "faker", "hypothesis", "uvicorn", "httpx2", "fastapi", "alembic"}
    source = f"import sys\ndef test_it(): assert not {slow} & set(sys.modules)"
    project.pytester.makepyfile(test_inner=source)
    result = project.pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=1)
