"""Malformed, confused, forged and expired tokens, each with its name, each an `InvalidTokenError`.

Those of the second half bear a good signature: what is wrong with them no signature check would find.
"""

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from backstay.errors import InvalidTokenError
from backstay.security.keys import KeyRing, SigningKey, generate_key
from backstay.security.tokens import AccessTokens, Claims
from backstay.settings import SecuritySettings

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
ISSUER = "https://shop.example"

KEYS: dict[str, SigningKey] = {
    algorithm: generate_key(algorithm, signs_from=NOW) for algorithm in ("EdDSA", "ES256", "RS256", "HS256")
}
RING = KeyRing(tuple(KEYS.values()))
STRANGER = generate_key("EdDSA", signs_from=NOW)
TOKENS = AccessTokens(SecuritySettings(), lambda: RING, issuer=ISSUER, audience=ISSUER)

HEADER: dict[str, Any] = {"alg": "EdDSA", "kid": KEYS["EdDSA"].key_id, "typ": "at+jwt"}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": ISSUER,
    "sub": "7",
    "client_id": "web",
    "iat": SECONDS,
    "exp": SECONDS + 900,
    "jti": "j1",
    "scope": "orders:read",
    "sid": "s1",
}


def encode(content: bytes | str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def build(header: Any = None, claims: Any = None, *, key: SigningKey | None = None) -> str:
    """Return a token with a good signature over whatever is given; texts are taken as they are."""
    signing = key or KEYS["EdDSA"]
    parts = [HEADER if header is None else header, CLAIMS if claims is None else claims]
    message = ".".join(encode(part if isinstance(part, str | bytes) else json.dumps(part)) for part in parts)
    algorithm = jwt.get_algorithm_by_name(signing.algorithm)
    return f"{message}.{encode(algorithm.sign(message.encode(), signing.material))}"


def header(**changes: Any) -> str:
    return build({**HEADER, **changes})


def claims(**changes: Any) -> str:
    return build(claims={**CLAIMS, **changes})


def without(name: str) -> str:
    return build(claims={key: value for key, value in CLAIMS.items() if key != name})


def signed_with_public_key(form: Callable[[Any], bytes]) -> str:
    """Forge by treating a public key as a shared secret, the classic confusion of RS256 with HS256."""
    material = KEYS["RS256"].public.material
    head = {**HEADER, "alg": "HS256", "kid": KEYS["RS256"].key_id}
    message = f"{encode(json.dumps(head))}.{encode(json.dumps(CLAIMS))}"
    return f"{message}.{encode(hmac.new(form(material), message.encode(), hashlib.sha256).digest())}"


def pem(material: Any) -> bytes:
    raw: bytes = material.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return raw


def der(material: Any) -> bytes:
    raw: bytes = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


GOOD = build()
HEAD, BODY, SIGNATURE = GOOD.split(".")
NESTED = "[" * 2000 + "]" * 2000
OWN_KEY = {**HEADER, "jwk": KeyRing((STRANGER,)).public_set(NOW)["keys"][0]}
MORE = json.dumps(CLAIMS)[1:]
REQUIRED = ("iss", "aud", "sub", "client_id", "jti", "iat", "exp")


def with_header(signature: str, **changes: Any) -> str:
    return f"{encode(json.dumps({**HEADER, **changes}))}.{BODY}.{signature}"


def with_idle_bits_set(signature: str) -> str:
    """Write the same bytes in another way: the last character of 64 bytes has four bits to spare."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]


HOSTILE: dict[str, tuple[str, str]] = {
    # No token at all.
    "empty": ("malformed", ""),
    "one dot": ("malformed", "."),
    "two dots": ("malformed", ".."),
    "four segments": ("malformed", f"{GOOD}.{SIGNATURE}"),
    "an encrypted token": ("malformed", "a.b.c.d.e"),
    "a word": ("malformed", "admin"),
    "a password": ("malformed", "correct horse battery staple"),
    "no ASCII": ("malformed", f"{HEAD}.{BODY}é.{SIGNATURE}"),
    "a lone surrogate": ("malformed", f"{HEAD}.{BODY}\ud800.{SIGNATURE}"),
    "NUL": ("malformed", f"\0{GOOD}"),
    "white space in front": ("malformed", f" {GOOD}"),
    "a line break behind": ("bad_signature", f"{GOOD}\n"),
    "padding behind": ("bad_signature", f"{GOOD}=="),
    "padding in the header": ("malformed", f"{HEAD}=.{BODY}.{SIGNATURE}"),
    "standard base64": ("bad_signature", f"{HEAD}.{BODY}.+/{SIGNATURE[2:]}"),
    "bits that nobody reads": ("bad_signature", f"{HEAD}.{BODY}.{with_idle_bits_set(SIGNATURE)}"),
    "over 8 KB": ("too_long", claims(scope="a" * 8192)),
    "over 8 KB of dots": ("too_long", "." * 8193),
    "a megabyte": ("too_long", f"{HEAD}.{'A' * 2**20}.{SIGNATURE}"),
    # Headers that are none.
    "header is no JSON": ("malformed", build("alg")),
    "header is null": ("malformed", build("null")),
    "header is an array": ("malformed", build([1])),
    "header is a text": ("malformed", build('"EdDSA"')),
    "header is nested 2000 deep": ("malformed", build(f'{{"a":{NESTED}}}')),
    "header names alg twice": ("malformed", build('{"alg":"EdDSA",' + json.dumps(HEADER)[1:])),
    "header has NaN": ("malformed", build('{"a":NaN}')),
    "header is UTF-16": ("malformed", build(json.dumps(HEADER).encode("utf-16"))),
    "header is broken UTF-8": ("malformed", build(b'{"alg":"\xff"}')),
    "header with a byte order mark": ("malformed", build(b"\xef\xbb\xbf" + json.dumps(HEADER).encode())),
    # Signed by nobody, or by somebody else.
    "no signature": ("bad_signature", f"{HEAD}.{BODY}."),
    "a signature of zeros": ("bad_signature", f"{HEAD}.{BODY}.{encode(bytes(64))}"),
    "a short signature": ("bad_signature", f"{HEAD}.{BODY}.{encode(bytes(3))}"),
    "signed by a stranger": ("bad_signature", build(key=STRANGER)),
    "signed by another of our keys": ("bad_signature", build(key=KEYS["ES256"])),
    "another payload": ("bad_signature", f"{HEAD}.{encode(json.dumps({'sub': '1'}))}.{SIGNATURE}"),
    "alg none": ("wrong_algorithm", with_header("", alg="none")),
    "alg None": ("wrong_algorithm", with_header("", alg="None")),
    "alg nOnE": ("wrong_algorithm", with_header("", alg="nOnE")),
    "alg none with a good signature": ("wrong_algorithm", header(alg="none")),
    "alg is empty": ("wrong_algorithm", with_header("", alg="")),
    "a public key's PEM as a shared secret": ("wrong_algorithm", signed_with_public_key(pem)),
    "a public key's DER as a shared secret": ("wrong_algorithm", signed_with_public_key(der)),
    "alg of another of our keys": ("wrong_algorithm", header(alg="ES256")),
    "alg of the same family": ("wrong_algorithm", header(alg="HS512")),
    "alg in small letters": ("wrong_algorithm", header(alg="eddsa")),
    "alg is null": ("wrong_algorithm", header(alg=None)),
    "alg is an array": ("wrong_algorithm", header(alg=["EdDSA"])),
    "ES256 with the signature (0, 0)": (
        "bad_signature",
        with_header(encode(bytes(64)), alg="ES256", kid=KEYS["ES256"].key_id),
    ),
    # Keys that the token brings along, or that are not there.
    "kid is unknown": ("unknown_key", header(kid="0")),
    "kid is missing": ("unknown_key", build({"alg": "EdDSA", "typ": "at+jwt"})),
    "kid is null": ("unknown_key", header(kid=None)),
    "kid is an object": ("unknown_key", header(kid={"a": 1})),
    "kid is a path": ("unknown_key", header(kid="../../dev/null")),
    "kid is SQL": ("unknown_key", header(kid="' OR 1=1 --")),
    "jwk brings its own key": ("unknown_key", build(OWN_KEY | {"kid": "x"}, key=STRANGER)),
    "jwk under a kid of ours": ("bad_signature", build(OWN_KEY, key=STRANGER)),
    "jku names a set": ("unknown_key", header(kid="x", jku="https://evil.example/jwks.json")),
    "x5u names a certificate": ("unknown_key", header(kid="x", x5u="https://evil.example/cert.pem")),
    "x5c brings a certificate": ("unknown_key", header(kid="x", x5c=["MIIB"])),
    # Extensions and types.
    "crit with an unknown name": ("unknown_extension", header(crit=["exp"], exp=1)),
    "crit is empty": ("unknown_extension", header(crit=[])),
    "crit is null": ("unknown_extension", header(crit=None)),
    "crit names b64": ("unknown_extension", header(crit=["b64"], b64=False)),
    "b64 without crit": ("unknown_extension", header(b64=False)),
    "typ is missing": ("wrong_type", build({"alg": "EdDSA", "kid": HEADER["kid"]})),
    "an ID token": ("wrong_type", header(typ="JWT")),
    "a logout token": ("wrong_type", header(typ="logout+jwt")),
    "a proof of possession": ("wrong_type", header(typ="dpop+jwt")),
    "typ is a number": ("wrong_type", header(typ=7)),
    # Signed by us, and still not good.
    "claims are no JSON": ("malformed", build(claims="sub=7")),
    "claims are an array": ("malformed", build(claims=[CLAIMS])),
    "claims are null": ("malformed", build(claims="null")),
    "claims are nested 2000 deep": ("malformed", build(claims=f'{{"a":{NESTED}}}')),
    "claims name sub twice": ("malformed", build(claims='{"sub":"1",' + MORE)),
    "claims name sub twice, once escaped": ("malformed", build(claims='{"s\\u0075b":"1",' + MORE)),
    "a name twice deep inside": ("malformed", build(claims='{"a":[{"b":1,"b":2}],' + MORE)),
    "sub is a lone surrogate": ("malformed", build(claims=json.dumps({**CLAIMS, "sub": "\ud800"}))),
    "exp is Infinity": ("malformed", build(claims=json.dumps({**CLAIMS, "exp": float("inf")}))),
    "exp is beyond 64 bits": ("malformed", claims(exp=2**70)),
    "exp has 5000 digits": ("malformed", build(claims=f'{{"exp":{"9" * 5000}}}')),
    **{f"{name} is missing": ("missing_claim", without(name)) for name in REQUIRED},
    **{f"{name} is null": ("bad_claim", claims(**{name: None})) for name in (*REQUIRED, "scope", "sid")},
    "iss is another's": ("wrong_issuer", claims(iss="https://evil.example")),
    "iss with a slash behind": ("wrong_issuer", claims(iss=f"{ISSUER}/")),
    "iss is an array": ("bad_claim", claims(iss=[ISSUER])),
    "aud is another's": ("wrong_audience", claims(aud="https://other.example")),
    "aud is empty": ("wrong_audience", claims(aud=[])),
    "aud is an array of others": ("wrong_audience", claims(aud=["https://other.example"])),
    "aud holds a number": ("bad_claim", claims(aud=[ISSUER, 7])),
    "aud is an object": ("bad_claim", claims(aud={ISSUER: True})),
    "sub is a number": ("bad_claim", claims(sub=7)),
    "sub is empty": ("bad_claim", claims(sub="")),
    "sub holds NUL": ("bad_claim", claims(sub="7\0")),
    "sub is long": ("bad_claim", claims(sub="7" * 1025)),
    "client_id is an array": ("bad_claim", claims(client_id=["web"])),
    "jti is a number": ("bad_claim", claims(jti=1)),
    "scope is an array": ("bad_claim", claims(scope=["admin"])),
    "sid is a number": ("bad_claim", claims(sid=1)),
    "iat is a text": ("bad_claim", claims(iat=str(SECONDS))),
    "iat is a truth": ("bad_claim", claims(iat=True)),
    "iat is before 1970": ("bad_claim", claims(iat=-1)),
    "iat is in the future": ("issued_in_the_future", claims(iat=SECONDS + 11, exp=SECONDS + 900)),
    "nbf is in the future": ("not_yet_good", claims(nbf=SECONDS + 11)),
    "nbf is a text": ("bad_claim", claims(nbf="now")),
    "exp is a text": ("bad_claim", claims(exp=str(SECONDS + 900))),
    "exp has passed": ("expired", claims(iat=SECONDS - 910, exp=SECONDS - 10)),
    "exp is zero": ("expired", claims(exp=0)),
    "exp before iat": ("lasts_too_long", claims(iat=SECONDS + 5, exp=SECONDS + 1)),
    "exp a second too late": ("lasts_too_long", claims(exp=SECONDS + 901)),
    "exp in a hundred years": ("lasts_too_long", claims(exp=SECONDS + 3_155_760_000)),
    "exp is 1e300": ("lasts_too_long", build(claims={**CLAIMS, "exp": 1e300})),
    "iat is zero": ("lasts_too_long", claims(iat=0)),
}  # fmt: skip


def verify(token: str) -> Claims:
    return TOKENS.verify(token, now=NOW)


def test_the_token_that_the_others_are_made_of_is_good() -> None:
    """Else each of them would be refused for what it shares with it."""
    assert verify(GOOD).subject == "7"
    for algorithm, key in KEYS.items():
        assert verify(build({**HEADER, "alg": algorithm, "kid": key.key_id}, key=key)).subject == "7"


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_for_the_right_reason(name: str) -> None:
    reason, token = HOSTILE[name]
    with pytest.raises(InvalidTokenError) as caught:
        verify(token)

    assert caught.value.reason == reason
    assert len(token) < 5 or token not in repr(vars(caught.value)) + str(caught.value)


def test_there_are_at_least_sixty() -> None:
    assert len({token for _, token in HOSTILE.values()}) == len(HOSTILE) >= 60


@pytest.mark.parametrize(
    "token",
    [
        header(typ="application/at+jwt"),
        header(typ="AT+JWT"),
        header(
            jku="https://evil.example", x5u="https://evil.example", jwk={"kty": "oct"}, x5c=["MIIB"], cty="x"
        ),
        claims(aud=[ISSUER, "https://other.example"]),
        claims(nbf=SECONDS + 10),
        claims(iat=SECONDS + 0.5, exp=SECONDS + 900.25),
        claims(extra={"nested": [1, None]}),
        without("scope"),
        without("sid"),
    ],
)
def test_what_the_profile_allows_is_taken(token: str) -> None:
    assert verify(token).subject == "7"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(HEADER)), JSON)
def test_any_value_in_the_header_is_refused_or_the_good_one(name: str, value: Any) -> None:
    refuse_unless_good(build(json.dumps({**HEADER, name: value})))


@given(st.sampled_from([*CLAIMS, "nbf"]), JSON)
def test_any_value_of_a_claim_gives_claims_of_their_types_or_is_refused(name: str, value: Any) -> None:
    refuse_unless_good(build(claims=json.dumps({**CLAIMS, name: value})))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_with_a_good_signature_are_refused(head: bytes, body: bytes) -> None:
    with pytest.raises(InvalidTokenError):
        verify(build(head, body))
    with pytest.raises(InvalidTokenError):
        verify(build(claims=body))


@given(st.sampled_from(sorted(KEYS)), st.binary(max_size=600))
def test_any_bytes_as_a_signature_are_refused(algorithm: str, signature: bytes) -> None:
    head = encode(json.dumps({**HEADER, "alg": algorithm, "kid": KEYS[algorithm].key_id}))
    with pytest.raises(InvalidTokenError):
        verify(f"{head}.{BODY}.{encode(signature)}")


def refuse_unless_good(token: str) -> None:
    try:
        read = verify(token)
    except InvalidTokenError:
        return
    texts = (read.subject, read.client_id, read.token_id, *read.scopes, read.session or "none")
    assert all(isinstance(text, str) and text for text in texts)
    for text in texts:
        text.encode()
    assert read.expires_at > read.issued_at


def test_an_error_of_the_library_below_is_no_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyJWT answers any signature with a verdict; should it raise some day, no caller gets a 500."""

    def fail(*_: object) -> bool:
        raise ValueError

    monkeypatch.setattr(jwt.get_algorithm_by_name("EdDSA").__class__, "verify", fail)
    with pytest.raises(InvalidTokenError):
        verify(GOOD)


def test_without_our_rules_some_of_them_are_taken() -> None:
    """PyJWT by itself, called as its documentation shows: the rules are there for a reason."""
    key = KEYS["EdDSA"].public.material
    now = int(datetime.now(UTC).timestamp())
    fresh = {**CLAIMS, "iat": now, "exp": now + 900}
    accepted = {
        "no expiry": build(claims={name: fresh[name] for name in fresh if name != "exp"}),
        "a hundred years": build(claims={**fresh, "exp": now + 3_155_760_000}),
        "an ID token": build({**HEADER, "typ": "JWT"}, fresh),
        "a name twice": build(claims='{"sub":"1",' + json.dumps(fresh)[1:]),
        "over 8 KB": build(claims={**fresh, "scope": secrets.token_hex(9000)}),
        "scope is an array": build(claims={**fresh, "scope": ["admin"]}),
    }
    for token in accepted.values():
        assert jwt.decode(token, key, ["EdDSA"], audience=ISSUER)
        with pytest.raises(InvalidTokenError):
            TOKENS.verify(token)
