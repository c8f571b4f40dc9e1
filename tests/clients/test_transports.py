"""What transports build on: a body that tells when it is over, once."""

from collections.abc import AsyncIterator

import pytest
from httpx2 import ByteStream

from backstay.clients._transports import EndingStream


async def test_the_end_is_told_once_however_often_the_body_is_closed() -> None:
    """A second time would give back a place that somebody else has."""
    told: list[BaseException | None] = []
    body = EndingStream(ByteStream(b"body"), told.append)

    assert [chunk async for chunk in body] == [b"body"]
    assert told == []
    await body.aclose()
    await body.aclose()

    assert told == [None]


async def test_what_broke_it_is_told() -> None:
    class Broken(ByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"bo"
            raise ConnectionError

    told: list[BaseException | None] = []
    body = EndingStream(Broken(b""), told.append)

    with pytest.raises(ConnectionError):
        [chunk async for chunk in body]
    await body.aclose()

    assert [type(error) for error in told] == [ConnectionError]
