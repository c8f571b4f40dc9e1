"""Requests of a `ServiceUser`, as a service sees them and as the report tells of them."""

import re
from typing import Any

_FILE = """
from backstay.load import ServiceUser
from locust import constant, task


class Somebody(ServiceUser):
    wait_time = constant(0.05)

    @task
    def act(self):
{body}
"""


def act(*lines: str) -> str:
    return _FILE.format(body="\n".join(f"        {line}" for line in lines))


def test_each_request_has_an_id_of_its_own_and_each_user_one_connection(generate: Any, service: Any) -> None:
    lines = (
        "self.client.get('/things/1', headers={'Accept': 'x/y'})",
        "self.client.post('/things', json={})",
    )
    generate(act(*lines), users=2, request_id_header="X-Trace")

    seen = [headers for _, _, headers in service.requests]
    ids = [headers["X-Trace"] for headers in seen]
    assert len(ids) > 10
    assert len(set(ids)) == len(ids)
    assert len({match[1] for one in ids if (match := re.fullmatch(r"load-([0-9a-f]{6})-\d+", one))}) == 1
    assert seen[0]["Accept"] == "x/y"
    assert "X-Request-ID" not in seen[0]
    assert len(service.connections) == 2


def test_a_route_that_takes_a_key_gets_a_new_one_with_each_request(generate: Any, service: Any) -> None:
    lines = (
        "self.client.post('/things', json={})",
        "self.client.post('/orders', json={})",
        "self.client.post('/orders', json={}, headers={'Idempotency-Key': 'mine'})",
    )
    generate(act(*lines), users=1)

    seen = [(path, headers.get("Idempotency-Key")) for _, path, headers in service.requests]
    assert {key for path, key in seen if path == "/things"} == {None}
    keys = [key for path, key in seen if path == "/orders" and key != "mine"]
    assert len(set(keys)) == len(keys) > 1
    assert None not in keys
    assert ("/orders", "mine") in seen


def test_requests_are_counted_by_route_unless_they_are_named(generate: Any) -> None:
    lines = ("self.client.get(f'/things/{id(object())}?x=1')", "self.client.get('/things/1', name='mine')")
    last = generate(act(*lines)).last

    assert {verdict.figures.name for verdict in last.verdicts} == {"GET /things/{thing_id}", "GET mine"}


def test_failures_are_counted_by_code_with_the_id_of_the_first_and_never_with_the_body(
    generate: Any, service: Any
) -> None:
    paths = ("/broken/1", "/broken/2", "/broken/html", "/broken/odd")
    last = generate(act(*(f"self.client.get({path!r})" for path in paths)), users=1).last

    said = {re.sub(r"load-\w+-", "", failure.message) for failure in last.failures}
    assert said == {
        "503 unavailable, first in request 1",
        "502, first in request 3",
        "500, first in request 4",
    }
    (figures,) = [verdict.figures for verdict in last.verdicts]
    assert figures.name == "GET /broken/{thing_id}"
    assert figures.failures == figures.requests == sum(failure.count for failure in last.failures)
    assert not last.is_met


def test_no_answer_is_a_failure_that_says_so(generate: Any) -> None:
    last = generate(act("self.client.get('/things/1')"), target="http://127.0.0.1:1").last

    (failure,) = last.failures
    assert failure.message.startswith("no answer, ConnectionRefusedError, first in request load-")


def test_raise_for_status_ends_the_task_and_what_was_expected_is_a_success(
    generate: Any, service: Any
) -> None:
    last = generate(
        act(
            "with self.client.get('/broken/1', catch_response=True) as response:",
            "    assert response.status_code == 503",
            "    response.success()",
            "self.client.get('/broken/2', name='/mine').raise_for_status()",
            "self.client.get('/things/1')",
        )
    ).last

    assert {path for _, path, _ in service.requests} == {"/broken/1", "/broken/2"}
    assert {failure.name for failure in last.failures} == {"GET /mine"}
    assert last.crashes == ()


def test_what_the_users_themselves_raise_is_told_with_its_place_and_fails_the_run(generate: Any) -> None:
    generated = generate(act("{}['key']"))

    (crash,) = generated.last.crashes
    assert crash.message == "KeyError: 'key' (in locustfile.py, line 11)"
    assert crash.count > 2
    assert not generated.last.is_met
    assert generated.err == ""
