from typing import Any
from uuid import uuid4

import pytest
from backstay.events import CacheHit
from backstay.testing import Events
from httpx2 import AsyncClient


@pytest.fixture
async def ada(client: AsyncClient) -> dict[str, Any]:
    return dict((await client.post("/users", json={"email": " Ada@Example.com", "name": "Ada"})).json())


async def test_a_registered_user_can_be_read(client: AsyncClient, ada: dict[str, Any]) -> None:
    response = await client.get(f"/users/{ada['userId']}")

    assert response.json() == ada
    assert ada["email"] == "ada@example.com"
    assert ada["createdAt"] == ada["updatedAt"]


async def test_a_change_is_seen_at_once(client: AsyncClient, ada: dict[str, Any], events: Events) -> None:
    path = f"/users/{ada['userId']}"
    for name in ("Ada", "Ada King"):
        await client.patch(path, json={"name": name}, headers={"If-Match": "*"})
        assert [(await client.get(path)).json()["name"] for _ in range(2)] == [name, name]
    assert len(events.of(CacheHit)) == 2


async def test_an_address_registers_once(client: AsyncClient, ada: dict[str, Any]) -> None:
    response = await client.post("/users", json={"email": "ADA@example.COM", "name": "Eve"})

    assert (response.status_code, response.json()["code"]) == (409, "email_taken")


async def test_a_registration_that_is_sent_again_registers_once(client: AsyncClient) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    user = {"email": "eve@example.com", "name": "Eve"}
    first, second = [await client.post("/users", json=user, headers=key) for _ in range(2)]

    assert (second.status_code, second.json()) == (201, first.json())
    assert second.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("email", ["ada", "ada@example", "a b@example.com", "ada@\x00.com", ""])
async def test_what_is_no_address_is_refused(client: AsyncClient, email: str) -> None:
    assert (await client.post("/users", json={"email": email, "name": "Ada"})).status_code == 422


async def test_nobody_takes_the_address_of_another(client: AsyncClient, ada: dict[str, Any]) -> None:
    eve = (await client.post("/users", json={"email": "eve@example.com", "name": "Eve"})).json()
    patch = {"email": ada["email"]}
    response = await client.patch(f"/users/{eve['userId']}", json=patch, headers={"If-Match": "*"})

    assert (response.status_code, response.json()["code"]) == (409, "email_taken")


async def test_an_unknown_user_is_not_found(client: AsyncClient) -> None:
    assert (await client.get(f"/users/{uuid4()}")).json()["code"] == "user_not_found"
