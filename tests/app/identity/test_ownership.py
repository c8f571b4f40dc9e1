"""Rows that belong to somebody are not there for anybody else."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Mapped, mapped_column

from backstay import Principal, get_owned
from backstay.db import Database
from backstay.errors import NotFoundError, UsageError
from identity_service import IdentityBase

pytestmark = pytest.mark.databases("sqlite", "postgresql")


class Parcel(IdentityBase):
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    courier: Mapped[str]
    depot: Mapped[int]


class ParcelItem(IdentityBase):
    parcel_id: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str]


ADA, EVE = Principal(str(uuid4())), Principal(str(uuid4()))
ADMIN = Principal(str(uuid4()), frozenset({"admin"}))


@pytest.fixture(autouse=True)
async def _parcels(database: Database) -> None:
    async with database.transaction() as session:
        session.add(Parcel(id=1, user_id=UUID(ADA.subject), courier="hermes", depot=7))
        session.add(ParcelItem(parcel_id=1, line=2, user_id=ADA.subject))


async def test_its_owner_gets_it(database: Database) -> None:
    async with database.transaction() as session:
        parcel = await get_owned(session, Parcel, id=1, principal=ADA)
        parcel.courier = "iris"

    async with database.reading() as reading:
        assert (await get_owned(reading, Parcel, id=1, principal=ADA)).courier == "iris"
        assert (await get_owned(reading, ParcelItem, id=(1, 2), principal=ADA)).line == 2


@pytest.mark.parametrize(
    ("caller", "key"), [(EVE, 1), (ADA, 2), (ADMIN, 1), (Principal("no UUID"), 1)], ids=str
)
async def test_for_anybody_else_it_is_as_if_there_were_none(
    database: Database, caller: Principal, key: int
) -> None:
    async with database.reading() as session:
        with pytest.raises(NotFoundError) as refused:
            await get_owned(session, Parcel, id=key, principal=caller)

    assert (str(refused.value), refused.value.detail) == ("Not Found", None)


async def test_a_scope_may_see_all(database: Database) -> None:
    async with database.reading() as session:
        assert await get_owned(session, Parcel, id=1, principal=ADMIN, unless_scope="admin")
        with pytest.raises(NotFoundError):
            await get_owned(session, Parcel, id=1, principal=EVE, unless_scope="admin")


@pytest.mark.parametrize(
    ("owner", "subject", "is_found"),
    [("courier", "hermes", True), ("depot", "7", True), ("depot", "seven", False), ("depot", "8", False)],
)
async def test_the_owner_may_be_text_or_a_number(
    database: Database, owner: str, subject: str, is_found: bool
) -> None:
    async with database.reading() as session:
        if is_found:
            assert await get_owned(session, Parcel, id=1, principal=Principal(subject), owner=owner)
        else:
            with pytest.raises(NotFoundError):
                await get_owned(session, Parcel, id=1, principal=Principal(subject), owner=owner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": 1, "owner": "user"}, "Parcel has no column 'user'.*Did you mean 'user_id'"),
        ({"id": (1, 2)}, "Parcel has a key of 1 columns"),
    ],
)
async def test_what_cannot_work_says_why(database: Database, options: dict[str, Any], message: str) -> None:
    async with database.reading() as session:
        with pytest.raises(UsageError, match=message):
            await get_owned(session, Parcel, principal=ADA, **options)
