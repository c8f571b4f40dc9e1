"""Each check of a deployment finds what it is for, says what to do, and is quiet when its claim holds."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, Query, Response
from pydantic import BaseModel, SecretStr
from starlette.responses import PlainTextResponse

from backstay import InputSchema, PageDep, Schema, create_app, install, public
from backstay.app.deployment import CHECKS, Service, check_deployment
from backstay.errors import ConfigurationError
from backstay.settings import (
    CacheSettings,
    ClientSettings,
    DatabaseSettings,
    HttpSettings,
    LoggingSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    SettingsConfigDict,
    TelemetrySettings,
)


class DeployedSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="SHOP_", env_file=None)


_STRONG = "Zk3vQ9xP1mT7yB5nC8wL2r"
_HOSTS = ("shop.example",)
_PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "database": DatabaseSettings(
        url=SecretStr("postgresql://shop:JzS7pQ1d@db.internal/shop?sslmode=verify-full")
    ),
    "cache": CacheSettings(url=SecretStr("rediss://shop:JzS7pQ1d@redis.internal/0")),
    "http": HttpSettings(allowed_hosts=_HOSTS),
}


class OpenInput(BaseModel):
    name: str


class ClosedInput(InputSchema):
    parts: list[OpenInput]
    name: str


class OpenAnswer(Schema):
    name: str
    password_hash: str


class ClosedAnswer(Schema):
    name: str
    access_token: str


def _service(*routers: APIRouter, folder: Path, install_only: bool = False, **values: Any) -> Service:
    settings = DeployedSettings(**(_PRODUCTION | values))
    if install_only:
        app = FastAPI()
        install(app, settings)
    else:
        app = create_app(settings, routers=routers)
    return Service(app, settings, folder, has_policy=not install_only)


def _findings(service: Service) -> dict[str, list[str]]:
    return {
        outcome.check.row: [finding.message for finding in outcome.findings]
        for outcome in check_deployment(service)
        if outcome.findings
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "uv.lock").touch()
    return tmp_path


@pytest.fixture
def tidy() -> APIRouter:
    router = APIRouter(dependencies=[public])

    @router.get("/things")
    async def list_things(page: PageDep) -> list[ClosedAnswer]:
        return []

    @router.delete("/things", status_code=204)
    async def delete() -> None:
        """Delete."""

    @router.get("/text")
    async def tell() -> PlainTextResponse:
        return PlainTextResponse("text")

    return router


def test_a_service_that_is_as_it_should_be_has_no_findings(folder: Path, tidy: APIRouter) -> None:
    assert _findings(_service(tidy, folder=folder)) == {}


@pytest.mark.parametrize(
    ("row", "values", "message"),
    [
        ("S20", {"http": HttpSettings(cors_origins=("*",))}, "Pages of any origin may call the service."),
        (
            "S20",
            {"http": HttpSettings(cors_origins=("https://a.example", "http://b.example"))},
            "Pages of http://b.example may call the service, and anyone on the way can change those.",
        ),
        ("S22", {"environment": "test", "debug": True}, "Callers see tracebacks."),
        (
            "S24",
            {"http": HttpSettings(docs=True)},
            "The documentation and the OpenAPI document are served to everyone.",
        ),
        ("S24", {"telemetry": TelemetrySettings(metrics=True)}, "The metrics are served to everyone."),
        (
            "S25",
            {"telemetry": TelemetrySettings(metrics=True, metrics_token=SecretStr("a" * 64))},
            "SHOP_TELEMETRY__METRICS_TOKEN has less than 128 bits.",
        ),
        (
            "S25",
            {"telemetry": TelemetrySettings(metrics_token=SecretStr("0123456789abcdef0123456789abcde"))},
            "SHOP_TELEMETRY__METRICS_TOKEN has less than 128 bits.",
        ),
        ("S26", {"logging": LoggingSettings(access=False)}, "Requests leave no line."),
        (
            "S26",
            {"logging": LoggingSettings(level="DEBUG")},
            "Everything is logged, also what libraries say for their own makers.",
        ),
        *(
            (
                "S30",
                {"server": ServerSettings(trusted_proxies=("10.0.0.1", proxy))},
                f"The address of a caller is believed from {proxy}: anybody can claim to be anyone.",
            )
            for proxy in ("*", "0.0.0.0/0", "::/0")
        ),
        *(
            (
                "S37",
                {
                    "database": DatabaseSettings(
                        url=SecretStr(f"postgresql://a:JzS7pQ1d@db.internal/a{query}")
                    )
                },
                f"The database is asked with sslmode={mode}, which anyone on the way can take the place of.",
            )
            for query, mode in (("", "prefer"), ("?sslmode=require", "require"))
        ),
        (
            "S30",
            {"http": HttpSettings()},
            "The service answers to any host's name, also in the links that it makes.",
        ),
        (
            "S6",
            {"security": SecuritySettings(password_min_length=8)},
            "Passwords of 8 characters are taken, which is enough beside a second factor only.",
        ),
        (
            "S11",
            {"security": SecuritySettings(algorithm="HS256")},
            "Access tokens are signed with a secret that everybody who verifies them has to have.",
        ),
        (
            "S37",
            {"cache": CacheSettings(url=SecretStr("redis://shop:JzS7pQ1d@redis.internal/0"))},
            "Redis is asked without encryption.",
        ),
        (
            "S37",
            {"cache": CacheSettings(url=SecretStr("rediss://a:JzS7pQ1d@r.internal/0?ssl_cert_reqs=none"))},
            "The certificate of Redis is not verified.",
        ),
        (
            "S37",
            {"clients": {"rates": ClientSettings(base_url="http://rates.example")}},
            "The client 'rates' calls rates.example without encryption.",
        ),
        (
            "S38",
            {"cache": CacheSettings(url=SecretStr("rediss://redis.internal/0"))},
            "Redis asks nobody for a password.",
        ),
        (
            "S38",
            {"cache": CacheSettings(url=SecretStr("rediss://:JzS7pQ1d@redis.internal/0"))},
            "The service is Redis' default user, who may do anything.",
        ),
        (
            "S41",
            {"http": HttpSettings(strict_json=False)},
            "JSON is read leniently: a name that stands twice counts once.",
        ),
    ],
)
def test_a_setting_that_should_not_be_deployed_is_found(
    row: str, values: dict[str, Any], message: str, folder: Path
) -> None:
    assert message in _findings(_service(folder=folder, **values))[row]


@pytest.mark.parametrize(
    "values",
    [
        {"http": HttpSettings(allowed_hosts=_HOSTS, cors_origins=("https://a.example",))},
        {"telemetry": TelemetrySettings(metrics=True, metrics_token=SecretStr(_STRONG))},
        {"server": ServerSettings(trusted_proxies=("10.0.0.0/8", "proxy.internal"))},
        {"database": DatabaseSettings(url=SecretStr("postgresql://a:JzS7pQ1d@localhost/a"))},
        {"database": DatabaseSettings(url=SecretStr("postgresql://a@/a?host=/run/postgresql"))},
        {"database": DatabaseSettings(url=SecretStr("sqlite:////srv/shop.db"))},
        {"cache": CacheSettings()},
        {"cache": CacheSettings(url=SecretStr("redis://shop:JzS7pQ1d@127.0.0.1/0"))},
        {"clients": {"rates": ClientSettings(base_url="http://[::1]:8080")}},
    ],
)
def test_a_setting_that_may_be_deployed_is_not(values: dict[str, Any], folder: Path) -> None:
    assert _findings(_service(folder=folder, **values)) == {}


def _post(body: Any) -> APIRouter:
    router = APIRouter(dependencies=[public])

    async def take(body: Any) -> None:
        """Take it."""

    take.__annotations__["body"] = body
    router.post("/things")(take)
    return router


@pytest.mark.parametrize("body", [OpenInput, list[OpenInput], ClosedInput, OpenInput | None])
def test_a_model_that_ignores_fields_is_found_wherever_it_stands(body: Any, folder: Path) -> None:
    found = _findings(_service(_post(body), folder=folder))

    assert found == {"S3": ["POST /things takes OpenInput, which ignores fields that it does not know."]}


def _get(endpoint: Any, **options: Any) -> APIRouter:
    router = APIRouter(dependencies=[public])
    router.get("/things", **options)(endpoint)
    return router


async def _untold():  # type: ignore[no-untyped-def]  # noqa: ANN202  that is the fault
    return {"anything": "at all"}


async def _secretive() -> list[OpenAnswer]:
    return []


async def _any_number(page_size: int = 20) -> list[int]:
    return []


async def _many(limit: Annotated[int | None, Query(le=5000)] = None) -> list[int]:
    return []


async def _few(limit: Annotated[int, Query(le=100)] = 10, size: str = "XL") -> list[int]:
    return []


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (
            _untold,
            {"S4": ["GET /things does not say what it answers, so whatever it returns leaves the service."]},
        ),
        (
            _secretive,
            {"S4": ["GET /things answers with the field 'passwordHash', which is marked as a secret."]},
        ),
        (_any_number, {"S5": ["GET /things takes 'page_size' up to any number."]}),
        (_many, {"S5": ["GET /things takes 'limit' up to 5000."]}),
        (_few, {}),
    ],
)
def test_what_a_route_gives_is_looked_at(
    endpoint: Any, expected: dict[str, Sequence[str]], folder: Path
) -> None:
    assert _findings(_service(_get(endpoint), folder=folder)) == expected


def test_a_route_that_takes_any_content_type_is_found(folder: Path) -> None:
    service = _service(folder=folder)
    lax = APIRouter(strict_content_type=False)
    lax.include_router(_post(ClosedAnswerInput))
    service.app.include_router(lax)

    assert _findings(service)["S19"] == ["POST /things takes JSON that does not say that it is JSON."]


class ClosedAnswerInput(InputSchema):
    name: str


async def _echo() -> Response:
    return Response()


def test_a_method_for_proxies_is_found(folder: Path) -> None:
    service = _service(folder=folder)
    service.app.add_api_route("/echo", _echo, methods=["TRACE"], dependencies=[public])

    assert _findings(service) == {"S42": ["/echo answers TRACE."]}


def test_a_route_that_does_not_say_for_whom_it_is_is_found(folder: Path) -> None:
    service = _service(folder=folder)
    service.app.add_api_route("/echo", _echo)

    assert _findings(service) == {"S1": ["GET /echo does not say for whom."]}


def test_an_app_that_only_installs_lacks_what_create_app_does(folder: Path) -> None:
    assert set(_findings(_service(folder=folder, install_only=True))) == {"S21", "S22", "S41"}


def test_a_lock_file_counts_up_to_the_root_of_the_repository(folder: Path) -> None:
    member = folder / "services" / "shop"
    member.mkdir(parents=True)
    assert _findings(_service(folder=member)) == {}

    (member / ".git").mkdir()
    assert _findings(_service(folder=member)) == {"S43": ["There is no lock file beside pyproject.toml."]}


def test_a_row_may_be_left_out_by_its_name_only(folder: Path) -> None:
    service = _service(folder=folder)

    assert len(check_deployment(service, ignored=["S37", "S38"])) == len(CHECKS) - 2
    with pytest.raises(ConfigurationError, match=r"No check is called 's37'"):
        check_deployment(service, ignored=["s37"])


def _rows() -> dict[str, tuple[str, str, str]]:
    lines = Path("SECURITY.md").read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| S")
    ]
    return {row: (claim, by, where) for row, claim, by, where in cells}


def test_the_table_of_rows_has_each_row_once_and_says_which_are_checked() -> None:
    rows = _rows()

    assert list(rows) == [f"S{number}" for number in range(1, 46)]
    assert {row for row, (_, by, _) in rows.items() if "check" in by} == {check.row for check in CHECKS}


def test_what_the_table_names_is_there() -> None:
    named = {
        path for *_, where in _rows().values() for path in re.findall(r"`((?:tests|docs)/[^`]+)`", where)
    }

    assert len(named) > 20
    assert [path for path in sorted(named) if not Path(path).exists()] == []
