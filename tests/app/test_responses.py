"""Untyped data is answered through the house's one encoder."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from backstay.app.responses import JSONResponse
from backstay.json import JSONEncodeError


def test_untyped_data_may_hold_what_json_has_no_word_for() -> None:
    response = JSONResponse(
        {"at": datetime(2026, 1, 2, tzinfo=UTC), "id": UUID(int=1), "price": Decimal("1.10")}, status_code=201
    )

    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    assert b"2026-01-02T00:00:00" in bytes(response.body)
    assert b"00000000-0000-0000-0000-000000000001" in bytes(response.body)
    assert b"1.10" in bytes(response.body)


def test_what_json_cannot_say_is_an_error_and_not_null() -> None:
    with pytest.raises(JSONEncodeError):
        JSONResponse({"ratio": float("nan")})
