"""Requests that somebody might send to where people log in, and to what only they may see."""

import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from .corpus import CANARY, TEXTS, USER, VALUES, Hostile, json_request

ADMIN_PASSWORD: Final = "shop in development only"
"""What the generated service's first admin logs in with."""

FORM: Final = "application/x-www-form-urlencoded"


def account_corpus() -> list[Hostile]:
    """Return all of them, each with a name of its own."""
    return [*_forms(), *_form_values(), *_form_heads(), *_texts(), *_values(), *_tokens(), *_reads()]


# ---------------------------------------------------------------- OAuth: forms

_LOGIN: Final = {"grant_type": "password", "username": f"{CANARY}@example.com", "password": CANARY}
_REFRESH: Final = {"grant_type": "refresh_token", "refresh_token": CANARY}
_REVOKE: Final = {"token": CANARY}
_FORMS: Final = {
    "login": ("/oauth/token", _LOGIN),
    "refresh": ("/oauth/token", _REFRESH),
    "revocation": ("/oauth/revoke", _REVOKE),
}
BODIES: Final = {
    "nothing": b"",
    "a word": CANARY.encode(),
    "JSON": json.dumps(_LOGIN).encode(),
    "no names": b"=" + CANARY.encode(),
    "only signs": b"&&==&&;;",
    "a grant twice": b"grant_type=password&grant_type=refresh_token&token=x&token=y",
    "no such grant": b"grant_type=" + CANARY.encode(),
    "a grant of another kind": b"grant_type=authorization_code&code=" + CANARY.encode(),
    "client credentials": b"grant_type=client_credentials&client_id=x&client_secret=" + CANARY.encode(),
    "the grant alone": b"grant_type=password",
    "bytes that are no text": b"grant_type=password&username=%FF%FE&password=%C0%AF&token=%FF",
    "raw bytes": b"grant_type=password&username=\xff&password=\xfe\x00&token=\xff",
    "a broken escape": b"grant_type=password&username=%zz&password=%&token=%u0041",
    "100,000 fields": "&".join(f"a{number}=1" for number in range(100_000)).encode(),
    "a field of 900 KB": b"grant_type=password&username=x&token=y&password=" + b"x" * 900_000,
    "over the limit": b"token=x&password=" + b"x" * (1024 * 1024),
}


def _encode(**fields: str) -> bytes:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items()).encode()


def _forms() -> Iterator[Hostile]:
    for target in ("/oauth/token", "/oauth/revoke"):
        for name, body in BODIES.items():
            yield Hostile(f"{name} to {target}", "POST", target, body, {"Content-Type": FORM})


def _form_values() -> Iterator[Hostile]:
    texts = {name: value for name, value in VALUES.items() if isinstance(value, str)}
    for form, (target, fields) in _FORMS.items():
        for wrong in (*fields, "scope", "client_id"):
            for number, (name, text) in enumerate({**texts, "a NUL": f"{CANARY}\0"}.items()):
                # Each token of its own: how often one may be tried has a limit.
                own = {key: f"{value}{wrong}{number}" for key, value in fields.items() if "token" in key}
                body = _encode(**{**fields, **own, wrong: text})
                yield Hostile(f"{name} as {wrong} of a {form}", "POST", target, body, {"Content-Type": FORM})


def _form_heads() -> Iterator[Hostile]:
    heads = {
        "no content type": {},
        "JSON": {"Content-Type": "application/json"},
        "a broken content type": {"Content-Type": f"{CANARY};;;==="},
        "multipart without a boundary": {"Content-Type": "multipart/form-data"},
        "multipart": {"Content-Type": f"multipart/form-data; boundary={CANARY}"},
        "an unknown charset": {"Content-Type": f"{FORM}; charset={CANARY}"},
        "basic credentials": {"Content-Type": FORM, "Authorization": f"Basic {CANARY}"},
        "an encoded client": {"Content-Type": FORM, "Authorization": "Basic YzRuYXJ5OXg6YzRuYXJ5OXg="},
        "a client that is no text": {"Content-Type": FORM, "Authorization": "Basic //86"},
        "a foreign origin": {"Content-Type": FORM, "Origin": f"https://{CANARY}.example"},
        "gzip": {"Content-Type": FORM, "Content-Encoding": "gzip"},
    }
    for form, (target, fields) in _FORMS.items():
        for name, headers in heads.items():
            yield Hostile(f"a {form} with {name}", "POST", target, _encode(**fields), headers)


# ---------------------------------------------------------------- accounts: JSON

ACCOUNT_BODIES: Final[dict[str, dict[str, Any]]] = {
    "/account/password": {"currentPassword": ADMIN_PASSWORD, "newPassword": CANARY},
    "/account/password/reset/request": {"login": f"{CANARY}@example.com"},
    "/account/password/reset": {"token": CANARY, "newPassword": f"{CANARY} is no secret at all"},
    "/account/verification": {"token": CANARY},
}


def _texts() -> Iterator[Hostile]:
    for target in ACCOUNT_BODIES:
        for name, text in TEXTS.items():
            yield json_request(f"{name} to {target}", "POST", target, text)


def _values() -> Iterator[Hostile]:
    for target, body in ACCOUNT_BODIES.items():
        for wrong in body:
            for name, value in {**VALUES, "a NUL": f"{CANARY}\0", "half a sign": f"{CANARY}\ud800"}.items():
                text = json.dumps({**body, wrong: value}).encode()
                yield json_request(f"{name} as {wrong} to {target}", "POST", target, text)
        for name in ("isAdmin", "userId", "scopes", "subject", CANARY):
            yield json_request(
                f"{name} in {target}", "POST", target, json.dumps({**body, name: CANARY}).encode()
            )


# ---------------------------------------------------------------- who calls

_PART: Final = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0"  # {"alg":"none","typ":"at+jwt"}
CREDENTIALS: Final = {
    "no scheme": CANARY,
    "no token": "Bearer",
    "spaces": "Bearer   ",
    "two tokens": f"Bearer {CANARY} {CANARY}",
    "a word": f"Bearer {CANARY}",
    "dots": "Bearer ...",
    "no signature": f"Bearer {_PART}.{_PART}.",
    "an array as a head": f"Bearer W10.{_PART}.{CANARY}",
    "bytes that are no text": "Bearer \xff\xfe",
    "30 KB": f"Bearer {CANARY * 3_750}",
    "a thousand dots": f"Bearer {'.' * 1_000}",
    "another scheme": f"Negotiate {CANARY}",
    "an unfinished digest": f'Digest username="{CANARY}',
    "what looks like an API key": f"Bearer bsk_{CANARY}_{CANARY}",
}


def _tokens() -> Iterator[Hostile]:
    for name, credentials in CREDENTIALS.items():
        for method, target in (
            ("GET", "/users/me"),
            ("GET", USER),
            ("POST", "/account/verification/request"),
        ):
            headers = {"Authorization": credentials}
            yield Hostile(f"{name} to {method} {target}", method, target, b"", headers)


def _reads() -> Iterator[Hostile]:
    queries = (
        "page=0",
        "page=x",
        f"page={'9' * 400}",
        "size=101",
        "size=%00",
        f"{CANARY}=1",
        "page=1&page=0",
    )
    for query in queries:
        yield Hostile(f"/users?{query[:40]}", "GET", f"/users?{query}&x={CANARY}")
    for path in (
        "/.well-known/jwks.json",
        "/.well-known/oauth-authorization-server",
        "/.well-known/" + CANARY,
    ):
        for method in ("GET", "POST", "DELETE"):
            yield Hostile(f"{method} {path}", method, f"{path}?{CANARY}={CANARY}", headers={"X-X": CANARY})
    for path in (
        "/oauth/token",
        "/oauth/revoke",
        "/oauth",
        f"/oauth/{CANARY}",
        "/account",
        "/account/password",
    ):
        for method in ("GET", "PUT", "OPTIONS"):
            yield Hostile(f"{method} {path}", method, f"{path}?token={CANARY}")
    for body in (b"{}", CANARY.encode(), b"[" * 100_000):
        yield json_request(f"{body[:9]!r} where none is read", "POST", "/account/verification/request", body)
