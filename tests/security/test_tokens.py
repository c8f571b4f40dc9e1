"""What is issued is verified, by us and by others; and whatever else comes is an `InvalidTokenError`."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.errors import InvalidTokenError, UsageError
from backstay.security.keys import KeyRing, PublicKey, generate_key, rotate
from backstay.security.tokens import AccessTokens, ForeignTokens
from backstay.settings import SecuritySettings
from backstay.settings.security import SigningAlgorithm

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ISSUER = "https://shop.example"
AUDIENCE = "https://api.shop.example"
SETTINGS = SecuritySettings()


def make_ring(algorithm: Any = "EdDSA") -> KeyRing:
    return KeyRing((generate_key(algorithm, signs_from=NOW),))


RING = make_ring()


def make_tokens(ring: KeyRing = RING, **settings: Any) -> AccessTokens:
    return AccessTokens(SecuritySettings(**settings), lambda: ring, issuer=ISSUER, audience=AUDIENCE)


def issue(tokens: AccessTokens, now: datetime = NOW, **options: Any) -> str:
    issued = tokens.issue("7", client_id="web", now=now, **options)
    return issued.token.get_secret_value()


def test_a_token_says_who_and_what() -> None:
    tokens = make_tokens()
    claims = tokens.verify(issue(tokens, scopes=["b", "a"], session="s1"), now=NOW)

    assert (claims.issuer, claims.subject, claims.client_id, claims.session) == (ISSUER, "7", "web", "s1")
    assert claims.scopes == {"a", "b"}
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + timedelta(minutes=15))


def test_a_token_without_scopes_and_session_has_none() -> None:
    tokens = make_tokens()
    claims = tokens.verify(issue(tokens), now=NOW)

    assert (claims.scopes, claims.session) == (frozenset(), None)


def test_no_two_tokens_have_the_same_id() -> None:
    tokens = make_tokens()
    assert len({tokens.verify(issue(tokens), now=NOW).token_id for _ in range(50)}) == 50


@pytest.mark.parametrize("scope", ["", "a admin", "a\tb", "é", 'a"', "a\\", "a\n"])
def test_a_scope_that_would_be_read_as_another_one_is_not_signed(scope: str) -> None:
    with pytest.raises(UsageError):
        make_tokens().issue("7", client_id="web", scopes=[scope])


def test_a_token_does_not_show_itself() -> None:
    issued = make_tokens().issue("7", client_id="web")

    assert issued.token.get_secret_value() not in repr(issued)
    assert issued.expires_in == 900


@pytest.mark.parametrize("algorithm", get_args(SigningAlgorithm))
def test_other_libraries_verify_it(algorithm: Any) -> None:
    ring = make_ring(algorithm)
    tokens = make_tokens(ring)
    key = ring.keys[0].public
    token = issue(tokens, now=datetime.now(UTC), scopes=["a"])

    read = jwt.decode_complete(token, key.material, [algorithm], audience=AUDIENCE, issuer=ISSUER)

    assert read["header"] == {"alg": algorithm, "kid": key.key_id, "typ": "at+jwt"}
    assert set(read["payload"]) == {"iss", "aud", "sub", "client_id", "iat", "exp", "jti", "scope"}
    assert tokens.verify(token).subject == "7"


def test_a_jwk_set_is_enough_to_verify_it() -> None:
    token = issue(make_tokens(), now=datetime.now(UTC))
    key = jwt.PyJWKSet.from_dict(RING.public_set())[jwt.get_unverified_header(token)["kid"]]

    assert jwt.decode(token, key, audience=AUDIENCE, issuer=ISSUER)["sub"] == "7"


@pytest.mark.parametrize(("seconds", "is_good"), [(0, True), (909, True), (910, False)])
def test_a_token_expires_with_leeway_for_clocks(seconds: int, is_good: bool) -> None:
    tokens = make_tokens()
    token, now = issue(tokens), NOW + timedelta(seconds=seconds)

    if is_good:
        assert tokens.verify(token, now=now)
    else:
        with pytest.raises(InvalidTokenError) as caught:
            tokens.verify(token, now=now)
        assert caught.value.reason == "expired"


@pytest.mark.parametrize(("seconds", "is_good"), [(10, True), (11, False)])
def test_a_token_may_come_from_a_clock_that_is_a_little_ahead(seconds: int, is_good: bool) -> None:
    ring = KeyRing((generate_key("EdDSA", signs_from=NOW),))
    tokens = make_tokens(ring)
    token = issue(tokens, now=NOW + timedelta(seconds=seconds))

    if is_good:
        assert tokens.verify(token, now=NOW)
    else:
        with pytest.raises(InvalidTokenError):
            tokens.verify(token, now=NOW)


def test_tokens_of_both_keys_are_good_while_they_overlap() -> None:
    rotated = rotate(RING, now=NOW)
    tokens = make_tokens(rotated)
    switch = rotated.keys[1].signs_from
    before, after = issue(tokens, now=switch - timedelta(seconds=1)), issue(tokens, now=switch)

    for token in (before, after):
        assert tokens.verify(token, now=switch + timedelta(minutes=14))
    with pytest.raises(InvalidTokenError) as caught:
        tokens.verify(before, now=switch + timedelta(minutes=20))
    assert caught.value.reason == "unknown_key"


class Source:
    """The keys of one other issuer."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def keys(self, issuer: str) -> dict[str, PublicKey]:
        return {key.key_id: key.public for key in self._ring.keys} if issuer == ISSUER else {}


async def test_tokens_of_another_issuer_are_verified_by_its_keys() -> None:
    token = issue(make_tokens(), now=datetime.now(UTC))

    ours = ForeignTokens(SETTINGS, Source(RING), issuer=ISSUER, audience=AUDIENCE)
    assert (await ours.verify(token)).subject == "7"
    for source, issuer in ((make_ring(), ISSUER), (RING, "https://other.example")):
        theirs = ForeignTokens(SETTINGS, Source(source), issuer=issuer, audience=AUDIENCE)
        with pytest.raises(InvalidTokenError):
            await theirs.verify(token)


def test_an_error_keeps_nothing_of_the_token() -> None:
    """Whatever reports errors may show the chain and its attributes."""
    tokens = make_tokens()
    header, _, signature = issue(tokens).split(".")
    for token in (f"{header}.Y2FuYXJ5.{signature}", "Y2FuYXJ5.a.b", f"{header}.e30.Y2FuYXJ5"):
        with pytest.raises(InvalidTokenError) as caught:
            tokens.verify(token, now=NOW)
        assert caught.value.__context__ is None
        assert "canary" not in repr(vars(caught.value))


GOOD = issue(make_tokens())


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_refused_as_a_token(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        make_tokens().verify(text, now=NOW)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="utf-8"))
def test_a_token_with_one_other_character_is_refused(position: int, character: str) -> None:
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    if changed == GOOD:
        return
    with pytest.raises(InvalidTokenError):
        make_tokens().verify(changed, now=NOW)


@given(st.integers(0, len(GOOD)), st.text(max_size=5))
def test_a_token_that_is_cut_or_lengthened_is_refused(length: int, rest: str) -> None:
    if GOOD[:length] + rest == GOOD:
        return
    with pytest.raises(InvalidTokenError):
        make_tokens().verify(GOOD[:length] + rest, now=NOW)
