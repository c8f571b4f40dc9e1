"""What a rate limit counts by: no two values meet in one key, and nothing that is said wrongly starts."""

from typing import Any
from uuid import UUID

import pytest

from backstay.app._limit_templates import LimitTemplate
from backstay.errors import ConfigurationError, UsageError


def _scope(**given: Any) -> dict[str, Any]:
    scope = {
        "type": "http",
        "client": ("192.0.2.1", 1),
        "headers": [],
        "query_string": b"",
        "path_params": {},
    }
    return scope | given


def _expand(text: str, scope: dict[str, Any] | None = None, **values: object) -> str:
    return LimitTemplate.parse(text).expand(scope, values)


def test_an_address_is_what_the_server_says() -> None:
    assert _expand("login:{ip}", _scope()) == "login:<s192.0.2.1>"


@pytest.mark.parametrize(
    ("host", "other"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::1"),
        ("fe80::1%eth0", "fe80::2"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_of_one_site_are_one(host: str, other: str) -> None:
    assert _expand("{ip}", _scope(client=(host, 1))) == _expand("{ip}", _scope(client=(other, 1)))


@pytest.mark.parametrize(
    ("host", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        ("192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
    ],
)
def test_addresses_of_two_sites_are_two(host: str, other: str) -> None:
    assert _expand("{ip}", _scope(client=(host, 1))) != _expand("{ip}", _scope(client=(other, 1)))


def test_callers_without_an_address_are_counted_together() -> None:
    assert _expand("{ip}", _scope(client=None)) == "<>"


def test_an_address_that_is_none_is_taken_as_it_is() -> None:
    assert _expand("{ip}", _scope(client=("a:b", 1))) == "<sa%3Ab>"


def test_path_headers_and_query_are_read() -> None:
    scope = _scope(
        path_params={"product_id": "7"}, headers=[(b"x-tenant", b"acme")], query_string=b"page=2&other=3"
    )

    key = _expand("p:{product_id}:{header.X-Tenant}:{query.page}:{query.absent}", scope)

    assert key.startswith("p:<s7>:<h")
    assert key.endswith(":<s2>:<>")


def test_headers_are_hashed_as_they_may_be_secrets() -> None:
    key = _expand("{header.x-api-key}", _scope(headers=[(b"x-api-key", b"hunter2")]))

    assert "hunter2" not in key
    assert _expand("{header.x-api-key}", _scope()) == "<>"


def test_values_that_look_alike_do_not_meet() -> None:
    uuid = UUID(int=7)
    values: list[object] = [
        1,
        "1",
        True,
        "True",
        None,
        "None",
        "",
        uuid,
        str(uuid),
        "int 1",
        "*",
        "1>",
        "<s1>",
    ]

    assert len({_expand("k:{value}", value=value) for value in values}) == len(values)


def test_values_do_not_reach_into_each_other() -> None:
    pairs = [("a", "b:c"), ("a:b", "c"), ("a>", "<sb"), ("a><sb", ""), ("", "a><sb")]

    assert len({_expand("{one}{two}", one=one, two=two) for one, two in pairs}) == len(pairs)


@pytest.mark.parametrize("value", ["x" * 10_000, "\N{SNOWMAN}" * 1000, 10**500, "\ud800" * 100])
def test_keys_stay_short(value: object) -> None:
    assert len(_expand("k:{value}", value=value)) < 80


def test_a_lone_surrogate_is_a_value() -> None:
    assert _expand("{value}", value="\ud800") != _expand("{value}", value="?")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "a}",
        "{}",
        "{ip",
        "{{ip}}",
        "{a b}",
        "{0}",
        "{ip!r}",
        "{ip:>9}",
        "{cookie.x}",
        "{header.}",
        "{a.b}",
    ],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="rate limit"):
        LimitTemplate.parse(text)


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "ä:{ip}", "a*{ip}", "a<b>"])
def test_signs_that_a_header_or_a_key_would_have_to_escape_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="outside of its fields"):
        LimitTemplate.parse(text)


@pytest.mark.parametrize("field", ["principal", "api_key"])
def test_callers_that_nobody_knows_are_counted_together(field: str) -> None:
    template = LimitTemplate.parse(f"x:{{{field}}}")

    assert template.asks_who_calls
    assert template.names == frozenset()
    assert template.expand({"type": "http"}, {}) == "x:<>"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"emial": "a"}, "no field 'emial'. Did you mean 'email'?"),
        ({"email": 1.5}, "not by float"),
        ({"email": ["a"]}, "not by list"),
        ({}, "no value for 'email': `await limit.hit.email=...."),
        ({"email": "a", "ip": "192.0.2.1"}, "no field 'ip'"),
    ],
)
def test_what_hit_is_given_has_to_fit(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _expand("reset:{email}", _scope(), **values)


def test_outside_of_a_request_there_is_no_address() -> None:
    with pytest.raises(UsageError, match="needs a request"):
        _expand("{ip}")
