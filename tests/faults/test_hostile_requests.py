"""Bad input never becomes a 500, every error is a problem document, and nothing that the caller sent is in
it."""

from statistics import median

import pytest
from fastapi import FastAPI

from backstay.testing import LiveServer

from .corpus import CANARY, Hostile, corpus
from .tutorial import make_tutorial_app
from .wire import Answer, Caller

pytestmark = pytest.mark.databases("sqlite", "postgresql")

CORPUS = corpus()
LIMIT_SECONDS = 0.1
TRIES = 5


def test_the_corpus_is_large_and_each_request_in_it_is_another_one() -> None:
    assert len(CORPUS) >= 500
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


def test_the_generated_service_takes_all_of_it(shop_url: str) -> None:
    with Caller(shop_url) as caller:
        answers = {request.name: caller.send(request) for request in CORPUS}
        complaints = [
            f"{name}: {complaint} {answer.status if answer else ''} {answer.body[:200] if answer else b''!r}"
            for name, answer in answers.items()
            for complaint in (_complain(answer) if answer is not None else ["no answer"])
        ]
        slow = [request.name for request in CORPUS if _is_slow(request, answers[request.name], caller)]
        still_there = caller.send(Hostile("a harmless one", "GET", "/products"))

    assert complaints == []
    assert caller.lost == []
    assert slow == []
    assert still_there is not None
    assert (still_there.status, b'"TEA-1"' in still_there.body) == (200, True)


def _complain(answer: Answer) -> list[str]:
    """Return what is wrong with an answer."""
    if answer.status < 400:
        return []
    complaints = ["a failure"] if answer.status >= 500 else []
    if _repeats(answer):
        complaints.append("an echo")
    return complaints + (_complain_of_document(answer) if answer.has_body else [])


def _repeats(answer: Answer) -> bool:
    return answer.status >= 400 and CANARY in f"{answer.headers}{answer.body!r}".casefold()


def _complain_of_document(answer: Answer) -> list[str]:
    if answer.media_type != "application/problem+json":
        return [f"no problem document but {answer.media_type}"]
    problem = answer.problem
    is_whole = problem["status"] == answer.status and problem["title"] and problem["code"]
    has_id = f"x-request-id: {problem.get('requestId')}\n" in answer.headers.casefold()
    return [] if is_whole and has_id else ["no whole problem"]


def _is_slow(request: Hostile, answer: Answer | None, caller: Caller) -> bool:
    """Return whether a request takes too long, also in the median of several tries: the machine may halt."""
    if answer is None or answer.seconds < LIMIT_SECONDS:
        return False
    again = [caller.send(request) for _ in range(TRIES)]
    return median(answer.seconds for answer in again if answer is not None) >= LIMIT_SECONDS
