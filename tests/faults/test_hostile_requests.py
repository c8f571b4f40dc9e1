"""Bad input never becomes a 500, every error is a problem document, and nothing that the caller sent is in
it."""

from collections import Counter

import pytest
from fastapi import FastAPI

from backstay.testing import LiveServer

from .account_corpus import account_corpus
from .corpus import CANARY, Hostile, corpus
from .tutorial import make_tutorial_app
from .wire import Answer, Caller

pytestmark = pytest.mark.databases("sqlite", "postgresql")

CORPUS = [*corpus(), *account_corpus()]
OAUTH_PATHS = frozenset({"/oauth/token", "/oauth/revoke"})
LIMIT_SECONDS = 0.1
TRIES = 10


def test_the_corpus_is_large_and_each_request_in_it_is_another_one() -> None:
    assert len(CORPUS) > 1_000
    assert len({request.name for request in CORPUS}) == len(CORPUS)


class TestTheTutorialsService:
    """What the same requests do to a service that is written as tutorials do, on the same database."""

    @pytest.fixture
    def app(self, database_url: str) -> FastAPI:
        return make_tutorial_app(database_url)

    def test_it_fails_and_repeats_what_it_was_sent(self, live_server: LiveServer) -> None:
        with Caller(live_server.url) as caller:
            answers = [caller.send(request) for request in CORPUS]

        answered = [answer for answer in answers if answer is not None]
        assert sum(answer.status >= 500 for answer in answered) >= 50
        assert sum(_repeats(answer) for answer in answered) >= 50


def test_the_generated_service_takes_all_of_it_from_an_admin(shop_url: str, admin_token: str) -> None:
    statuses = _send_all(shop_url, token=admin_token)

    # They got as far as the routes' own code, and no limit answered in place of a route.
    assert statuses[401] + statuses[403] < 200, statuses
    assert statuses[429] < 10, statuses


@pytest.mark.databases("sqlite")
def test_the_generated_service_takes_all_of_it_from_anybody(shop_url: str) -> None:
    statuses = _send_all(shop_url, token=None)

    assert statuses[401] > 400, statuses
    assert statuses[429] < 10, statuses


def _send_all(url: str, *, token: str | None) -> Counter[int]:
    """Send the corpus, and return how often each status was answered when nothing is wrong with any."""
    with Caller(url, token=token) as caller:
        answers = {request.name: caller.send(request) for request in CORPUS}
        complaints = [
            f"{request.name}: {complaint}"
            for request in CORPUS
            for complaint in _complain(request, answers[request.name])
        ]
        slow = [request.name for request in CORPUS if _is_slow(request, answers[request.name], caller)]
        still_there = caller.send(Hostile("a harmless one", "GET", "/products"))

    assert complaints == []
    assert caller.lost == []
    assert slow == []
    assert still_there is not None
    assert (still_there.status, b'"TEA-1"' in still_there.body) == (200, True)
    return Counter(answer.status for answer in answers.values() if answer is not None)


def _complain(request: Hostile, answer: Answer | None) -> list[str]:
    """Return what is wrong with an answer."""
    if answer is None:
        return ["no answer"]
    if answer.status < 400:
        return []
    complaints = ["a failure"] if answer.status >= 500 else []
    if _repeats(answer):
        complaints.append("an echo")
    if answer.has_body:
        is_oauth = request.method == "POST" and request.target in OAUTH_PATHS and answer.status in {400, 401}
        complaints += _complain_of_oauth(answer) if is_oauth else _complain_of_document(answer)
    return [f"{complaint} {answer.status} {answer.body[:200]!r}" for complaint in complaints]


def _repeats(answer: Answer) -> bool:
    return answer.status >= 400 and CANARY in f"{answer.headers}{answer.body!r}".casefold()


def _complain_of_document(answer: Answer) -> list[str]:
    if answer.media_type != "application/problem+json":
        return [f"no problem document but {answer.media_type}"]
    problem = answer.problem
    is_whole = problem["status"] == answer.status and problem["title"] and problem["code"]
    has_id = f"x-request-id: {problem.get('requestId')}\n" in answer.headers.casefold()
    return [] if is_whole and has_id else ["no whole problem"]


def _complain_of_oauth(answer: Answer) -> list[str]:
    """RFC 6749, 5.2, says what an error of these endpoints looks like."""
    headers = answer.headers.casefold()
    is_json = answer.media_type == "application/json"
    is_whole = is_json and answer.problem.keys() == {"error", "error_description"}
    has_headers = "cache-control: no-store\n" in headers and "x-request-id: " in headers
    return [] if is_whole and has_headers else ["no whole OAuth error"]


def _is_slow(request: Hostile, answer: Answer | None, caller: Caller) -> bool:
    """Return whether a request takes too long, in each of several tries.

    On a machine that others load everything does; there, it may take four times as long as a plain login,
    whose hash is meant to take 25 ms.
    """
    if answer is None or answer.seconds < LIMIT_SECONDS:
        return False
    return not any(_is_quick(request, plain, caller) for plain in map(_plain_login, range(TRIES)))


def _is_quick(request: Hostile, plain: Hostile, caller: Caller) -> bool:
    logged_in, answer = caller.send(plain), caller.send(request)
    assert logged_in is not None
    return answer is not None and answer.seconds < max(LIMIT_SECONDS, 4 * logged_in.seconds)


def _plain_login(number: int) -> Hostile:
    form = f"grant_type=password&username=user-{number}@example.com&password=six+tea+cups+and+a+spoon"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Hostile("a plain login", "POST", "/oauth/token", form.encode(), headers)
