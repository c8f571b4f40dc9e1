from pathlib import Path
from typing import Any

import pytest

_HEAD = "from backstay.load import ServiceUser, Threshold\nfrom locust import LoadTestShape, constant, task\n"
_USER = """
class Somebody(ServiceUser):
    wait_time = constant(0.05)

    @task
    def look(self):
        self.client.get("/things/1")
"""


def test_a_run_takes_its_time_tells_how_it_goes_and_writes_a_report(generate: Any, tmp_path: Path) -> None:
    generated = generate(_HEAD + _USER, duration_seconds=2.0, users=3)

    *progress, outcome = generated.messages
    assert generated.code == 0
    assert len(progress) >= 2
    assert progress[-1].users == 3
    assert 2 <= outcome.elapsed_seconds < 4
    (verdict,) = outcome.verdicts
    assert verdict.figures.requests >= progress[-1].routes[0].requests > 3
    assert 0 < verdict.figures.p50_milliseconds <= verdict.figures.p95_milliseconds
    report = (tmp_path / "build" / "load.html").read_text()
    assert "/things/{thing_id}" in report


def test_a_locustfile_may_print_and_import_the_service_s_code_and_times_have_three_digits(
    generate: Any, tmp_path: Path
) -> None:
    package = tmp_path / "src" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("NAME = 'shop'")

    generated = generate(_HEAD + "from shop import NAME\nprint(NAME)\n" + _USER)

    assert generated.err == "shop\n"
    assert generated.last.is_met
    figures = generated.last.verdicts[0].figures
    times = (figures.p50_milliseconds, figures.p95_milliseconds)
    # Locust's own figures are whole milliseconds, in tens above 100.
    assert any(time % 1 for time in times)
    assert times == tuple(float(f"{time:.3g}") for time in times)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nimport shop.nothing\n", "ModuleNotFoundError: No module named 'shop' (in locustfile.py, line 2)"),
        ("def x(:\n", "SyntaxError: invalid syntax (in locustfile.py, line 1)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (in locustfile.py, line 2)"),
    ],
)
def test_a_locustfile_that_cannot_be_imported_says_where(generate: Any, text: str, message: str) -> None:
    generated = generate(text)

    assert generated.code == 1
    assert generated.last.message == f"locustfile.py cannot be imported: {message}."
    assert generated.last.traceback.startswith("Traceback (most recent call last):")
    assert generated.err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "locustfile.py has no users: no class in it is a ServiceUser."),
        ("class Lazy(ServiceUser):\n    pass\n", "Lazy in locustfile.py does nothing: it has no task."),
        (
            _USER + "class Shape(LoadTestShape):\n    def tick(self):\n        return None\n",
            "locustfile.py has a LoadTestShape, which backstay load does not follow.",
        ),
        (
            "thresholds = {'GET /thing': Threshold()}\n" + _USER,
            "thresholds names 'GET /thing', which is no route of the service. Did you mean 'POST /things'?",
        ),
        (
            "thresholds = {'GET /things/{thing_id}': Threshold(errors=2)}\n" + _USER,
            "A threshold's errors is 2, which is no share from 0 to 1 (in locustfile.py, line 3).",
        ),
    ],
)
def test_a_locustfile_that_cannot_be_followed_says_why(generate: Any, text: str, message: str) -> None:
    generated = generate(_HEAD + text)

    assert (generated.code, generated.last.message) == (1, message)
    assert generated.last.hint
