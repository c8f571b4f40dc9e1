"""The service that `backstay new` writes keeps its own rules, on SQLite and on PostgreSQL, unchanged."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Timer
from time import monotonic, sleep
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import sqlalchemy

from backstay.cli.new import create_service

_logger = logging.getLogger(__name__)

_REPOSITORY = Path(__file__).parents[2]
_LONGEST_NAME = "a-service-with-the-longest-possible-name"
_NO_TABLES = sqlalchemy.MetaData()
_DEADLINE_SECONDS = 120
# Libraries are compiled once and for all, as they are where they have been installed.
_COMPILED = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(_REPOSITORY / ".cache/generated-bytecode"),
}
_PIPELINE = [
    "ruff check",
    "ruff format --check",
    "mypy",
    "lint-imports",
    "backstay db lint",
    "pytest --database both",
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_service(tmp_path_factory.mktemp("generated") / "shop")


@pytest.fixture
def metadata() -> sqlalchemy.MetaData:
    """Databases start empty."""
    return _NO_TABLES


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/service.db"


def environment(**variables: str) -> dict[str, str]:
    """Return what a command in the service's own environment would find."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHOP_", "PYTEST_"))}
    # It is not installed here, so its code is found by the path. What mypy finds out about libraries is kept.
    own = {"PYTHONPATH": "src", "MYPY_CACHE_DIR": str(_REPOSITORY / ".cache/generated-mypy")}
    return kept | own | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"} | variables


def run(service: Path, command: str, expected_code: int = 0, **variables: str) -> str:
    """Run a command in the service's folder and return what it wrote."""
    outcome = subprocess.run(
        command.split(),
        cwd=service,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_DEADLINE_SECONDS,
        check=False,
    )
    assert outcome.returncode == expected_code, f"{command}\n{outcome.stdout}"
    return outcome.stdout


@contextmanager
def serving(service: Path, *options: str, **variables: str) -> Iterator[str]:
    """Serve by Uvicorn's own command, and yield the address."""
    process = subprocess.Popen(
        ["uvicorn", "shop.main:app", "--app-dir", "src", "--port", "0", *options],
        cwd=service,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    watchdog = Timer(_DEADLINE_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield _read_address(process)
    finally:
        watchdog.cancel()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _read_address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    output, address = "", None
    for line in process.stdout:
        output += line
        address = address or re.search(r"http://127\.0\.0\.1:\d+", line)
        if address and "Application startup complete" in output:
            return address[0]
    raise AssertionError(f"The service did not start:\n{output}")


def get(url: str) -> Any:
    # Uvicorn says that it is up a moment before it listens, and nothing tells when it does.
    deadline = monotonic() + _DEADLINE_SECONDS
    while True:
        try:
            with urlopen(url, timeout=_DEADLINE_SECONDS) as response:  # noqa: S310 - our own server's address
                return json.load(response)
        except URLError:
            if monotonic() > deadline:
                raise
            sleep(0.02)


def count_lines(service: Path, *folders: str) -> int:
    paths = [path for folder in folders for path in (service / folder).rglob("*.py")]
    return sum(len(path.read_text().splitlines()) for path in paths)


def test_it_has_at_most_30_files_and_750_lines_of_python_to_know(tmp_path: Path) -> None:
    service = create_service(tmp_path / "shop")

    files = {path for path in service.rglob("*") if path.is_file()} - {service / ".gitignore"}
    assert len(files) <= 30
    assert count_lines(service, "src") <= 750
    assert count_lines(service, "migrations") <= 175  # most of it are tables of the library's own
    assert len((service / "locustfile.py").read_text().splitlines()) <= 55
    assert count_lines(service, "tests") <= 350


def test_its_main_module_is_about_20_lines_of_code(service: Path) -> None:
    lines = (service / "src/shop/main.py").read_text().splitlines()

    assert len([line for line in lines if line]) <= 22


def test_its_pipeline_is_what_these_tests_run(service: Path) -> None:
    pipeline = re.findall(r"- run: uv run (.+)", (service / ".github/workflows/ci.yml").read_text())

    assert pipeline == _PIPELINE


def test_its_pipeline_is_green(tmp_path: Path) -> None:
    service = create_service(tmp_path / "shop")
    *_, tested = [run(service, command, 0, **_COMPILED) for command in _PIPELINE]

    passed, skipped = (sum(map(int, re.findall(rf"(\d+) {word}", tested))) for word in ("passed", "skipped"))
    assert passed
    assert skipped in {0, passed}  # without a PostgreSQL, its half is skipped


@pytest.mark.proof
@pytest.mark.skipif(os.environ.get("BACKSTAY_PROVE") != "1", reason="It is timed at full length only.")
def test_ruff_mypy_import_linter_and_its_tests_take_under_15_seconds(tmp_path: Path) -> None:
    """With nothing but what it depends on, as in its own CI, and with nothing checked before."""
    service = create_service(tmp_path / "shop")
    installed = _install(service, tmp_path / "environment")
    run(service, "pytest", 0, **installed)  # compiles the libraries, as an installation does
    began = monotonic()
    for command in _PIPELINE:
        if command != "backstay db lint":
            run(service, command, 0, **installed)

    seconds = monotonic() - began
    _logger.info("%.1f s", seconds)
    assert seconds < 15, f"{seconds:.1f} s"


def _install(service: Path, folder: Path) -> dict[str, str]:
    """Make an environment as `uv sync` does, and return what commands have to know to use it."""
    uv = str(_REPOSITORY / "tools/uv")
    pinned = re.sub(
        r" \\$|^    --hash.*", "", (_REPOSITORY / "requirements.lock").read_text(), flags=re.MULTILINE
    )
    (folder.parent / "constraints.txt").write_text(pinned)
    in_it = {"VIRTUAL_ENV": str(folder)}
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    subprocess.run(
        [
            *(uv, "pip", "install", "--quiet", "--constraint", str(folder.parent / "constraints.txt")),
            *("--group", "dev", "--editable", str(_REPOSITORY)),
        ],
        check=True,
        cwd=service,
        env=os.environ | in_it,
    )
    return in_it | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "MYPY_CACHE_DIR": ".mypy_cache",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }


def test_the_longest_name_breaks_no_rule(tmp_path: Path) -> None:
    service = create_service(tmp_path / _LONGEST_NAME)

    run(service, "ruff check")
    run(service, "ruff format --check")
    run(service, "lint-imports")


def test_a_domain_that_reaches_into_another_is_refused(tmp_path: Path) -> None:
    service = create_service(tmp_path / "shop")
    editing = service / "src/shop/products/editing.py"
    editing.write_text(f"from shop.users.models import User\n{editing.read_text()}")

    assert "Users are entered by the front door BROKEN" in run(service, "lint-imports", expected_code=1)


def test_the_example_of_its_environment_lists_every_setting(service: Path) -> None:
    explained = json.loads(run(service, "backstay explain --json"))["settings"]
    listed = re.findall(r"^# (SHOP_\w+)=", (service / ".env.example").read_text(), flags=re.MULTILINE)

    assert listed == [setting["variable"] for setting in explained]


def test_the_example_of_its_environment_can_be_used_as_it_is(tmp_path: Path) -> None:
    service = create_service(tmp_path / "shop")
    example = re.sub(r"^# (SHOP_\w+=)", r"\1", (service / ".env.example").read_text(), flags=re.MULTILINE)
    before = json.loads(run(service, "backstay explain --json"))["settings"]
    (service / ".env").write_text(example)
    after = json.loads(run(service, "backstay explain --json"))["settings"]

    assert [setting["value"] for setting in after] == [setting["value"] for setting in before]


def test_it_asks_for_the_backstay_that_wrote_it(service: Path) -> None:
    assert f'dependencies = ["backstay>={version("backstay")}"]' in (service / "pyproject.toml").read_text()


_MIGRATE = """
import asyncio

from backstay.db import Database
from backstay.db.migrations import NothingToMigrateError
from shop.main import app


async def migrate() -> None:
    database = Database(app.state.backstay.settings.database)
    migrations = app.state.backstay.migrations
    await migrations.upgrade(database.engine)
    try:
        print(await migrations.revision(database.engine, message="again"))
    except NothingToMigrateError:
        print("models and migrations agree")
    await migrations.downgrade(database.engine, revision="base")
    await migrations.upgrade(database.engine)
    await database.close()


asyncio.run(migrate())
"""


@pytest.mark.databases("sqlite", "postgresql")
def test_its_migrations_make_its_models_and_can_be_taken_back(
    service: Path, tmp_path: Path, database_url: str
) -> None:
    script = tmp_path / "migrate.py"
    script.write_text(_MIGRATE)
    # With a Redis the library needs a table more; it is not asked for anything here.
    redis = "redis://127.0.0.1:6379/0"
    told = run(service, f"python {script}", SHOP_DATABASE__URL=database_url, SHOP_CACHE__URL=redis)

    assert "models and migrations agree" in told


def test_its_first_get_shows_rows_and_a_second_start_adds_none(service: Path, sqlite_url: str) -> None:
    for _ in range(2):
        with serving(service, "--reload", SHOP_DATABASE__URL=sqlite_url) as url:
            assert get(f"{url}/products")["total"] == 4


def test_production_is_not_seeded(service: Path, sqlite_url: str, tmp_path: Path) -> None:
    run(service, f"backstay keys generate {tmp_path}/keys.json")
    production = {
        "SHOP_ENVIRONMENT": "production",
        "SHOP_DATABASE__UPGRADE_ON_START": "true",
        "SHOP_SECURITY__KEY_FILE": f"{tmp_path}/keys.json",
        "SHOP_SECURITY__ISSUER": "https://shop.example",
        "SHOP_CLIENTS__MAIL__BASE_URL": "https://mail.example",
    }

    with serving(service, SHOP_DATABASE__URL=sqlite_url, **production) as url:
        assert get(f"{url}/products")["total"] == 0
