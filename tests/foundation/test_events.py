import pytest

from backstay.events import Event, QueryExecuted, RequestRepeated, emit, is_watched, subscribed

EVENT = QueryExecuted(statement="SELECT 1", seconds=0.1)


def test_subscribers_hear_events_while_their_block_runs() -> None:
    heard: list[Event] = []

    with subscribed(heard.append):
        assert is_watched()
        emit(EVENT)
    emit(EVENT)

    assert heard == [EVENT]


def test_nobody_listens_at_first() -> None:
    assert not is_watched()


def test_a_subscriber_that_fails_is_logged_and_does_not_silence_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError("broken")

    with subscribed(fail), subscribed(heard.append):
        emit(EVENT)

    assert heard == [EVENT]
    assert "A subscriber failed on QueryExecuted." in caplog.text


def test_a_subscriber_may_hear_one_kind_and_makes_nobody_build_the_others() -> None:
    heard: list[Event] = []

    with subscribed(heard.append, QueryExecuted):
        assert is_watched()
        assert is_watched(QueryExecuted)
        assert not is_watched(RequestRepeated)
        emit(RequestRepeated(route="/things", attempt=1))
        emit(EVENT)

    assert heard == [EVENT]


def test_a_subscriber_of_everything_hears_every_kind() -> None:
    with subscribed(lambda event: None):
        assert is_watched(RequestRepeated)
