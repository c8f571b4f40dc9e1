"""The generated service, served by Uvicorn's own command in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from sqlalchemy import MetaData

from backstay.cli.new import create_service

from .account_corpus import ADMIN_PASSWORD

_DEADLINE_SECONDS = 120


@pytest.fixture(scope="session")
def metadata() -> MetaData:
    """Databases start empty: the service brings its own tables."""
    return MetaData()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_service(tmp_path_factory.mktemp("faults") / "shop")


@pytest.fixture
def shop_url(shop: Path, database_url: str) -> Iterator[str]:
    """The address of the running service, with its first products, on the test's database."""
    with _serving(shop, database_url) as url:
        yield url


@pytest.fixture
def admin_token(shop_url: str) -> str:
    """An access token of the admin whom development has from the start."""
    form = {"grant_type": "password", "username": "admin@example.com", "password": ADMIN_PASSWORD}
    asked = Request(f"{shop_url}/oauth/token", urlencode(form).encode())  # noqa: S310  our own server's
    with urlopen(asked, timeout=_DEADLINE_SECONDS) as response:  # noqa: S310
        return str(json.load(response)["access_token"])


@contextmanager
def _serving(folder: Path, database_url: str) -> Iterator[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHOP_", "PYTEST_"))}
    log = folder / "server.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "shop.main:app", "--app-dir", "src", "--port", "0"],
            cwd=folder,
            env=kept | {"SHOP_DATABASE__URL": database_url},
            stdout=written,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    watchdog = Timer(_DEADLINE_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield _wait_for_address(process, log)
    finally:
        watchdog.cancel()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    while True:
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)  # returns at once when it has ended
            raise AssertionError(f"The service did not start:\n{log.read_text()}")
