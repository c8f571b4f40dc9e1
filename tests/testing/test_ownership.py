"""The matrix finds the one route that forgets whose row it is."""

from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column

from backstay import InputSchema, PrincipalDep, ReadSessionDep, SessionDep, get_owned, public
from backstay.db import Database
from backstay.errors import NotFoundError
from backstay.settings import Settings
from backstay.testing import OwnershipCheck
from identity_service import IdentityBase, Members, add_member, bearer, log_in, make_service, secured


class Letter(IdentityBase):
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[UUID]
    text: Mapped[str]


class LetterPatch(InputSchema):
    text: str


router = APIRouter()


@router.get("/letters/{letter_id}")
async def read(letter_id: UUID, session: ReadSessionDep, principal: PrincipalDep) -> str:
    return (await get_owned(session, Letter, id=letter_id, principal=principal)).text


@router.patch("/letters/{letter_id}")
async def change(letter_id: UUID, patch: LetterPatch, session: SessionDep, principal: PrincipalDep) -> None:
    (await get_owned(session, Letter, id=letter_id, principal=principal)).text = patch.text


@router.delete("/letters/{letter_id}", status_code=204)
async def remove(letter_id: UUID, session: SessionDep, principal: PrincipalDep) -> None:
    await session.delete(await get_owned(session, Letter, id=letter_id, principal=principal))


@router.get("/stamps/{stamp_id}")
async def read_stamp(stamp_id: int, principal: PrincipalDep) -> int:
    return stamp_id


@router.get("/posters/{poster_id}", dependencies=[public])
async def read_poster(poster_id: int) -> int:
    return poster_id


async def forgetful(letter_id: UUID, session: ReadSessionDep, principal: PrincipalDep) -> str:
    letter = await session.get(Letter, letter_id)
    if letter is None:
        raise NotFoundError
    return letter.text


BODIES = {"PATCH /letters/{letter_id}": {"text": "new"}}
SHARED = ["GET /stamps/{stamp_id}"]


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return IdentityBase.metadata


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    app = make_service(secured(settings), Members())
    app.include_router(router)
    return app


@pytest.fixture
async def callers(app: FastAPI, client: AsyncClient, database: Database) -> list[dict[str, str]]:
    """The headers of two members."""
    headers = []
    for email in ("ada@example.org", "eve@example.org"):
        await add_member(database, app.state.backstay.identity.passwords, email)
        headers.append(bearer((await log_in(client, email)).json()["access_token"]))
    return headers


@pytest.fixture
async def ids(client: AsyncClient, database: Database, callers: list[dict[str, str]]) -> dict[str, object]:
    owner = (await client.get("/me", headers=callers[0])).json()["subject"]
    letter = Letter(user_id=UUID(owner), text="dear")
    async with database.transaction() as session:
        session.add(letter)
    return {"letter_id": letter.id}


async def test_routes_that_ask_whose_row_it_is_pass(
    ownership_check: OwnershipCheck, callers: list[dict[str, str]], ids: dict[str, object]
) -> None:
    await ownership_check(owner=callers[0], stranger=callers[1], ids=ids, bodies=BODIES, shared=SHARED)


async def test_the_one_that_does_not_is_named(
    app: FastAPI, ownership_check: OwnershipCheck, callers: list[dict[str, str]], ids: dict[str, object]
) -> None:
    app.get("/letters/{letter_id}/print")(forgetful)

    with pytest.raises(pytest.fail.Exception) as failed:
        await ownership_check(owner=callers[0], stranger=callers[1], ids=ids, bodies=BODIES, shared=SHARED)

    assert str(failed.value) == "GET /letters/{letter_id}/print answers a stranger, and not with 404."


async def test_a_route_without_ids_is_not_passed_over(
    ownership_check: OwnershipCheck, callers: list[dict[str, str]], ids: dict[str, object]
) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"GET /stamps/\{stamp_id\}: stamp_id"):
        await ownership_check(owner=callers[0], stranger=callers[1], ids=ids, bodies=BODIES)


async def test_a_row_that_is_not_the_owner_s_shows_nothing(
    ownership_check: OwnershipCheck, callers: list[dict[str, str]]
) -> None:
    with pytest.raises(pytest.fail.Exception, match="does not let the owner in"):
        await ownership_check(
            owner=callers[0], stranger=callers[1], ids={"letter_id": uuid4()}, bodies=BODIES, shared=SHARED
        )


async def test_a_body_that_is_missing_shows_nothing_either(
    ownership_check: OwnershipCheck, callers: list[dict[str, str]], ids: dict[str, object]
) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"PATCH /letters/\{letter_id\} answers a stranger"):
        await ownership_check(owner=callers[0], stranger=callers[1], ids=ids, shared=SHARED)
