from hypothesis import given
from hypothesis import strategies as st

from backstay.security.opaque import hash_token, new_token, seal, unseal


def test_tokens_are_long_random_and_safe_in_urls() -> None:
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(len(token) == 43 and token.replace("-", "").replace("_", "").isalnum() for token in tokens)


@given(st.text())
def test_any_text_has_a_digest(text: str) -> None:
    assert len(hash_token(text)) == 64


def test_a_lone_surrogate_has_a_digest_too() -> None:
    assert hash_token("\ud800") != hash_token("\udfff")


@given(st.text())
def test_only_the_token_opens_what_was_sealed_with_it(content: str) -> None:
    token = new_token()
    sealed = seal(content, token)

    assert unseal(sealed, token) == content
    assert unseal(sealed, new_token()) is None
    assert unseal(sealed, hash_token(token)) is None


def test_the_same_text_is_sealed_in_another_way_each_time() -> None:
    assert seal("a", "token") != seal("a", "token")


@given(st.binary(max_size=60))
def test_what_was_never_sealed_or_was_changed_does_not_open(sealed: bytes) -> None:
    assert unseal(sealed, "token") is None
    changed = bytearray(seal("content", "token"))
    changed[len(sealed) % len(changed)] ^= 1
    assert unseal(bytes(changed), "token") is None
