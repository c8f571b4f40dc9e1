"""A small service with accounts, and a caller that logs in: what the tests of identity share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import MetaData, select
from sqlalchemy.orm import Mapped, mapped_column

from backstay import (
    InputSchema,
    Model,
    PasswordsDep,
    PrincipalDep,
    SessionDep,
    VerificationDep,
    create_app,
    public,
    require_scopes,
    revoke_sessions,
)
from backstay.app.accounts import Account, Accounts, ResetMessage, VerificationMessage
from backstay.db import AsyncSession, Database
from backstay.db.model import NAMING_CONVENTION
from backstay.db.records import idempotency_table
from backstay.db.tokens import api_key_tables, one_time_token_tables, session_tables
from backstay.settings import SecuritySettings, Settings

PASSWORD = "the harbour seal sings at noon"
WEAK_HASHING: dict[str, Any] = {"argon2_memory_kib": 64, "argon2_time_cost": 1}


class IdentityBase(Model):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Member(IdentityBase):
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str | None]
    scopes: Mapped[str] = mapped_column(default="read write")
    is_active: Mapped[bool] = mapped_column(default=True)
    is_verified: Mapped[bool] = mapped_column(default=False)


for _table in (*session_tables, *one_time_token_tables, *api_key_tables, idempotency_table):
    _table.to_metadata(IdentityBase.metadata)


class Members(Accounts):
    """The service's users, and the messages that reached them."""

    def __init__(self) -> None:
        self.delivered: list[ResetMessage | VerificationMessage] = []
        self.arrival = asyncio.Event()

    async def find(self, session: AsyncSession, login: str) -> Account | None:
        return _to_account(await session.scalar(select(Member).where(Member.email == login.casefold())))

    async def load(self, session: AsyncSession, subject: str) -> Account | None:
        return _to_account(await session.scalar(select(Member).where(Member.id == UUID(subject))))

    async def set_password(self, session: AsyncSession, subject: str, password_hash: str) -> None:
        (await session.get_one(Member, UUID(subject))).password_hash = password_hash

    async def confirm(self, session: AsyncSession, subject: str) -> None:
        (await session.get_one(Member, UUID(subject))).is_verified = True

    async def deliver(self, message: ResetMessage | VerificationMessage) -> None:
        self.delivered.append(message)
        self.arrival.set()

    async def next_message(self) -> ResetMessage | VerificationMessage:
        async with asyncio.timeout(10):
            await self.arrival.wait()
        self.arrival.clear()
        return self.delivered[-1]


def _to_account(member: Member | None) -> Account | None:
    if member is None:
        return None
    return Account(
        subject=str(member.id),
        password_hash=None if member.password_hash is None else SecretStr(member.password_hash),
        scopes=frozenset(member.scopes.split()),
        is_active=member.is_active,
        address=member.email,
        context=(member.email,),
    )


class NewMember(InputSchema):
    email: str
    password: SecretStr


def make_router() -> APIRouter:
    router = APIRouter()

    @router.get("/open", dependencies=[public])
    async def read_open() -> str:
        return "open"

    @router.get("/me")
    async def read_me(principal: PrincipalDep) -> dict[str, Any]:
        return {"subject": principal.subject, "scopes": sorted(principal.scopes), "kind": principal.kind}

    @router.get("/admin", dependencies=[require_scopes("admin")])
    async def read_admin() -> str:
        return "secrets"

    @router.post("/members", status_code=201, dependencies=[public])
    async def join(
        new: NewMember, session: SessionDep, passwords: PasswordsDep, verification: VerificationDep
    ) -> UUID:
        passwords.check_password(new.password.get_secret_value(), context=[new.email])
        hashed = await passwords.hash(new.password.get_secret_value())
        member = Member(email=new.email, password_hash=hashed)
        session.add(member)
        await session.flush()
        verification.send_after_commit(session, str(member.id))
        return member.id

    @router.delete("/members/{member_id}/logins", status_code=204, dependencies=[public])
    async def disable(member_id: UUID, session: SessionDep) -> None:
        await revoke_sessions(session, str(member_id))

    return router


def secured(settings: Settings, **changes: Any) -> Settings:
    """Return settings with which hashing is quick."""
    return settings.model_copy(update={"security": SecuritySettings(**WEAK_HASHING, **changes)})


def make_service(settings: Settings, members: Members | None = None, **options: Any) -> FastAPI:
    return create_app(settings, routers=[make_router()], accounts=members or Members(), **options)


async def add_member(database: Database, passwords: Any, email: str, **values: Any) -> Member:
    password = values.pop("password", PASSWORD)
    member = Member(email=email, password_hash=await passwords.hash(password), **values)
    async with database.transaction() as session:
        session.add(member)
    return member


async def log_in(client: AsyncClient, login: str, password: str = PASSWORD, **more: str) -> Response:
    form = {"grant_type": "password", "username": login, "password": password, **more}
    return await client.post("/oauth/token", data=form)


async def refresh(client: AsyncClient, token: str, **more: str) -> Response:
    form = {"grant_type": "refresh_token", "refresh_token": token, **more}
    return await client.post("/oauth/token", data=form)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def calling(app: FastAPI, address: str = "127.0.0.1") -> AsyncIterator[AsyncClient]:
    """A caller of a started app, from an address."""
    transport = ASGITransport(app=app, client=(address, 1), raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client
