"""A JSON text is read as every reader would read it, or refused; it is never changed in silence."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.app._strict_json import NotJSONError, UnclearJSONError, read_strictly


def read(text: bytes, *, max_values: int = 10_000) -> object:
    return read_strictly(text, max_depth=32, max_values=max_values)


def code_of(text: bytes, *, max_values: int = 10_000) -> str:
    with pytest.raises(UnclearJSONError) as refused:
        read(text, max_values=max_values)
    return refused.value.code


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1',
        b"{'a':1}",
        b'{"a":1,}',
        b"[1,]",
        b"nul",
        b'{"a":1} x',
        b'{"a":1}\x00',
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[01]",
        b"[+1]",
        b"[.5]",
        b"[1.]",
        b"[0x10]",
        b'"\x00"',
        b'"a\nb"',
        b'"\\x41"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\xaf"',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-16-le"),
        "{}".encode("utf-32"),
        b"// comment\n{}",
    ],
)
def test_what_is_no_json_in_utf_8_is_refused(text: bytes) -> None:
    with pytest.raises(NotJSONError):
        read(text)


def test_the_place_of_the_mistake_is_told() -> None:
    with pytest.raises(NotJSONError, match="at character 6"):
        read('{"ä": x}'.encode())


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a" :1,"a"\n:2}',
        b'[{"b":{"a":1,"b":2,"a":3}}]',
        b'{"a:":1,"a:":2}',
        b'{"a":":","a":"::"}',
        b'{"a":"\\u003a","a":1}',
        b'{"a":1,"a":"\\u003A"}',
        b'{"\\"":1,"\\u0022":2}',
        b'{"":1,"":2}',
        b'{"a":":","b":{"x":"\\":","x":1}}',
    ],
)
def test_a_name_that_stands_twice_in_an_object_is_refused(text: bytes) -> None:
    assert len(json.loads(text)) >= 0, "the standard library keeps the last one and says nothing"

    assert code_of(text) == "repeated_name"


@pytest.mark.parametrize("text", [b'["\\u0000"]', b'{"\\u0000":1}', b'{"a":[{"b":"x\\u0000y"}]}'])
def test_a_nul_in_a_text_is_refused(text: bytes) -> None:
    assert code_of(text) == "nul_character"


@pytest.mark.parametrize(
    "text",
    [
        b"18446744073709551616",
        b"[-9223372036854775809]",
        b"9" * 5_000,
        b'{"a":' + b"9" * 400 + b"}",
        b"[1e999]",
        b"[-1.5E+400]",
    ],
)
def test_a_number_beyond_64_bits_is_refused(text: bytes) -> None:
    assert code_of(text) == "number_too_large"


@pytest.mark.parametrize(
    "text",
    [
        b"[0.1000000000000000055511151231257827]",
        b"[12345678901234567.891]",
        b"[18446744073709551615.0]",
        b"[1.23456789012345678e0]",
        b"[123456789012345678901234e-5]",
        b"[1e-999]",
        b"[-1E-0999]",
        b"[0." + b"0" * 400 + b"1]",
        b'["0.1", 1.00000000000000000001]',
    ],
)
def test_a_number_that_a_float_would_round_is_refused(text: bytes) -> None:
    sent = next(member for member in json.loads(text, parse_float=Decimal) if isinstance(member, Decimal))
    kept = next(member for member in json.loads(text) if isinstance(member, float))
    assert Decimal(repr(kept)) != sent, "the standard library rounds and says nothing"

    assert code_of(text) == "number_too_precise"


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('["]",', "]"), ('{"}]":', "}")]
)
def test_what_is_nested_too_deep_is_refused(opening: str, closing: str) -> None:
    read((opening * 32 + "1" + closing * 32).encode())

    for depth in (33, 250, 1_000, 100_000):
        assert code_of((opening * depth + "1" + closing * depth).encode()) == "nested_too_deep"


@pytest.mark.parametrize(
    "text",
    [
        b"[1,2,3,4,5,6]",
        b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}',
        b"[[1,2],{},[3]]",
        b'["a,b",",",[],[],[],[]]',
    ],
)
def test_what_holds_too_many_values_is_refused(text: bytes) -> None:
    assert read(text, max_values=6) == json.loads(text)

    assert code_of(text, max_values=5) == "too_many_values"


def test_brackets_in_strings_do_not_hide_the_nesting() -> None:
    """A count of brackets alone would take these for closed ones."""
    text = b'["' + b"]" * 40 + b'",' + b"[" * 39 + b'1,"' + b"[" * 40 + b'"' + b"]" * 40

    assert code_of(text) == "nested_too_deep"


@pytest.mark.parametrize(
    "text",
    [
        b"1",
        b"-0.0",
        b'"x"',
        b"null",
        b" \t\r\n[] ",
        b"18446744073709551615",
        b"-9223372036854775808",
        b"[0.1, 1e22, 5e-324, 1.7976931348623157e308, 0e-999, 1E-0000000, 0.10000000000000001]",
        b"[1.000000000000000000000, 0.0000000000000000000000000000001, 0.30000000000000004]",
        b'["1e-999, 0.1000000000000000055511151231257827", "99999999999999999999"]',
        b'["\\\\u0000", "\\u0001", "\\ud83d\\ude00", "\\u003a"]',
        b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}],"c":"\\"a\\": 1, \\"a\\": 2"}',
        b'{"when": "2026-01-01T10:00:00", "site" :"http://x:1", "c::":":::", "e" : "\\u003a"}',
        b'["' + b"[{" * 100 + b'"' + b",[]" * 100 + b"]",
        b'["\\"' + b"[{" * 100 + b'"' + b",{}" * 100 + b"]",
    ],
)
def test_what_is_accepted_is_what_the_standard_library_reads(text: bytes) -> None:
    assert read(text) == json.loads(text)


# No NUL in them: that is refused, and tested above.
_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
_number = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _number | _text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_text, inner, max_size=5),
)


@given(value=_json, compact=st.booleans(), escaped=st.booleans())
def test_what_json_can_say_without_doubt_is_read_as_it_is(value: Any, compact: bool, escaped: bool) -> None:
    text = json.dumps(value, separators=(",", ":") if compact else None, ensure_ascii=escaped)

    assert read(text.encode()) == value


_name = st.sampled_from(["a", "b", ":", '":', '"', "\\", "é", "[", "}", ""])


@given(pairs=st.lists(st.tuples(_name, _json), max_size=6), spaced=st.booleans(), escaped=st.booleans())
def test_a_repeated_name_is_found_and_no_other_is(
    pairs: list[tuple[str, Any]], spaced: bool, escaped: bool
) -> None:
    colon = " : " if spaced else ":"
    members = [
        f"{json.dumps(name, ensure_ascii=escaped)}{colon}{json.dumps(value, ensure_ascii=escaped)}"
        for name, value in pairs
    ]
    text = f"{{{','.join(members)}}}".encode()

    if len({name for name, _ in pairs}) < len(pairs):
        assert code_of(text) == "repeated_name"
    else:
        assert read(text) == json.loads(text)


_garbage = st.text('[]{}",:\\ux0123459eE.-+ntf \n') | st.text()


@given(text=st.binary() | _garbage.map(str.encode))
def test_any_bytes_are_read_as_the_standard_library_does_or_refused(text: bytes) -> None:
    try:
        value = read(text)
    except (NotJSONError, UnclearJSONError):
        return
    assert value == json.loads(text)
