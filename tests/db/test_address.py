"""A PostgreSQL address as providers hand it out: its options reach the driver, and TLS is what it says."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from backstay.db import Database
from backstay.errors import ConfigurationError
from backstay.settings import DatabaseSettings

pytestmark = pytest.mark.databases("postgresql")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")


class Entrance:
    """Takes TLS for a PostgreSQL server that has none; both ends see what they would see of one that has."""

    def __init__(self, url: str, certificate: Path, key: Path) -> None:
        self._server = make_url(url)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self.encrypted = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        listener = await asyncio.start_server(self._admit, "127.0.0.1", 0)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            url = self._server.set(host="localhost", port=port, query={})
            yield url.render_as_string(hide_password=False)

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await self._encrypt(reader, writer):
                await self._pass_on(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever came was not content with the certificate
        finally:
            writer.close()

    async def _encrypt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await reader.readexactly(8)
        if int.from_bytes(request[4:]) != 80877103:  # SSLRequest
            return False
        writer.write(b"S")
        await writer.drain()
        await writer.start_tls(self._context)
        self.encrypted += 1
        return True

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._server.port or 5432
        if self._server.host:
            return await asyncio.open_connection(self._server.host, port)
        return await asyncio.open_unix_connection(f"{self._server.query['host']}/.s.PGSQL.{port}")

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await self._connect()
        pumps = [asyncio.create_task(_pump(reader, downstream)), asyncio.create_task(_pump(upstream, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        downstream.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()


def _certificate(folder: Path, *, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", *curve, *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def _ask(url: str) -> Any:
    database = Database(DatabaseSettings(url=SecretStr(url)))
    try:
        async with database.reading() as session:
            return await session.scalar(text("SELECT current_setting('application_name')"))
    finally:
        await database.close()


@needs_openssl
async def test_the_server_is_verified_as_the_address_says(database_url: str, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path, name="localhost")
    stranger, _ = _certificate(tmp_path, name="other.example")
    entrance = Entrance(database_url, certificate, key)
    async with entrance.open() as url:
        assert await _ask(f"{url}?sslmode=verify-full&sslrootcert={certificate}") == "backstay"
        assert entrance.encrypted == 1
        with pytest.raises((DBAPIError, ssl.SSLError)):
            await _ask(f"{url}?sslmode=verify-full&sslrootcert={stranger}")


@needs_openssl
async def test_a_certificate_for_another_name_is_refused(database_url: str, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path, name="other.example")
    async with Entrance(database_url, certificate, key).open() as url:
        assert await _ask(f"{url}?sslmode=verify-ca&sslrootcert={certificate}") == "backstay"
        with pytest.raises((DBAPIError, ssl.SSLError)):
            await _ask(f"{url}?sslmode=verify-full&sslrootcert={certificate}")


async def test_without_us_the_driver_does_not_know_the_word(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"sslmode": "disable"})
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    with pytest.raises(TypeError, match="sslmode"):
        await engine.connect()
    await engine.dispose()


async def test_a_session_may_be_named_in_the_address(database_url: str) -> None:
    joint = "&" if "?" in database_url else "?"
    assert await _ask(f"{database_url}{joint}application_name=shop") == "shop"


async def test_an_option_that_the_driver_lacks_is_refused_at_the_start(database_url: str) -> None:
    joint = "&" if "?" in database_url else "?"
    with pytest.raises(ConfigurationError, match=r"'sslmod', which .* Did you mean 'sslmode'"):
        Database(DatabaseSettings(url=SecretStr(f"{database_url}{joint}sslmod=require")))
