"""Bodies are unpacked, and end where they must."""

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import brotli  # type: ignore[import-untyped]  # it has no types
import httpx2
import pytest
from backports import zstd
from httpx2 import AsyncByteStream, AsyncClient, MockTransport, Request, Response

from backstay.clients import create_client
from backstay.errors import UpstreamAnswerError

MEBIBYTE = 1024 * 1024
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


class Counted(AsyncByteStream):
    """A body that knows how much of it was asked for."""

    def __init__(self, body: bytes, *, piece_bytes: int = 1024) -> None:
        self.body = body
        self.piece_bytes = piece_bytes
        self.given_bytes = 0
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.given_bytes < len(self.body):
            piece = self.body[self.given_bytes : self.given_bytes + self.piece_bytes]
            self.given_bytes += len(piece)
            yield piece

    async def aclose(self) -> None:
        self.is_closed = True


def client_of(body: AsyncByteStream, *, most: int = MEBIBYTE, **headers: str) -> AsyncClient:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def respond(request: Request) -> Response:
        return Response(200, headers=named, stream=body)

    transport = MockTransport(respond)
    return create_client("rates", base_url="http://rates", transport=transport, max_response_bytes=most)


@pytest.mark.parametrize("encoding", PACKERS)
async def test_every_usual_encoding_is_asked_for_and_unpacked(encoding: str) -> None:
    body = b'{"rates": [1, 2, 3]}' * 1000

    async with client_of(Counted(PACKERS[encoding](body)), Content_Encoding=encoding) as client:
        response = await client.get("/")

    assert encoding in response.request.headers["Accept-Encoding"]
    assert response.content == body
    assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize("encoding", PACKERS)
async def test_a_bomb_is_stopped_at_the_limit(encoding: str) -> None:
    """100 MiB of zeros, packed: the limit counts what comes out, not what came in."""
    bomb = Counted(PACKERS[encoding](bytes(100 * MEBIBYTE)), piece_bytes=16)

    async with client_of(bomb, Content_Encoding=encoding) as client:
        with pytest.raises(UpstreamAnswerError, match="over 1048576 bytes") as caught:
            await client.get("/")

    assert isinstance(caught.value, httpx2.TransportError)
    assert bomb.is_closed


async def test_a_long_answer_is_not_read_further_than_the_limit() -> None:
    body = Counted(bytes(10 * MEBIBYTE))

    async with client_of(body) as client:
        with pytest.raises(UpstreamAnswerError):
            await client.get("/")

    assert body.given_bytes <= MEBIBYTE + 1024
    assert body.is_closed


async def test_one_that_says_that_it_is_too_long_is_not_read_at_all() -> None:
    body = Counted(bytes(2 * MEBIBYTE))

    async with client_of(body, Content_Length=str(2 * MEBIBYTE)) as client:
        with pytest.raises(UpstreamAnswerError):
            await client.get("/")

    assert (body.given_bytes, body.is_closed) == (0, True)


async def test_the_length_that_head_tells_is_no_length_of_an_answer() -> None:
    async with client_of(Counted(b""), Content_Length=str(2 * MEBIBYTE)) as client:
        assert (await client.head("/")).headers["Content-Length"] == str(2 * MEBIBYTE)


async def test_an_answer_of_exactly_the_limit_is_taken() -> None:
    async with client_of(Counted(bytes(MEBIBYTE))) as client:
        assert len((await client.get("/")).content) == MEBIBYTE


async def test_what_cannot_be_unpacked_is_a_bad_answer() -> None:
    async with client_of(Counted(b"no gzip"), Content_Encoding="gzip") as client:
        with pytest.raises(UpstreamAnswerError, match="DecodingError"):
            await client.get("/")


async def test_a_stream_is_limited_too() -> None:
    body = Counted(bytes(2 * MEBIBYTE))

    async with client_of(body) as client, client.stream("GET", "/") as response:
        with pytest.raises(UpstreamAnswerError):
            [chunk async for chunk in response.aiter_bytes()]
