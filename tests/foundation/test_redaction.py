import string
import time
from collections import namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Secret, SecretBytes, SecretStr
from typing_extensions import TypeAliasType

from backstay.redaction import REDACTED, Redactor, Sensitive, is_sensitive_key, redact_url, sensitive_fields

CANARY = "canary-7f3a"
# Hypothesis spends seconds on a table of all characters before its first text; these do.
CHARACTERS = string.printable + "é\u0130\u2028😀"


class Account(BaseModel):
    name: str
    email: Annotated[str, Sensitive] | None = None
    phones: list[Annotated[str, Sensitive()]] | None = None


@dataclass
class Card:
    holder: str
    number: Annotated[str, Sensitive]


Email = TypeAliasType("Email", Annotated[str, Sensitive])
Point = namedtuple("Point", "x token")  # noqa: PYI024  # drivers return such rows


@pytest.mark.parametrize(
    "key",
    [
        *("password", "PASSWORD", "userPassword", "new_password", "password2", "dbpassword", "passwd", "pwd"),
        *("secret", "client_secret", "clientSecret", "secrets", "token", "access-token", "refreshToken"),
        *("api_key", "apiKey", "APIKey", "apikey", "X-API-Key", "private_key", "signing_key"),
        *(
            "authorization",
            "Proxy-Authorization",
            "auth",
            "cookie",
            "Set-Cookie",
            "credential",
            "credentials",
        ),
        *("otp", "pin", "card_pin", "cvv", "session_id", "jwt", "signature", "db_token2", "user.password"),
    ],
)
def test_a_key_that_names_a_secret_is_sensitive(key: str) -> None:
    assert is_sensitive_key(key)


@pytest.mark.parametrize(
    "key",
    [
        *("tokenizer", "pinned", "author", "spin", "shipping", "monkey", "keyboard", "key", "public_key", ""),
        *("passwordless", "secretary", "authority", "cookies_policy", "option", "event", "status", "sign"),
        *("token_type", "password_changed_at", "has_password", "is_secret", "max_tokens", "token_count"),
    ],
)
def test_a_key_that_only_resembles_or_tells_about_a_secret_is_not(key: str) -> None:
    assert not is_sensitive_key(key)


@given(
    word=st.sampled_from(["password", "secret", "token", "cookie", "api_key"]),
    before=st.sampled_from(["", "user", "old", "x"]),
    separator=st.sampled_from(["_", "-", ".", " ", "__"]),
    shape=st.sampled_from([str.lower, str.upper, str.title]),
)
def test_case_and_separators_do_not_matter(word: str, before: str, separator: str, shape: object) -> None:
    assert callable(shape)
    key = separator.join(filter(None, [before, *word.split("_")]))
    assert is_sensitive_key(shape(key))


def test_keys_from_outside_do_not_fill_the_memory() -> None:
    redactor = Redactor(["shoe_size"])
    for number in range(5000):
        assert not redactor.is_sensitive_key(f"key {number}")
    assert redactor.is_sensitive_key("password" + "_" * 1000)
    assert len(redactor._verdicts) <= 4096


def test_extra_keys_are_compared_like_the_built_in_ones() -> None:
    redactor = Redactor(["shoe_size", "IBAN", "", "a.b(c"])

    assert redactor.is_sensitive_key("customerShoeSize")
    assert redactor.is_sensitive_key("shoesize")
    assert redactor.is_sensitive_key("iban2")
    assert redactor.is_sensitive_key("a_b_c")
    assert redactor.is_sensitive_key("password")
    assert not redactor.is_sensitive_key("shoe")
    assert not Redactor([""]).is_sensitive_key("shoe_size")
    assert not is_sensitive_key("shoe_size")
    assert redactor.redact({"iban": 1}) == {"iban": REDACTED}


def test_values_are_masked_by_key_at_any_depth() -> None:
    value = {"user": [{"name": "Ada", "password": CANARY}, ({"token": 7},)], b"api_key": b"x", 5: "five"}

    assert Redactor().redact(value) == {
        "user": [{"name": "Ada", "password": REDACTED}, ({"token": REDACTED},)],
        b"api_key": REDACTED,
        5: "five",
    }
    assert value["user"][0]["password"] == CANARY  # type: ignore[index]  # the original is left alone


@pytest.mark.parametrize(
    "value",
    [
        {"event": "started", "rows": [1, 2.5, None, True, ("a", "b")], "when": {"a", "b"}, "data": b"\xff"},
        {"password": None, "token": True},
        {"password": REDACTED},
        ("token", REDACTED),
        ("pin", None),
        Account(name="Ada"),
        Point(1, None),
        frozenset({"a"}),
        "a message of more than twenty characters, with url http://host:80/path?page=2",
        object(),
    ],
)
def test_what_holds_nothing_sensitive_comes_back_as_the_same_object(value: object) -> None:
    shown = Redactor().redact(value)
    assert shown == value
    assert shown is value or value == {"password": REDACTED}


@pytest.mark.parametrize("secret", [SecretStr(CANARY), SecretBytes(CANARY.encode()), Secret[int](7)])
def test_secret_types_are_masked_wherever_they_are(secret: object) -> None:
    assert Redactor().redact(secret) == REDACTED
    assert Redactor().redact({"value": [secret]}) == {"value": [REDACTED]}
    assert Redactor().redact({secret}) == {REDACTED}


def test_marked_fields_of_models_and_dataclasses_are_masked() -> None:
    account = Account(name="Ada", email=CANARY, phones=[CANARY])

    assert Redactor().redact([account]) == [{"name": "Ada", "email": REDACTED, "phones": REDACTED}]
    assert Redactor().redact(Card("Ada", CANARY)) == {"holder": "Ada", "number": REDACTED}
    assert sensitive_fields(Account) == {"email", "phones"}
    assert sensitive_fields(int) == frozenset()


def test_a_marker_behind_a_type_alias_counts() -> None:
    class Contact(BaseModel):
        email: Email

    assert sensitive_fields(Contact) == {"email"}


def test_extra_fields_of_a_model_and_fields_of_a_row_are_seen() -> None:
    class Loose(BaseModel):
        model_config = ConfigDict(extra="allow")

    assert Redactor().redact(Loose.model_validate({"password": CANARY})) == {"password": REDACTED}
    assert Redactor().redact(Point(1, CANARY)) == {"x": 1, "token": REDACTED}
    assert Redactor().redact(MappingProxyType({"token": CANARY})) == {"token": REDACTED}


def test_header_pairs_are_masked_by_their_name() -> None:
    headers = [(b"authorization", b"Basic abc"), (b"accept", b"*/*"), ("set-cookie", "a=b")]

    assert Redactor().redact(headers) == [
        (b"authorization", REDACTED),
        (b"accept", b"*/*"),
        ("set-cookie", REDACTED),
    ]


def test_texts_and_bytes_inside_are_masked_by_their_look() -> None:
    assert Redactor().redact({"url": "redis://:pw@host/0", "raw": b"token=abc"}) == {
        "url": f"redis://:{REDACTED}@host/0",
        "raw": f"token={REDACTED}".encode(),
    }


def test_a_container_in_itself_or_too_deep_is_masked_as_a_whole() -> None:
    circle: list[object] = [1]
    circle.append(circle)
    deep: object = CANARY
    for _ in range(50):
        deep = [deep]

    assert Redactor().redact(circle) == [1, REDACTED]
    assert CANARY not in repr(Redactor().redact(deep))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+asyncpg://u:p@host/db", f"postgresql+asyncpg://u:{REDACTED}@host/db"),
        ("postgresql://u:p@ss/w@host:5432/db", f"postgresql://u:{REDACTED}@host:5432/db"),
        ("redis://:pw@host:6379/0", f"redis://:{REDACTED}@host:6379/0"),
        ("at http://host:80/path?email=a@b", "at http://host:80/path?email=a@b"),
        ("http://[::1]:80/x@y", "http://[::1]:80/x@y"),
        ("https://h/?page=1&access_token=abc&x=2", f"https://h/?page=1&access_token={REDACTED}&x=2"),
        ("login password='a b' done", f"login password='{REDACTED}' done"),
        ("Authorization: Basic dTpw", f"Authorization: {REDACTED}"),
        ("Cookie: a=b; session=c\nAccept: x", f"Cookie: {REDACTED}\nAccept: x"),
        ("sent Bearer abcdefghijklmnop0123 to", f"sent Bearer {REDACTED} to"),
        ("the Bearer token is missing", "the Bearer token is missing"),
        ("{'password': 'x\\'y', 'a': 1}", f"{{'password': '{REDACTED}', 'a': 1}}"),
        ('{"pin": 1234, "n": 1}', f'{{"pin": {REDACTED}, "n": 1}}'),
        ("got eyJhbGciOi.eyJzdWIiOi.c2ln now", f"got {REDACTED} now"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMII=\n-----END RSA PRIVATE KEY-----",
            f"-----BEGIN RSA PRIVATE KEY-----{REDACTED}-----END RSA PRIVATE KEY-----",
        ),
    ],
)
def test_secrets_are_known_by_the_look_of_the_text(text: str, shown: str) -> None:
    assert Redactor().redact_text(text) == shown
    assert redact_url(text) == shown


@given(
    password=st.text(string.ascii_letters + string.digits + "@:/?#[]%&=+-_.!$*,;()~", min_size=6),
    scheme=st.sampled_from(["postgresql", "redis", "https"]),
)
def test_no_password_of_a_url_is_shown(password: str, scheme: str) -> None:
    marked = f"Z{password}Z".replace("://", "")
    assert marked not in redact_url(f"{scheme}://user:{marked}@host/path")


@given(
    st.text()
    | st.lists(st.sampled_from(["token=", "'pin': '", "a@", "://u:", "x ", "]", REDACTED])).map("".join)
)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = Redactor().redact_text(text)
    assert Redactor().redact_text(once) == once


@pytest.mark.parametrize(
    "piece",
    ["a", "://a:", "a.b-", "'a'", "bearer ", "eyJ", "eyJaaaaa.", 'x="', '"a":"', "cookie:", "token=a@"],
)
def test_a_hostile_text_takes_linear_time(piece: str) -> None:
    """A quadratic pattern would need minutes for this text."""
    text = piece * (200_000 // len(piece)) + "=:"
    started = time.perf_counter()
    Redactor().redact_text(text)
    assert time.perf_counter() - started < 5
