"""The image and the composition of the generated service: linted, and their commands run without Docker."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import sqlalchemy
import yaml  # type: ignore[import-untyped]  # it ships no types
from pydantic import SecretStr

from backstay.app.stopping import drain_time
from backstay.cli.new import create_service
from backstay.settings import CacheSettings, DatabaseSettings, Settings

_TOOLS = Path(sys.executable).parent
_NO_TABLES = sqlalchemy.MetaData()
_DEADLINE_SECONDS = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_service(tmp_path_factory.mktemp("deployed") / "shop")


@pytest.fixture(scope="module")
def composition(service: Path) -> Any:
    return yaml.safe_load((service / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def instructions(service: Path) -> list[str]:
    """The Dockerfile, one instruction a line."""
    joined = (service / "Dockerfile").read_text().replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line) for line in joined.splitlines() if line and not line.startswith("#")]


@pytest.fixture
def metadata() -> sqlalchemy.MetaData:
    """Databases start empty."""
    return _NO_TABLES


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("hadolint", "Dockerfile"),
        ("check-jsonschema --builtin-schema vendor.compose-spec", "compose.yaml"),
        ("check-jsonschema --builtin-schema vendor.github-workflows", ".github/workflows/ci.yml"),
    ],
)
def test_each_file_passes_its_linter(service: Path, command: str, path: str) -> None:
    program, *options = command.split()
    done = subprocess.run(
        [_TOOLS / program, *options, path], cwd=service, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_image_is_of_a_version_that_moves(composition: Any, instructions: list[str]) -> None:
    bases = re.findall(r"(?:FROM |--from=)(\S+[:/]\S+)", "\n".join(instructions))
    pulled = [service["image"] for service in composition["services"].values() if "build" not in service]

    assert len(bases) == 3
    assert len(pulled) == 2
    for image in [*bases, *pulled]:
        assert re.search(r":\d", image), image


def test_the_image_runs_as_nobody_in_particular_and_takes_signals_itself(instructions: list[str]) -> None:
    by_name = dict(line.split(" ", 1) for line in instructions[1:])

    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", by_name["USER"])
    # In the shell's form a shell would be the process that is told to stop.
    assert json.loads(by_name["CMD"]) == ["backstay", "run"]
    assert instructions.index(f"USER {by_name['USER']}") > max(
        number for number, line in enumerate(instructions) if line.startswith(("COPY", "RUN"))
    )


def test_the_image_holds_the_lock_s_packages_and_nothing_that_was_not_named(instructions: list[str]) -> None:
    copied = [line.split()[1:-1] for line in instructions if line.startswith("COPY") and "--from" not in line]

    # Not the whole folder: .env would be in it.
    assert {path for paths in copied for path in paths} == {
        *("pyproject.toml", "uv.lock", "README.md", "src", "migrations"),
    }
    synced = [line for line in instructions if "uv sync" in line]
    assert synced
    assert all("--locked --no-dev" in line for line in synced)


def test_the_migrations_run_between_the_database_and_the_service(composition: Any) -> None:
    services = composition["services"]

    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["service"]["depends_on"] == {
        "keys": {"condition": "service_completed_successfully"},
        "migrate": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_started"},
    }
    assert "healthcheck" in services["database"]
    assert services["migrate"]["command"] == ["backstay", "db", "upgrade"]


def test_the_composition_knows_no_password_and_opens_one_port_to_this_machine(composition: Any) -> None:
    services = composition["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert services["database"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert services["service"]["environment"]["SHOP_DATABASE__URL"] == (
        "postgresql://shop:${POSTGRES_PASSWORD}@database/shop"
    )
    assert services["service"]["environment"]["SHOP_CLIENTS__MAIL__BASE_URL"].startswith("${MAIL_URL:?")
    assert ports == ["127.0.0.1:8000:8000"]


def test_the_service_has_a_redis_that_keeps_announced_commits(composition: Any) -> None:
    services = composition["services"]
    url = services["service"]["environment"]["SHOP_CACHE__URL"]

    assert CacheSettings(url=SecretStr(url)).url is not None
    assert url == "redis://redis:6379/0"
    assert services["redis"]["command"][-2:] == ["--maxmemory-policy", "volatile-lru"]


def test_docker_waits_until_the_service_has_stopped(composition: Any) -> None:
    patience = composition["services"]["service"]["stop_grace_period"]
    database = DatabaseSettings(url=SecretStr("postgresql://database/shop"))
    settings = Settings(environment="production", database=database)

    assert timedelta(seconds=int(patience.removesuffix("s"))) > drain_time(settings) + settings.server.grace


def test_the_keys_are_in_a_volume_that_belongs_to_the_image_s_user(
    composition: Any, instructions: list[str]
) -> None:
    services = composition["services"]
    by_name = dict(line.split(" ", 1) for line in instructions[1:] if not line.startswith(("COPY", "RUN")))
    user, group = by_name["USER"].split(":")

    assert f"RUN install --directory --owner={user} --group={group} --mode=700 /keys" in instructions
    for name in ("keys", "migrate", "service"):
        assert services[name]["volumes"] == ["keys:/keys"]
        assert services[name]["environment"]["SHOP_SECURITY__KEY_FILE"] == "/keys/keys.json"
    assert "keys" in composition["volumes"]


def test_keys_that_are_there_stay(
    image: Path, keys: Path, composition: Any, variables: dict[str, str]
) -> None:
    before = keys.read_bytes()

    make_keys(image, keys.parent, composition, variables)
    assert keys.read_bytes() == before


@pytest.fixture
def image(service: Path, instructions: list[str], tmp_path: Path) -> Path:
    """A folder with what the image's last stage copies from the service's."""
    last = instructions[max(n for n, line in enumerate(instructions) if line.startswith("FROM")) :]
    folder = tmp_path / "app"
    folder.mkdir()
    for line in last:
        if line.startswith("COPY") and "--from" not in line:
            name = line.split()[1]
            copy = shutil.copytree if (service / name).is_dir() else shutil.copy
            copy(service / name, folder / name)
    return folder


@pytest.fixture
def variables(
    service: Path,
    instructions: list[str],
    composition: Any,
    database_url: str,
    free_port: int,
    tmp_path: Path,
) -> dict[str, str]:
    """What the processes of the image find, and where they find the code, which the image has installed."""
    declared = " ".join(line.removeprefix("ENV ") for line in instructions if line.startswith("ENV"))
    own = {name: value for name, value in re.findall(r"(\w+)=(\S+)", declared) if name.startswith("SHOP_")}
    assert own == {"SHOP_ENVIRONMENT": "production", "SHOP_SERVER__HOST": "0.0.0.0"}  # noqa: S104  in a container
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
    composed = composition["services"]["service"]["environment"]
    given = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value).replace("/keys/", f"{tmp_path}/keys/")
        for name, value in composed.items()
        if name not in {"SHOP_DATABASE__URL", "SHOP_CACHE__URL"}  # their hosts are containers
    } | {"SHOP_CLIENTS__MAIL__BASE_URL": "https://mail.example"}
    return (
        kept
        | {"PATH": f"{_TOOLS}:{kept['PATH']}", "PYTHONPATH": str(service / "src")}
        | own
        | given
        | {
            "SHOP_DATABASE__URL": database_url,
            "SHOP_SERVER__PORT": str(free_port),
            "SHOP_SERVER__DRAIN": "0s",
        }
    )


@pytest.fixture
def keys(image: Path, composition: Any, variables: dict[str, str], tmp_path: Path) -> Path:
    """The composition's keys, made as it makes them."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    make_keys(image, folder, composition, variables)
    return folder / "keys.json"


def make_keys(image: Path, folder: Path, composition: Any, variables: dict[str, str]) -> None:
    """Run the composition's command with this folder as the volume."""
    command = [word.replace("/keys/", f"{folder}/") for word in composition["services"]["keys"]["command"]]
    subprocess.run(command, cwd=image, env=variables, check=True, capture_output=True)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def serving(image: Path, keys: Path, variables: dict[str, str], instructions: list[str]) -> Iterator[None]:
    """The image's own command, from its start to a stop as Docker does it."""
    command = json.loads(instructions[-1].removeprefix("CMD "))
    process = subprocess.Popen(
        command, cwd=image, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if "startup complete" in line:
            break
    yield
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=_DEADLINE_SECONDS)
    assert process.returncode == 0, output + rest


@pytest.fixture
def migrated(image: Path, variables: dict[str, str], composition: Any) -> None:
    """The composition's migrations have run."""
    subprocess.run(
        composition["services"]["migrate"]["command"],
        cwd=image,
        env=variables,
        check=True,
        capture_output=True,
    )


def check_health(instructions: list[str], port: int) -> int:
    """Run the image's health check; 0 is healthy."""
    (check,) = [line.partition(" CMD ")[2] for line in instructions if line.startswith("HEALTHCHECK")]
    assert check.count(":8000/") == 1
    _, *arguments = json.loads(check.replace(":8000/", f":{port}/"))
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True).returncode


@pytest.mark.databases("postgresql")
def test_nobody_serves_and_the_container_is_not_healthy(instructions: list[str], free_port: int) -> None:
    assert check_health(instructions, free_port) != 0


@pytest.mark.databases("postgresql")
@pytest.mark.usefixtures("migrated", "serving")
def test_migrated_and_served_by_the_image_s_commands_it_is_healthy(
    instructions: list[str], free_port: int, keys: Path
) -> None:
    assert check_health(instructions, free_port) == 0

    with urlopen(f"http://127.0.0.1:{free_port}/.well-known/jwks.json", timeout=10) as response:
        published = {key["kid"] for key in json.load(response)["keys"]}
    assert published == {key["kid"] for key in json.loads(keys.read_text())["keys"]}
    # Other names are refused, and the check passes all the same: it asks /livez.
    request = Request(f"http://127.0.0.1:{free_port}/products", headers={"Host": "other.example"})
    with pytest.raises(HTTPError, match="421"):
        urlopen(request, timeout=10)  # noqa: S310  our own server's


@pytest.mark.databases("postgresql")
@pytest.mark.usefixtures("migrated")
def test_mails_that_reach_nobody_stop_the_start(image: Path, keys: Path, variables: dict[str, str]) -> None:
    del variables["SHOP_CLIENTS__MAIL__BASE_URL"]
    done = subprocess.run(
        ["backstay", "run"], cwd=image, env=variables, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 1
    assert "SHOP_CLIENTS__MAIL__BASE_URL" in done.stderr


@pytest.mark.databases("postgresql")
def test_a_password_that_everybody_knows_stops_the_start(image: Path, variables: dict[str, str]) -> None:
    weak = {"SHOP_DATABASE__URL": "postgresql://shop:changeme@127.0.0.1/shop"}
    done = subprocess.run(
        ["backstay", "run"], cwd=image, env=variables | weak, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "SHOP_DATABASE__URL has a well-known password, which production refuses" in done.stderr
