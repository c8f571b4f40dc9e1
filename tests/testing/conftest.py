"""A project inside the test: a folder with the plugin, as a service has it."""

import pytest

# The plugin is imported already: the inner run cannot rewrite its assertions, and need not.
WARNINGS = ("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning")


class Project:
    """Runs pytest in a folder of its own, inside of this process."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def write(self, **files: str) -> None:
        """Write modules, by their names without `.py`."""
        self.pytester.makepyfile(**files)

    def test(self, source: str, *options: str) -> pytest.RunResult:
        """Run the tests in `source`."""
        self.pytester.makepyfile(test_inner=source)
        return self.pytester.runpytest_inprocess(*WARNINGS, "-p", "no:cacheprovider", "-v", "-rs", *options)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("BACKSTAY_TEST_DATABASE", "BACKSTAY_REQUIRE_SERVERS", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest('pytest_plugins = ["backstay.testing"]')
    return Project(pytester)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    """A machine without PostgreSQL."""
    monkeypatch.delenv("BACKSTAY_TEST_POSTGRES_URL", raising=False)
    monkeypatch.setattr("backstay.testing._postgresql_server._LOCAL", ("127.0.0.1", free_tcp_port))
    monkeypatch.setattr("backstay.testing._postgresql_server._binaries", lambda: None)
