"""No test of the suite may find the library making objects of a pickle; here is that it would be found."""

import pickle

from backstay import events


def test_a_pickle_that_the_library_reads_is_noticed(unpickled: list[str]) -> None:
    source = compile("pickle.loads(pickled)", events.__file__, "exec")
    exec(source, {"pickle": pickle, "pickled": pickle.dumps(events.CacheHit)})  # noqa: S102  as if it stood there

    assert len(unpickled) == 1
    assert "CacheHit" in unpickled[0]
    unpickled.clear()


def test_a_pickle_of_somebody_else_is_not(unpickled: list[str]) -> None:
    pickle.loads(pickle.dumps(events.CacheHit))  # noqa: S301  our own
    assert unpickled == []
