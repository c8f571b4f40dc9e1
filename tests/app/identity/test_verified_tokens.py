"""A token is verified once, and never longer than it is good."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from backstay.app import _verified_tokens
from backstay.app._verified_tokens import VerifiedTokens
from backstay.errors import InvalidTokenError
from backstay.security.keys import KeyRing, generate_key
from backstay.security.tokens import AccessTokens, Claims
from backstay.settings import SecuritySettings

ISSUER = "https://shop.example"


class Counting(AccessTokens):
    """Counts how often it verifies."""

    count = 0

    def verify(self, token: str, *, now: datetime | None = None) -> Claims:
        self.count += 1
        return super().verify(token, now=now)


class Keys:
    """A ring that may be replaced."""

    def __init__(self) -> None:
        self.ring = KeyRing((generate_key("EdDSA"),))

    def __call__(self) -> KeyRing:
        return self.ring


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def tokens(keys: Keys) -> Counting:
    return Counting(SecuritySettings(), keys, issuer=ISSUER, audience=ISSUER)


def _issue(tokens: Counting, *, age: timedelta = timedelta(0)) -> str:
    now = datetime.now(UTC) - age
    return tokens.issue("7", client_id="web", now=now).token.get_secret_value()


def test_it_is_verified_once(keys: Keys, tokens: Counting) -> None:
    verified, token = VerifiedTokens(tokens, keys), _issue(tokens)

    assert [verified.verify(token).subject for _ in range(3)] == ["7"] * 3
    assert tokens.count == 1


def test_with_other_keys_it_is_nothing(keys: Keys, tokens: Counting) -> None:
    verified, token = VerifiedTokens(tokens, keys), _issue(tokens)
    verified.verify(token)

    keys.ring = KeyRing((generate_key("EdDSA"),))

    with pytest.raises(InvalidTokenError):
        verified.verify(token)


def test_it_expires_although_it_is_known(
    keys: Keys, tokens: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified, token = VerifiedTokens(tokens, keys), _issue(tokens, age=timedelta(minutes=14))
    verified.verify(token)

    later = SimpleNamespace(now=lambda tz: datetime.now(tz) + timedelta(minutes=2))
    monkeypatch.setattr(_verified_tokens, "datetime", later)
    verified.verify(token)  # it was not asked of what is remembered, and the rules have another clock

    assert tokens.count == 2


def test_a_bad_one_is_not_remembered(keys: Keys, tokens: Counting) -> None:
    verified = VerifiedTokens(tokens, keys)
    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            verified.verify("a.b.c")

    assert tokens.count == 2
    assert verified._verified == {}


def test_it_does_not_remember_without_end(
    keys: Keys, tokens: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_verified_tokens, "_REMEMBERED", 2)
    verified, issued = VerifiedTokens(tokens, keys), [_issue(tokens) for _ in range(3)]
    for token in issued:
        verified.verify(token)

    assert list(verified._verified) == issued[1:]
