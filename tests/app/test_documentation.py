"""The documentation pages work without any other host, under a content security policy that allows no inline
script."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from backstay.app import documentation
from backstay.app.documentation import add_documentation
from backstay.errors import ConfigurationError
from backstay.testing._live_server import serve


def make_app(path: str = "/docs", redoc_path: str | None = None) -> FastAPI:
    app = FastAPI(title="Shop & <Sons>", docs_url=None, redoc_url=None)
    add_documentation(app, path=path, redoc_path=redoc_path)

    @app.get("/canaries/{canary_id}")
    async def read_canary(canary_id: int) -> int:
        return canary_id

    return app


def linked(html: str) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]+)"', html)


@pytest.mark.parametrize("path", ["/docs", "/", "/internal/docs", "/docs/"])
def test_a_page_links_to_its_own_files_only_and_they_are_there(path: str) -> None:
    client = TestClient(make_app(path, redoc_path="/redoc"), base_url="http://test")

    for page in (path, "/redoc"):
        response = client.get(page)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        files = linked(response.text)
        assert len(files) >= 3
        for file in files:
            assert client.get(str(response.url.join(file))).status_code == 200, file


def test_a_page_runs_no_inline_script_and_may_be_framed_by_nobody() -> None:
    response = TestClient(make_app()).get("/docs")
    policy = response.headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?! src=)|<style| on\w+=", response.text)


def test_redoc_may_write_styles_but_no_scripts() -> None:
    policy = TestClient(make_app(redoc_path="/redoc")).get("/redoc").headers["content-security-policy"]

    assert "script-src 'self';" in policy
    assert "style-src 'self' 'unsafe-inline'" in policy


def test_the_title_of_the_service_is_escaped() -> None:
    assert "<title>Shop &amp; &lt;Sons&gt;</title>" in TestClient(make_app()).get("/docs").text


def test_the_page_finds_the_openapi_document_from_where_it_is() -> None:
    client = TestClient(make_app("/internal/docs"))
    page = client.get("/internal/docs")
    start = next(file for file in linked(page.text) if file.endswith("start.js"))
    script = client.get(str(page.url.join(start))).text

    address = re.search(r'url: "([^"]+)"', script)
    assert address is not None
    assert str(page.url.join(address[1])) == "http://testserver/openapi.json"


def test_files_with_a_version_in_their_path_are_kept_for_ever() -> None:
    client = TestClient(make_app())
    page = client.get("/docs")
    bundle = client.get(str(page.url.join(next(file for file in linked(page.text) if "bundle" in file))))

    assert "immutable" in bundle.headers["cache-control"]
    assert bundle.headers["etag"]
    assert bundle.headers["content-type"].startswith("text/javascript")
    assert page.headers["cache-control"] == "no-cache"


def test_the_pages_are_not_in_the_openapi_document() -> None:
    assert list(make_app(redoc_path="/redoc").openapi()["paths"]) == ["/canaries/{canary_id}"]


def test_the_code_beside_the_files_is_never_imported() -> None:
    code = (
        "import sys; from fastapi import FastAPI; from backstay.app.documentation import add_documentation; "
    )
    code += "add_documentation(FastAPI(docs_url=None)); sys.exit('fastapi_offline' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_an_app_without_an_openapi_document_has_no_pages() -> None:
    with pytest.raises(ConfigurationError, match="openapi_url=None"):
        add_documentation(FastAPI(openapi_url=None))


def test_missing_assets_stop_the_start_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(documentation, "distribution", missing)

    with pytest.raises(ConfigurationError, match="not installed") as stopped:
        add_documentation(FastAPI(docs_url=None))
    assert stopped.value.hint is not None
    assert "fastapi-offline" in stopped.value.hint


def test_assets_that_lack_a_file_stop_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Empty:
        version = "0"

        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(documentation, "distribution", lambda name: Empty())

    with pytest.raises(ConfigurationError, match=r"has no swagger-ui-bundle\.js"):
        add_documentation(FastAPI(docs_url=None))


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(make_app(redoc_path="/redoc")) as url:
        yield url


def look(address: str, folder: Path) -> tuple[str, str]:
    """Return the page as a browser has it after running its scripts, and what its console says."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on PATH")
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    seen = subprocess.run(
        [
            *(
                browser,
                "--headless",
                "--no-sandbox",
                "--no-first-run",
                *(f"--disable-{name}" for name in quiet),
            ),
            *(f"--user-data-dir={folder}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000"),
            *("--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return seen.stdout, "\n".join(line for line in seen.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_a_page_shows_the_api_in_a_browser(page: str, address: str, tmp_path: Path) -> None:
    dom, console = look(f"{address}/{page}", tmp_path)

    assert "/canaries/{canary_id}" in re.sub(r"<wbr/?>|\N{ZERO WIDTH SPACE}", "", dom)
    # ReDoc asks for its maker's logo, and the policy refuses that; nothing else may be refused.
    complaints = [line for line in console.splitlines() if "violates" in line and "logo" not in line]
    assert complaints == []
    assert "Uncaught" not in console
