import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from backstay.db import Database
from backstay.settings import DatabaseSettings

pytestmark = pytest.mark.databases("sqlite", "postgresql")

_MODEL = """
from backstay import Model
from sqlalchemy.orm import Mapped, mapped_column


class Thing(Model):
    __tablename__ = "things"

    thing_id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]
"""

_FILL = """
INSERT INTO things
WITH RECURSIVE f(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM f WHERE x < 249) SELECT x, 0 FROM f
"""

_ADD_ONE = '''"""Add one."""
import sqlalchemy as sa

after = "first"
table = "things"


def migrate(connection, batch):
    things = sa.table("things", sa.column("thing_id"), sa.column("n"))
    change = sa.update(things).where(batch.holds(things.c.thing_id))
    return connection.execute(change.values(n=things.c.n + 1)).rowcount
'''


@pytest.fixture
def data(project: Any) -> Path:
    """The folder of the data migrations, with one in it."""
    folder: Path = project.folder / "migrations" / "data"
    folder.mkdir(parents=True)
    (folder / "20261125_add_one.py").write_text(_ADD_ONE)
    return folder


@pytest.fixture
def filled_project(
    project: Any, data: Path, backstay: Any, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> Any:
    """A service with 250 rows and a data migration that has not run."""
    monkeypatch.setenv("TINY_DATABASE__URL", database_url)
    monkeypatch.setenv("TINY_MIGRATIONS__BATCH_SIZE", "100")
    project.add_migration(
        "first",
        after=None,
        statement="CREATE TABLE things (thing_id integer PRIMARY KEY, n integer NOT NULL)",
    )
    assert backstay("db", "upgrade").code == 0
    _ask(database_url, _FILL)
    return project


def _ask(url: str, statement: str) -> list[Any]:
    """Run one statement on the service's database."""

    async def ask() -> list[Any]:
        database = Database(DatabaseSettings(url=SecretStr(url)))
        try:
            async with database.transaction() as session:
                result: Any = await session.execute(text(statement))
                return list(result.scalars()) if result.returns_rows else []
        finally:
            await database.close()

    return asyncio.run(ask())


def test_status_dry_run_run_and_status_again(
    filled_project: Any, backstay: Callable[..., Any], database_url: str
) -> None:
    before = backstay("db", "data")
    tried = backstay("db", "data", "run", "--dry-run")
    untouched = _ask(database_url, "SELECT DISTINCT n FROM things")
    ran = backstay("db", "data", "run")
    changed = _ask(database_url, "SELECT DISTINCT n FROM things")
    after = backstay("db", "data")
    again = backstay("db", "data", "run")
    nothing = backstay("db", "data", "run", "add_one", "--dry-run")

    assert (before.code, before.out) == (0, "add_one  pending  0.0%  0 of 250 rows\n")
    assert before.err == "Run what is left: backstay db data run\n"
    assert tried.out == (
        "add_one: 250 rows in 3 batches; the next one changed 100 of 100 rows and was rolled back.\n"
    )
    assert (untouched, changed) == ([0], [1])
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.endswith("add_one: done; 250 of 250 rows were changed, in 3 batches.\n")
    assert (after.out, after.err) == (
        "add_one  done  100.0%  250 of 250 rows\n",
        "All data migrations are done.\n",
    )
    assert again.err == "There is nothing to do: all data migrations are done.\n"
    assert nothing.out == "add_one: no rows are left.\n"


@pytest.mark.databases("sqlite")
def test_elsewhere_than_in_a_terminal_progress_is_log_lines(
    filled_project: Any, backstay_process: Callable[..., Any]
) -> None:
    outcome = backstay_process("db", "data", "run", "--batch-size", "300")

    assert outcome.code == 0
    assert "add_one: 0.0 %, 0 of 250 rows" in outcome.err
    assert "add_one: 100.0 %, 250 of 250 rows" in outcome.err
    assert outcome.err.endswith("add_one: done; 250 of 250 rows were changed, in 1 batch.\n")


@pytest.mark.databases("sqlite")
def test_in_a_terminal_progress_is_a_bar(
    filled_project: Any, backstay: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)

    outcome = backstay("db", "data", "run", "--rows-per-second", "200")

    assert outcome.code == 0
    assert "━━━" in outcome.err
    assert "100.0 %" in outcome.err
    assert "250 of 250 rows" in outcome.err
    assert '"event"' not in outcome.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.databases("sqlite")
def test_a_signal_stops_it_and_says_how_to_go_on(
    filled_project: Any, backstay: Callable[..., Any], database_url: str, number: int, code: int
) -> None:
    command = [sys.executable, "-m", "backstay", "db", "data", "run", "--rows-per-second", "20"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    while not backstay("db", "data").out.startswith("add_one  running"):
        assert process.poll() is None
    process.send_signal(number)
    _, rest = process.communicate(timeout=30)
    changed = _ask(database_url, "SELECT count(*) FROM things WHERE n = 1")
    backstay("db", "data", "run")

    assert "0 of 250 rows" in first
    assert rest.endswith("Stopped. What was committed is kept; to go on: backstay db data run add_one\n")
    assert (process.returncode, changed) == (code, [100])
    assert _ask(database_url, "SELECT DISTINCT n FROM things") == [1]


def test_a_batch_that_fails_is_one_message(filled_project: Any, data: Path, backstay: Any) -> None:
    path = data / "20261125_add_one.py"
    path.write_text(path.read_text().replace("n=things.c.n + 1", "m=1"))

    outcome = backstay("db", "data", "run")

    assert outcome.code == 1
    assert "add_one.py, line 11, failed in the batch from key 0 to 99: " in outcome.err
    assert outcome.err.endswith(
        "hint: That batch was rolled back, the ones before it are kept. Mend it, and it goes on there: "
        "backstay db data run add_one\n"
    )
    assert "Traceback" not in outcome.err


@pytest.mark.databases("sqlite")
def test_a_new_one_is_written_and_its_path_told(
    filled_project: Any, backstay: Callable[..., Any], backstay_process: Callable[..., Any]
) -> None:
    main: Path = filled_project.main
    (main.parent / "models.py").write_text(_MODEL)
    main.write_text(f"import {filled_project.package}.models\n{main.read_text()}")

    outcome = backstay_process("db", "data", "new", "Fill n", "--table", "things")
    main.write_text(main.read_text().partition("\n")[2])
    mistaken = backstay("db", "data", "new", "Fill it", "--table", "thing")

    assert (outcome.code, Path(outcome.out.strip()).read_text().count('"things"')) == (0, 2)
    assert outcome.err.endswith("try it: backstay db data run --dry-run\n")
    assert mistaken.code == 1
    assert mistaken.err.startswith("error: No model has the table 'thing'.")


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "ad_one"), "error: There is no data migration 'ad_one'. Did you mean 'add_one'?"),
        (("run", "--batch-size", "0"), "error: Invalid value for '--batch-size'"),
        (("run", "--rows-per-second", "x"), "error: Invalid value for '--rows-per-second'"),
        (("runn",), "error: No such command 'runn'. Did you mean 'run'?"),
        (("new", "Fill n"), "error: Missing option '--table'."),
        (("new", "--table", "things"), "error: Missing argument 'message'."),
    ],
)
def test_misuse_is_one_message(
    filled_project: Any, backstay: Callable[..., Any], arguments: tuple[str, ...], told: str
) -> None:
    outcome = backstay("db", "data", *arguments)

    assert outcome.code != 0
    assert outcome.err.startswith(told)
    assert "hint: " in outcome.err


@pytest.mark.databases("sqlite")
def test_without_any_it_says_how_to_begin(project: Any, backstay: Callable[..., Any]) -> None:
    outcome = backstay("db", "data")

    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("There are no data migrations in migrations/data. Write one: ")


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("arguments", [(), ("run",), ("run", "add_one"), ("run", "add_one", "--dry-run")])
def test_a_server_that_does_not_answer_is_one_message(
    project: Any,
    data: Path,
    backstay: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setenv("TINY_DATABASE__URL", "postgresql://shop:hunter2@127.0.0.1:1/shop")

    outcome = backstay("db", "data", *arguments)

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(
        "error: The database postgresql://shop:[redacted]@127.0.0.1:1/shop cannot be reached.\nhint: "
    )
