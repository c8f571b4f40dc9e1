import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.errors import UsageError
from backstay.security.api_keys import new_api_key, read_api_key


def test_a_key_is_read_as_it_was_made() -> None:
    made = new_api_key("shop")
    read = read_api_key(made.key.get_secret_value())

    assert read is not None
    assert (read.key_id, read.digest) == (made.key_id, made.digest)


def test_a_scanner_can_find_it_by_one_expression() -> None:
    for prefix in ("s", "shop2"):
        key = new_api_key(prefix).key.get_secret_value()
        assert re.fullmatch(rf"{prefix}_[0-9A-Za-z]{{16}}_[0-9A-Za-z]{{49}}", key)


def test_no_two_keys_are_equal_and_none_shows_itself() -> None:
    made = [new_api_key("shop") for _ in range(50)]

    assert len({key.key_id for key in made} | {key.digest for key in made}) == 100
    assert made[0].key.get_secret_value() not in repr(made[0])


KEY = new_api_key("shop").key.get_secret_value()


@given(st.integers(0, len(KEY) - 1), st.sampled_from(string.ascii_letters + string.digits + "_-. "))
def test_a_typing_error_is_noticed_without_a_database(position: int, character: str) -> None:
    changed = KEY[:position] + character + KEY[position + 1 :]
    assert (read_api_key(changed) is None) is (changed != KEY)


@pytest.mark.parametrize(
    "text", ["", "shop", KEY[:-1], f"{KEY}x", f"{KEY}\n", f" {KEY}", KEY.upper(), "a" * 10**6]
)
def test_what_is_no_key_is_none(text: str) -> None:
    assert read_api_key(text) is None


@given(st.text())
def test_any_text_can_be_looked_at(text: str) -> None:
    assert read_api_key(text) is None


@pytest.mark.parametrize("prefix", ["", "Shop", "my_shop", "2shop", "shop-api", "é", "a" * 21])
def test_a_prefix_is_a_short_word(prefix: str) -> None:
    with pytest.raises(UsageError):
        new_api_key(prefix)
