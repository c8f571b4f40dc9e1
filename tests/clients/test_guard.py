"""A URL that somebody else wrote leads to the public internet, or nowhere."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta

import httpcore2
import pytest
from httpx2 import AsyncClient, MockTransport, RemoteProtocolError, Request, Response, create_ssl_context
from pydantic import SecretStr

from backstay.clients import create_client
from backstay.clients._addresses import is_public
from backstay.clients._guard import CheckedNetwork, GuardedTransport
from backstay.errors import ConfigurationError, UpstreamUnavailableError

PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1"),  # noqa: S104
    *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1"),
    *("192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2001::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
    *("localhost", "", "1", "0x7f000001", "127.1", "017700000001"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:82b::200e"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is(address: str) -> None:
    assert is_public(address)


class Network(httpcore2.AsyncNetworkBackend):
    """Notes where connections go, and makes none."""

    def __init__(self, *, dead: Iterable[str] = ()) -> None:
        self.asked: list[tuple[str, int]] = []
        self.dead = dead

    async def connect_tcp(
        self, host: str, port: int, *_: object, **__: object
    ) -> httpcore2.AsyncNetworkStream:
        self.asked.append((host, port))
        if host in self.dead:
            raise httpcore2.ConnectError("refused")
        return httpcore2.AsyncMockStream([])


class Names:
    """Gives each answer of a look-up once, and then the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = answers
        self.count = 0

    async def look_up(self, host: str, port: int) -> list[str]:
        self.count += 1
        return self.answers[min(self.count, len(self.answers)) - 1]


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name that means another machine at a second look-up has no second look-up."""
    names, network = Names(["93.184.216.34"], ["127.0.0.1"]), Network()

    await CheckedNetwork("hooks", resolve=names.look_up, network=network).connect_tcp("hook.example", 443)

    assert (network.asked, names.count) == ([("93.184.216.34", 443)], 1)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"]])
async def test_one_address_that_is_not_public_is_enough_to_refuse(addresses: list[str]) -> None:
    network = Network()
    checked = CheckedNetwork("hooks", resolve=Names(addresses).look_up, network=network)

    with pytest.raises(UpstreamUnavailableError, match="not public"):
        await checked.connect_tcp("hook.example", 443)

    assert network.asked == []


async def test_the_next_address_is_tried_when_one_is_dead() -> None:
    network = Network(dead=["93.184.216.34"])
    names = Names(["93.184.216.34", "8.8.8.8"])

    await CheckedNetwork("hooks", resolve=names.look_up, network=network).connect_tcp("hook.example", 443)

    assert [host for host, _ in network.asked] == ["93.184.216.34", "8.8.8.8"]


@pytest.mark.parametrize("addresses", [[], ["8.8.8.8"]])
async def test_no_address_that_answers_is_no_connection(addresses: list[str]) -> None:
    network = Network(dead=["8.8.8.8"])

    with pytest.raises(httpcore2.ConnectError):
        await CheckedNetwork("hooks", resolve=Names(addresses).look_up, network=network).connect_tcp("x", 443)


async def test_a_failed_look_up_is_no_connection() -> None:
    async def fail(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(httpcore2.ConnectError):
        await CheckedNetwork("hooks", resolve=fail, network=Network()).connect_tcp("hook.example", 443)


async def test_a_slow_look_up_is_part_of_the_connect_timeout() -> None:
    async def hang(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(httpcore2.ConnectTimeout):
        await CheckedNetwork("hooks", resolve=hang, network=Network()).connect_tcp("hook.example", 443, 0.02)


async def test_a_socket_in_the_file_system_is_refused() -> None:
    with pytest.raises(UpstreamUnavailableError):
        await CheckedNetwork("hooks", network=Network()).connect_unix_socket("docker.sock")


@pytest.fixture
async def hooks() -> AsyncClient:
    return create_client("hooks", public_only=True, retries=0, timeout=timedelta(seconds=20))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://localhost:8443/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/latest/meta-data",
        "https://0x7f000001/",
        "https://2130706433/",
    ],
)
async def test_a_client_for_public_addresses_calls_no_other(hooks: AsyncClient, url: str) -> None:
    async with hooks:
        with pytest.raises(UpstreamUnavailableError):
            await hooks.get(url)


async def test_it_calls_by_https_only(hooks: AsyncClient) -> None:
    async with hooks:
        with pytest.raises(UpstreamUnavailableError, match="not https"):
            await hooks.get("http://example.com/")


async def test_redirects_are_checked_too() -> None:
    guarded = create_client("hooks", public_only=True)

    def lead_inside(request: Request) -> Response:
        return Response(302, headers={"Location": "https://127.0.0.1/"})

    mounts = {"https://hook.example": MockTransport(lead_inside)}
    async with AsyncClient(transport=guarded._transport, mounts=mounts) as hooks:
        with pytest.raises(UpstreamUnavailableError, match="not public"):
            await hooks.get("https://hook.example/", follow_redirects=True)


def test_it_has_no_proxy() -> None:
    """The proxy would look up the name, and nobody would check what it finds."""
    with pytest.raises(ConfigurationError, match="proxy"):
        create_client("hooks", public_only=True, proxy=SecretStr("http://proxy.example:3128"))


async def respond_with(*lines: bytes) -> Response:
    context = create_ssl_context()
    network = httpcore2.AsyncMockBackend([b"\r\n".join(lines)])
    transport = GuardedTransport("hooks", context=context, keepalive=1, network=network)
    async with AsyncClient(transport=transport) as hooks:
        return await hooks.post("https://hook.example/", content=b"{}")


async def test_what_is_public_is_called_as_ever() -> None:
    response = await respond_with(b"HTTP/1.1 201 Created", b"Content-Length: 2", b"X-Kind: a", b"", b"ok")

    assert (response.status_code, response.headers["X-Kind"], response.text) == (201, "a", "ok")


@pytest.mark.parametrize("answer", [b"HELLO", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123"])
async def test_its_errors_are_those_of_httpx(answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        await respond_with(answer, b"", b"")
