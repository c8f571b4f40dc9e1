"""Limits on routes and in them, from outside; docs/decisions/0009-rate-limits.md."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from openapi_spec_validator import validate
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from backstay import SessionDep, create_app, install, open_runtime, public, rate_limit, repeatable
from backstay.app._limited_routes import limited_routes, require_shared_counters
from backstay.errors import ConfigurationError, RateLimitedError, UsageError
from backstay.events import RequestLimited
from backstay.settings import CacheSettings, HttpSettings, ServerSettings, Settings
from backstay.testing import Events


class ConflictOfTransactions(Exception):  # noqa: N818  stands for what a driver raises
    """What PostgreSQL says when two serializable transactions meet."""

    sqlstate = "40001"


router = APIRouter()
reset_limit = rate_limit("reset:{email}", limit=2, per="1h")


@router.post("/login", dependencies=[rate_limit("login:{ip}", limit=2, per="15m")])
async def log_in() -> dict[str, bool]:
    return {"ok": True}


@router.post("/reset")
async def reset(email: str) -> dict[str, bool]:
    await reset_limit.hit(email=email)
    return {"ok": True}


@router.post(
    "/teams/{team_id}/invitations",
    dependencies=[
        rate_limit("invitations:{team_id}", limit=3, per="1d"),
        rate_limit("service", limit=4, per="1s"),
    ],
)
async def invite(team_id: int) -> dict[str, bool]:
    return {"ok": True}


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, routers=[router], dependencies=[public])


async def _statuses(client: AsyncClient, path: str, *, times: int) -> list[int]:
    return [(await client.post(path)).status_code for _ in range(times)]


async def test_what_is_over_the_limit_is_answered_with_429(client: AsyncClient) -> None:
    assert await _statuses(client, "/login", times=3) == [200, 200, 429]


async def test_the_answer_is_a_problem_that_says_when_to_come_back(client: AsyncClient) -> None:
    await _statuses(client, "/login", times=2)

    response = await client.post("/login")

    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "rate_limited"
    seconds = int(response.headers["retry-after"])
    assert 800 < seconds <= 900
    assert response.json()["detail"] == f"Too many requests; try again in {seconds} seconds."


async def test_every_answer_tells_the_limit_and_what_is_left(client: AsyncClient) -> None:
    answers = [await client.post("/login") for _ in range(3)]

    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"login:{ip}";q=2;w=900'}
    left = [answer.headers["ratelimit"].rpartition(";t=")[0] for answer in answers]
    assert left == ['"login:{ip}";r=1', '"login:{ip}";r=0', '"login:{ip}";r=0']
    assert answers[2].headers["ratelimit"].endswith(f";t={answers[2].headers['retry-after']}")


async def test_a_route_without_a_limit_says_nothing_of_any(client: AsyncClient) -> None:
    assert not {"ratelimit", "ratelimit-policy"} & (await client.get("/livez")).headers.keys()


async def test_several_limits_of_a_route_all_hold(client: AsyncClient) -> None:
    response = await client.post("/teams/1/invitations")
    statuses = await _statuses(client, "/teams/1/invitations", times=3)

    assert response.headers["ratelimit-policy"] == '"invitations:{team_id}";q=3;w=86400, "service";q=4;w=1'
    assert response.headers["ratelimit"].startswith('"invitations:{team_id}";r=2;t=86400, "service";r=3;t=1')
    assert statuses == [200, 200, 429]
    assert (await client.post("/teams/2/invitations")).status_code == 200


async def test_a_function_counts_by_what_it_is_given(client: AsyncClient) -> None:
    assert await _statuses(client, "/reset?email=a", times=3) == [200, 200, 429]
    response = await client.post("/reset?email=b")

    assert response.status_code == 200
    assert response.headers["ratelimit"].startswith('"reset:{email}";r=1;t=')


async def test_bad_input_counts_too(client: AsyncClient) -> None:
    """Else whoever guesses sends what is refused after the guess was looked at."""
    assert await _statuses(client, "/teams/x/invitations", times=4) == [422, 422, 422, 429]


async def test_a_caller_cannot_choose_its_address(settings: Settings) -> None:
    app = create_app(settings, routers=[router], dependencies=[public])
    trusting = ProxyHeadersMiddleware(app, trusted_hosts="192.0.2.1")  # type: ignore[arg-type]  # two names for ASGI
    with TestClient(trusting, client=("203.0.113.9", 1)) as caller:  # type: ignore[arg-type]  # as above
        forged = [
            caller.post("/login", headers={"X-Forwarded-For": f"198.51.100.{number}"}).status_code
            for number in range(3)
        ]

    assert forged == [200, 200, 429]


async def test_behind_a_trusted_proxy_each_caller_is_one(settings: Settings) -> None:
    app = create_app(settings, routers=[router], dependencies=[public])
    trusting = ProxyHeadersMiddleware(app, trusted_hosts="192.0.2.1")  # type: ignore[arg-type]  # two names for ASGI
    with TestClient(trusting, client=("192.0.2.1", 1)) as proxy:  # type: ignore[arg-type]  # as above
        statuses = [
            proxy.post("/login", headers={"X-Forwarded-For": f"198.51.100.{number}"}).status_code
            for number in (1, 1, 2, 1)
        ]

    assert statuses == [200, 200, 200, 429]


async def test_requests_at_once_are_counted_one_by_one(client: AsyncClient) -> None:
    responses = await asyncio.gather(*(client.post("/login") for _ in range(20)))

    assert [response.status_code for response in responses].count(200) == 2


async def test_a_refused_request_is_an_event_without_its_caller(client: AsyncClient, events: Events) -> None:
    await _statuses(client, "/reset?email=hunter2", times=3)

    assert events.of(RequestLimited) == [RequestLimited(limit="reset:{email}")]


async def test_a_refused_request_is_counted_for_prometheus(client: AsyncClient) -> None:
    await _statuses(client, "/login", times=4)

    shown = (await client.get("/metrics")).text

    assert 'backstay_rate_limited_total{limit="login:{ip}"} 2.0' in shown


async def test_a_refused_request_writes_nothing(settings: Settings, running: Callable[..., Any]) -> None:
    ended: list[bool] = []
    app = create_app(settings, dependencies=[public])

    @app.post("/orders")
    async def order(session: SessionDep) -> None:
        await reset_limit.hit(email="a")
        ended.append(session.in_transaction())

    with TestClient(app) as caller:
        assert [caller.post("/orders").status_code for _ in range(3)] == [200, 200, 429]
    assert len(ended) == 2


async def test_a_repeated_request_counts_once(settings: Settings) -> None:
    attempts = 0
    app = create_app(settings, dependencies=[public])

    @app.post("/transfer", dependencies=[repeatable, rate_limit("transfer", limit=9, per="1m")])
    async def transfer() -> None:
        nonlocal attempts
        attempts += 1
        await reset_limit.hit(email="a")
        await reset_limit.hit(email="a")  # a second hit is one, in each attempt
        if attempts < 4:
            raise ConflictOfTransactions

    with TestClient(app) as caller:
        response = caller.post("/transfer")

    assert (response.status_code, attempts) == (200, 4)
    assert response.headers["ratelimit"].startswith('"transfer";r=8;t=60, "reset:{email}";r=0;t=')


async def test_limits_hold_outside_of_requests(settings: Settings) -> None:
    async with open_runtime(settings):
        await reset_limit.hit(email="a")
        await reset_limit.hit(email="a")
        with pytest.raises(RateLimitedError, match="try again in 3600 seconds") as refused:
            await reset_limit.hit(email="a")

    assert refused.value.headers == {"Retry-After": "3600"}


async def test_without_a_running_service_there_is_nothing_to_count_with() -> None:
    with pytest.raises(UsageError, match="No service is running"):
        await reset_limit.hit(email="a")


async def test_a_socket_over_the_limit_is_not_opened(settings: Settings) -> None:
    app = create_app(settings, dependencies=[public])

    @app.websocket("/chat", dependencies=[rate_limit("chat:{ip}", limit=1, per="1m")])
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    with TestClient(app) as caller:
        with caller.websocket_connect("/chat"):
            pass
        with pytest.raises(WebSocketDisconnect) as refused, caller.websocket_connect("/chat"):
            pass

    assert refused.value.code == 1013


async def test_an_app_that_install_met_is_limited_too(settings: Settings) -> None:
    app = FastAPI()
    install(app, settings)
    app.include_router(router)

    with TestClient(app) as caller:
        statuses = [caller.post("/login").status_code for _ in range(3)]

    assert statuses == [200, 200, 429]


@pytest.fixture
async def redis_settings(settings: Settings) -> AsyncIterator[Settings]:
    """Settings of processes that count in Redis, under the keys of this test."""
    url = "redis://127.0.0.1:6379/0"
    async with Redis.from_url(url, socket_connect_timeout=1) as redis:
        try:
            await redis.ping()
        except OSError:
            pytest.skip(f"No Redis answers at {url}.")
        # Redis is to answer in time, also while this machine halts.
        options = {"url": SecretStr(url), "operation_timeout": timedelta(seconds=30)}
        yield settings.model_copy(update={"cache": settings.cache.model_copy(update=options)})
        await redis.unlink(*[key async for key in redis.scan_iter(f"{settings.cache.prefix}*", 1000)])


async def test_two_apps_on_one_redis_count_together(redis_settings: Settings) -> None:
    apps = [create_app(redis_settings, routers=[router], dependencies=[public]) for _ in range(2)]

    with TestClient(apps[0]) as one, TestClient(apps[1]) as other:
        statuses = [caller.post("/login").status_code for caller in (one, other, one, other)]

    assert statuses == [200, 200, 429, 429]


async def test_tests_share_no_keys_in_redis(settings: Settings) -> None:
    assert re.fullmatch(r"test-[0-9a-f]{32}", settings.cache.prefix)


async def test_a_dead_redis_fails_no_request(settings: Settings) -> None:
    cache = CacheSettings(url=SecretStr("redis://127.0.0.1:1/0"))
    app = create_app(settings.model_copy(update={"cache": cache}), routers=[router], dependencies=[public])
    app.post("/open", dependencies=[rate_limit("open", limit=1, per="1m", when_unavailable="open")])(
        lambda: None
    )

    with TestClient(app) as caller:
        local = [caller.post("/login") for _ in range(3)]
        admitted = [caller.post("/open") for _ in range(3)]

    assert [response.status_code for response in local] == [200, 200, 429]
    assert [response.status_code for response in admitted] == [200] * 3
    assert admitted[0].headers["ratelimit-policy"] == '"open";q=1;w=60'
    assert "ratelimit" not in admitted[0].headers, "nobody knows what is left"


async def test_two_tests_do_not_count_together(client: AsyncClient) -> None:
    """The limit of /login was used up above."""
    assert (await client.post("/login")).headers["ratelimit"].startswith('"login:{ip}";r=1;t=900')


# ---------------------------------------------------------------- before the start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0, "per": "1m"}, "`limit` .* is 0; it is a whole number"),
        ({"limit": 1.5, "per": "1m"}, "is 1.5"),
        ({"limit": True, "per": "1m"}, "is True"),
        ({"limit": 10_001, "per": "1m"}, "1 to 10000"),
        ({"limit": 1, "per": "0s"}, "`per` .* is '0s'"),
        ({"limit": 1, "per": "1 minute"}, "no span of time"),
        ({"limit": 1, "per": "1m", "when_unavailable": "closed"}, "'local' or 'open'"),
    ],
)
def test_what_is_no_limit_is_refused_at_import(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rate_limit("x:{ip}", **options)


def test_a_field_that_the_route_has_not_stops_the_start(settings: Settings) -> None:
    wrong = APIRouter()
    wrong.post("/teams/{team_id}", dependencies=[rate_limit("t:{tem_id}", limit=1, per="1s")])(lambda: None)

    with pytest.raises(ConfigurationError, match=r"POST /teams/\{team_id\} .*'tem_id'.* mean 'team_id'"):
        create_app(settings, routers=[wrong], dependencies=[public])


def test_a_route_that_was_added_later_is_looked_at_when_the_app_starts(settings: Settings) -> None:
    app = create_app(settings, dependencies=[public])
    app.post("/late", dependencies=[rate_limit("t:{id}", limit=1, per="1s")])(lambda: None)

    with pytest.raises(ConfigurationError, match="'id'"), TestClient(app):
        pass


def test_two_limits_of_a_route_need_two_names(settings: Settings) -> None:
    limits = [rate_limit("t:{ip}", limit=1, per="1s"), rate_limit("t:{ip}", limit=9, per="1h")]
    twice = APIRouter()
    twice.post("/", dependencies=limits)(lambda: None)

    with pytest.raises(ConfigurationError, match=r"2 rate limits named 't:\{ip\}'"):
        create_app(settings, routers=[twice], dependencies=[public])


def test_a_limit_on_a_router_and_its_route_is_one(settings: Settings) -> None:
    limit = rate_limit("t:{ip}", limit=2, per="1m")
    both = APIRouter(dependencies=[limit])

    @both.post("/", dependencies=[limit])
    async def post() -> None: ...

    with TestClient(create_app(settings, routers=[both], dependencies=[public])) as caller:
        assert [caller.post("/").status_code for _ in range(3)] == [200, 200, 429]


def test_several_workers_that_count_for_themselves_are_refused(settings: Settings) -> None:
    several = settings.model_copy(update={"server": ServerSettings(workers=4)})

    with pytest.raises(ConfigurationError, match="4 times the limit") as refused:
        TestClient(create_app(several, routers=[router], dependencies=[public])).__enter__()

    assert str(refused.value.hint).startswith("Set BACKSTAY_CACHE__URL=redis://")
    with TestClient(create_app(several)):
        pass  # no limits, no refusal


def test_several_workers_may_count_in_redis(settings: Settings) -> None:
    cache = CacheSettings(url=SecretStr("redis://127.0.0.1:1/0"))
    several = settings.model_copy(update={"cache": cache, "server": ServerSettings(workers=4)})

    require_shared_counters(create_app(several, routers=[router], dependencies=[public]), several)


async def test_a_limit_in_a_function_of_one_of_several_workers_warns_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    several = settings.model_copy(update={"server": ServerSettings(workers=4)})
    async with open_runtime(several):
        await reset_limit.hit(email="a")
        await reset_limit.hit(email="b")

    (record,) = caplog.records
    assert record.getMessage().startswith("Rate limits are counted by each worker process for itself")


def test_limits_are_listed(app: FastAPI) -> None:
    assert [(one.route, one.template, one.limit, one.per_seconds) for one in limited_routes(app)] == [
        ("POST /login", "login:{ip}", 2, 900),
        ("POST /teams/{team_id}/invitations", "invitations:{team_id}", 3, 86400),
        ("POST /teams/{team_id}/invitations", "service", 4, 1),
    ]


def test_openapi_tells_of_the_limit(app: FastAPI) -> None:
    document = app.openapi()
    validate(document)
    responses = document["paths"]["/login"]["post"]["responses"]

    assert responses["429"]["headers"].keys() == {"Retry-After", "RateLimit", "RateLimit-Policy"}
    assert "application/problem+json" in responses["429"]["content"]
    assert responses["200"]["headers"]["RateLimit-Policy"]["schema"]["examples"] == ['"login:{ip}";q=2;w=900']
    assert "429" not in document["paths"]["/reset"]["post"]["responses"]


def test_pages_of_other_origins_may_read_the_headers(settings: Settings) -> None:
    http = HttpSettings(cors_origins=("https://shop.example",))
    app = create_app(settings.model_copy(update={"http": http}), routers=[router], dependencies=[public])

    with TestClient(app) as caller:
        response = caller.post("/login", headers={"Origin": "https://shop.example"})

    exposed = response.headers["access-control-expose-headers"]
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= set(exposed.split(", "))
