from types import SimpleNamespace

import pytest

from backstay.errors import UsageError
from backstay.transaction import after_commit, of


def test_a_session_that_backstay_did_not_open_is_refused() -> None:
    foreign = SimpleNamespace(info={})

    with pytest.raises(UsageError, match="take it from SessionDep"):
        of(foreign)
    with pytest.raises(UsageError):
        after_commit(foreign, print)
