"""`authorize` makes callers that the app really knows."""

from .conftest import Project

TESTS = """
import pytest
from backstay import Account, Accounts, PrincipalDep, create_app, require_scopes
from backstay.errors import UsageError
from sqlalchemy import MetaData


class Nobody(Accounts):
    async def find(self, session, login):
        return None

    async def load(self, session, subject):
        return None

    async def set_password(self, session, subject, password_hash):
        raise NotImplementedError


@pytest.fixture
def metadata():
    return MetaData()


@pytest.fixture
def app(settings):
    app = create_app(settings, accounts=Nobody())

    @app.get("/me")
    async def me(principal: PrincipalDep) -> str:
        return principal.subject

    @app.get("/all", dependencies=[require_scopes("admin")])
    async def list_all() -> int:
        return 1

    return app


async def test_callers_are_who_they_are_said_to_be(client, authorize):
    assert (await client.get("/me")).status_code == 401
    assert (await client.get("/me", headers=authorize(7))).json() == "7"
    assert (await client.get("/all", headers=authorize(7, "reader"))).status_code == 403
    assert (await client.get("/all", headers=authorize(7, "admin"))).status_code == 200


def test_an_app_that_has_not_started_knows_nobody(authorize):
    with pytest.raises(UsageError, match="asks for `client` too"):
        authorize(7)
"""


def test_the_fixture(project: Project) -> None:
    project.test(TESTS).assert_outcomes(passed=2)
