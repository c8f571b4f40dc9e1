"""Every route says who may call it, or the app does not start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header
from httpx2 import AsyncClient
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Router
from starlette.staticfiles import StaticFiles

from backstay import create_app, guarded_by, install, public
from backstay.app._route_policies import check_policies, route_policies
from backstay.app.policies import admit_everybody
from backstay.errors import ConfigurationError, UnauthenticatedError
from backstay.settings import HttpSettings, Settings

SILENT = APIRouter(prefix="/orders")


@SILENT.get("/{order_id}")
async def read_order(order_id: int) -> int:
    return order_id


@SILENT.websocket("/live")
async def watch_orders() -> None: ...


async def verify_signature(x_signature: str = Header("")) -> None:
    if x_signature != "right":
        raise UnauthenticatedError


async def plain(_: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = create_app(settings, dependencies=[public])

    @app.get("/here")
    async def here() -> str:
        return "here"

    return app


@asynccontextmanager
async def _started(app: FastAPI) -> AsyncIterator[None]:
    async with app.router.lifespan_context(app):
        yield


async def _refusal(app: FastAPI) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        async with _started(app):
            pass
    return caught.value


class TestRefusal:
    async def test_plain_fastapi_serves_a_route_that_nobody_thought_about(self, ask: Any) -> None:
        forgetful = FastAPI()
        forgetful.include_router(SILENT)

        assert (await ask(forgetful, "GET", "/orders/7")).status == 200

    async def test_all_routes_that_do_not_say_are_listed_with_their_places(self, settings: Settings) -> None:
        app = create_app(settings, routers=[SILENT])
        app.get("/marked", dependencies=[public])(read_order)

        refusal = await _refusal(app)

        first, *lines = str(refusal).splitlines()
        assert first == "2 routes do not say who may call them:"
        assert [line.split("  ")[1] for line in lines] == ["GET /orders/{order_id}", "WebSocket /orders/live"]
        line = read_order.__code__.co_firstlineno
        assert lines[0].endswith(f"{Path('tests/app/test_policies.py')}:{line}")
        assert "dependencies=[public]" in str(refusal.hint)

    async def test_one_is_one(self, settings: Settings) -> None:
        app = create_app(settings)
        app.get("/alone")(read_order)

        assert str(await _refusal(app)).startswith("1 route does not say who may call it:\n  GET /alone  ")

    async def test_what_the_apps_own_lifespan_adds_is_looked_at(self, settings: Settings) -> None:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            app.get("/late")(read_order)
            yield

        assert "GET /late" in str(await _refusal(create_app(settings, lifespan=lifespan)))

    async def test_what_cannot_say_it_itself_is_refused_until_it_is_named(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "index.html").write_text("hello")
        files = StaticFiles(directory=tmp_path)
        paths = ["/plain", "/static", "docs.example", "/nested"]

        def make(public_paths: list[str]) -> FastAPI:
            app = create_app(settings, public_paths=public_paths)
            app.add_route("/plain", plain)
            app.mount("/static", files)
            app.host("docs.example", Router())
            router = APIRouter()
            router.mount("/nested", files)
            app.include_router(router)
            app.frontend("/shop", directory=tmp_path)
            return app

        refusal = str(await _refusal(make([])))
        listed = [line.split("  ")[1] for line in refusal.splitlines()[1:]]
        assert listed == [
            "GET /plain",
            "mount /static",
            "mount docs.example",
            "mount /nested",
            "frontend /shop",
        ]
        async with _started(make([*paths, "/shop"])):
            pass

    async def test_a_frontend_says_it_by_the_dependencies_of_its_app(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        app = create_app(settings, dependencies=[public])
        app.frontend("/shop", directory=tmp_path)

        async with _started(app):
            pass

    async def test_a_path_that_is_named_and_not_there_is_refused(self, settings: Settings) -> None:
        app = create_app(settings, public_paths=["/statics"])
        app.add_route("/static", plain)

        refusal = await _refusal(app)

        assert str(refusal) == (
            "public_paths names '/statics', and no mount or plain Starlette route has this path."
            " Did you mean '/static'?"
        )

    async def test_public_and_guarded_is_a_contradiction(self, settings: Settings) -> None:
        app = create_app(settings, dependencies=[public])
        app.get("/both", dependencies=[guarded_by(verify_signature)])(read_order)

        refusal = await _refusal(app)

        assert "GET /both" in str(refusal)
        assert "is for everybody, and for whom verify_signature admits as well" in str(refusal)

    async def test_an_ordinary_dependency_says_nothing(self, settings: Settings) -> None:
        app = create_app(settings, dependencies=[Depends(verify_signature)])
        app.get("/checked")(read_order)

        assert "GET /checked" in str(await _refusal(app))


class TestWhere:
    @pytest.mark.parametrize("place", ["route", "router", "inclusion", "app"])
    async def test_public_may_stand_at_each_level(self, settings: Settings, ask: Any, place: str) -> None:
        marked = {name: [public] if name == place else [] for name in ("route", "router", "inclusion", "app")}
        inner = APIRouter(dependencies=marked["router"])
        inner.get("/{order_id}", dependencies=marked["route"])(read_order)
        inner.websocket("/live", dependencies=marked["route"])(watch_orders)
        outer = APIRouter()
        outer.include_router(inner, prefix="/orders", dependencies=marked["inclusion"])
        app = create_app(settings, routers=[outer], dependencies=marked["app"])

        async with _started(app):
            assert (await ask(app, "GET", "/orders/7")).json == 7

    async def test_a_guard_decides(self, settings: Settings, ask: Any) -> None:
        app = create_app(settings)
        app.get("/hook", dependencies=[guarded_by(verify_signature)])(lambda: "done")

        async with _started(app):
            assert (await ask(app, "GET", "/hook")).status == 401
            assert (await ask(app, "GET", "/hook", headers={"X-Signature": "right"})).status == 200

    async def test_what_the_library_serves_itself_need_not_say(self, settings: Settings) -> None:
        async with _started(app := create_app(settings)):
            assert route_policies(app) == []

    async def test_an_installed_app_is_not_asked_unless_a_setting_says_so(self, settings: Settings) -> None:
        def make(*, require: bool | None) -> FastAPI:
            app = FastAPI()
            app.include_router(SILENT)
            http = HttpSettings(require_policies=require)
            install(app, settings.model_copy(update={"http": http}))
            return app

        async with _started(make(require=None)):
            pass
        assert "GET /orders/{order_id}" in str(await _refusal(make(require=True)))

    async def test_a_setting_lets_a_created_app_start_meanwhile(self, settings: Settings) -> None:
        lenient = settings.model_copy(update={"http": HttpSettings(require_policies=False)})

        async with _started(create_app(lenient, routers=[SILENT])):
            pass


async def test_the_marker_is_not_called_in_a_started_app(app: FastAPI, client: AsyncClient) -> None:
    """What only has to be read once costs no request anything."""
    called = []
    app.dependency_overrides[admit_everybody] = lambda: called.append(True)

    assert (await client.get("/here")).json() == "here"
    assert called == []
    check_policies(app)  # and it is still there to be read


async def test_many_apps_may_share_a_router(settings: Settings, ask: Any) -> None:
    router = APIRouter(prefix="/orders", dependencies=[public])
    router.get("/{order_id}")(read_order)

    for app in (create_app(settings, routers=[router]), create_app(settings, routers=[router])):
        for _ in range(2):
            async with _started(app):
                assert (await ask(app, "GET", "/orders/7")).json == 7
                await asyncio.sleep(0)
