"""`backstay cache`: what a person sees of the values in Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backstay.cli import main
from backstay.testing._redis_server import RedisServer

APP = """
from backstay import Settings, cached, create_app, public


@cached("rate:{currency}", ttl="1h")
async def rate(currency: str) -> float:
    return 1.5


app = create_app(Settings(name="bank"))


@app.get("/rates/{currency}", dependencies=[public])
async def read(currency: str) -> float:
    return await rate(currency)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bank.py").write_text(APP)
    (tmp_path / "pyproject.toml").write_text('[tool.backstay]\napp = "bank:app"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "bank", raising=False)
    return tmp_path


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    if not RedisServer.is_available():
        pytest.skip("There is no redis-server on the PATH.")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        monkeypatch.setenv("BACKSTAY_CACHE__URL", server.url)
        yield server


def test_values_in_the_memory_of_a_service_are_out_of_reach(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "stats"]) == 1
    assert "in the memory of its own process" in capsys.readouterr().err


@pytest.mark.usefixtures("redis")
class TestRedis:
    async def _fill(self) -> None:
        from bank import app, rate  # type: ignore[import-not-found]  # written above

        from backstay.app.runtime import open_runtime

        settings = app.state.backstay.settings.model_copy(update={"environment": "test"})
        async with open_runtime(settings):
            for currency in ("chf", "usd"):
                await rate(currency)

    def test_entries_are_counted_listed_and_forgotten(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import asyncio

        asyncio.run(self._fill())

        assert main(["cache", "stats"]) == 0
        assert "rate  2 entries" in capsys.readouterr().out
        assert main(["cache", "show", "rate:'chf'"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("rate:'chf'#")
        assert main(["cache", "forget"]) == 1
        assert "Nothing is named" in capsys.readouterr().err
        assert main(["cache", "forget", "rate:chf", "people"]) == 0
        assert "Forgotten." in capsys.readouterr().err
