"""Requests that somebody might send to the generated service, by mistake or on purpose.

All are HTTP as a server has to take it; what is wrong is inside. `CANARY` stands in most of them: an answer
that refuses must not hold it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

CANARY: Final = "c4nary9x"
PRODUCT: Final = f"/products/{UUID(int=7)}"
USER: Final = f"/users/{UUID(int=7)}"
VERSION: Final = {"If-Match": '"1"'}


@dataclass(frozen=True)
class Hostile:
    """One request, byte by byte."""

    name: str
    method: str
    target: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, **further: str) -> bytes:
        """Return it as it goes over the wire; what it says itself goes before the further headers."""
        length = str(len(self.body))
        headers = {"Host": "shop.example", "Content-Length": length, **further, **self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def corpus() -> list[Hostile]:
    """Return those for products and users, each with a name of its own."""
    return [*_texts(), *_values(), *_fields(), *_queries(), *_paths(), *_heads(), *_forms(), *_lists()]


def json_request(name: str, method: str, target: str, body: bytes, **headers: str) -> Hostile:
    given = {"Content-Type": "application/json", **({} if method == "POST" else VERSION), **headers}
    return Hostile(name, method, target, body, given)


# ---------------------------------------------------------------- bodies that are no clear JSON

_SECRET = CANARY.encode()
_NAMED = b'{"name": "' + _SECRET + b'"'
TEXTS: Final = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "a word": _SECRET,
    "cut off": _NAMED,
    "single quotes": b"{'name': '" + _SECRET + b"'}",
    "trailing comma": _NAMED + b",}",
    "comment": _NAMED + b"/* x */}",
    "two documents": _NAMED + b"}" + _NAMED + b"}",
    "NUL after the end": _NAMED + b"}\x00",
    "repeated name": _NAMED + b', "name": "x"}',
    "repeated name, escaped": _NAMED + b', "n\\u0061me": "x"}',
    "repeated unknown name": _NAMED + b', "x": {"y": 1, "y": 2}}',
    "NaN": _NAMED + b', "price": NaN}',
    "Infinity": _NAMED + b', "price": -Infinity}',
    "huge exponent": _NAMED + b', "price": 1e999999}',
    "tiny exponent": _NAMED + b', "price": 1e-999999}',
    "integer of 65 bits": _NAMED + b', "price": 18446744073709551616}',
    "integer of 20,000 digits": _NAMED + b', "price": ' + b"9" * 20_000 + b"}",
    "too many digits": _NAMED + b', "price": 0.1000000000000000055511151231257827}',
    "leading zero": _NAMED + b', "price": 007}',
    "hexadecimal": _NAMED + b', "price": 0x7}',
    "invalid UTF-8": b'{"name": "\xff' + _SECRET + b'"}',
    "overlong UTF-8": b'{"name": "\xc0\xaf' + _SECRET + b'"}',
    "surrogate in UTF-8": b'{"name": "\xed\xa0\x80' + _SECRET + b'"}',
    "Latin-1": f'{{"name": "ä{CANARY}"}}'.encode("latin-1"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + _NAMED + b"}",
    "UTF-16": f'{{"name": "{CANARY}"}}'.encode("utf-16"),
    "UTF-32": f'{{"name": "{CANARY}"}}'.encode("utf-32"),
    "lone surrogate": b'{"name": "\\ud800' + _SECRET + b'"}',
    "surrogates in the wrong order": b'{"name": "\\udc00\\ud800' + _SECRET + b'"}',
    "lone surrogate as a name": b'{"\\udfff": "' + _SECRET + b'"}',
    "escaped NUL": b'{"name": "\\u0000' + _SECRET + b'"}',
    "escaped NUL as a name": b'{"\\u0000": "' + _SECRET + b'"}',
    "raw control character": b'{"name": "\x01' + _SECRET + b'"}',
    "unknown escape": b'{"name": "\\x41' + _SECRET + b'"}',
    "33 lists": b"[" * 33 + b'"' + _SECRET + b'"' + b"]" * 33,
    "100,000 lists": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "40,000 names": b"{" + b",".join(b'"%s%d":1' % (_SECRET, n) for n in range(40_000)) + b"}",
    "over the limit": b'"' + b"x" * (1024 * 1024) + b'"',
    "a list": b'["' + _SECRET + b'"]',
    "a text": b'"' + _SECRET + b'"',
    "a number": b"7",
    "null": b"null",
    "an empty object": b"{}",
}
WRITES: Final = (
    ("POST", "/products"),
    ("POST", "/users"),
    ("PUT", "/categories/tea"),
    ("PATCH", PRODUCT),
    ("PATCH", USER),
    ("POST", "/products/import"),
)


def _texts() -> Iterator[Hostile]:
    for method, target in WRITES:
        for name, text in TEXTS.items():
            yield json_request(f"{name} to {method} {target}", method, target, text)


# ---------------------------------------------------------------- values of the wrong kind

VALUES: Final[dict[str, object]] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus": -1,
    "large": 2**63,
    "fraction": 0.001,
    "list": [CANARY],
    "object": {CANARY: CANARY},
    "empty": "",
    "spaces": "   ",
    "word": CANARY,
    "long": CANARY * 40,
    "very long": CANARY * 10_000,
    "line break": f"{CANARY}\r\nX-Evil: 1",
    "control": f"{CANARY}\x1b[31m",
    "right to left": f"\u202e{CANARY}",
    "emoji": f"\N{PILE OF POO}{CANARY}",
    "combining": CANARY + "\u0301" * 200,
    "sql": f"{CANARY}'; DROP TABLE products; --",
    "html": f"<script>{CANARY}</script>",
    "template": "{{7*7}}${7*7}%s%n",
    "path": f"../../../../etc/passwd\\{CANARY}",
    "NaN as text": "NaN",
    "infinity as text": "-Infinity",
    "exponent as text": "1e5000",
    "digits as text": "9" * 4_000,
    "fraction as text": "1.005",
    "underscored": "1_000",
    "other digits": "\u0661\u0662",
}
PRODUCT_BODY: Final = {"sku": "NEW-1", "name": "New", "price": "1.00", "categorySlug": "tea"}
BODIES: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("POST", "/products"): PRODUCT_BODY,
    ("PATCH", PRODUCT): PRODUCT_BODY,
    ("POST", "/users"): {"email": "new@example.com", "name": "New", "password": "six tea cups and a spoon"},
    ("PATCH", USER): {"email": "new@example.com", "name": "New"},
}


def _values() -> Iterator[Hostile]:
    for (method, target), body in BODIES.items():
        for wrong in body:
            for name, value in VALUES.items():
                # What is not tested would let the request through: the sku of the first product is taken.
                sent = {**body, "sku": "TEA-1"} if "sku" in body else body
                text = json.dumps({**sent, wrong: value}).encode()
                yield json_request(f"{name} as {wrong} to {method} {target}", method, target, text)


def _fields() -> Iterator[Hostile]:
    """Fields that the server owns, in both spellings, and those that nobody knows."""
    owned = ("productId", "product_id", "userId", "user_id", "version", "createdAt", "updated_at", "category")
    for (method, target), body in BODIES.items():
        for name in (
            *owned,
            "id",
            "isAdmin",
            "is_active",
            "isVerified",
            "passwordHash",
            "__class__",
            "__proto__",
            "",
            CANARY,
            "Name",
            "price\u0000x"[:5],
        ):
            if name not in body:
                text = json.dumps({**body, name: CANARY}).encode()
                yield json_request(f"{name or 'no name'!r} in {method} {target}", method, target, text)


def _lists() -> Iterator[Hostile]:
    for name, rows in {
        "no rows": [],
        "1,001 rows": [PRODUCT_BODY] * 1_001,
        "the same row twice": [{**PRODUCT_BODY, "sku": "TWICE-1"}] * 2,
        "200 wrong rows": [{CANARY: CANARY}] * 200,
        "a row that is taken": [{**PRODUCT_BODY, "sku": "TEA-1"}],
        "an unknown category": [{**PRODUCT_BODY, "categorySlug": "none"}],
    }.items():
        yield json_request(name, "POST", "/products/import", json.dumps(rows).encode())


# ---------------------------------------------------------------- addresses

QUERIES: Final = (
    *(f"page={value}" for value in ("0", "-1", "1.5", "x", "", "9" * 30, "9" * 5_000, "1e9", "%00", "501")),
    *(f"size={value}" for value in ("0", "-1", "101", "x", "", "9" * 30, "NaN", "%31%30%31")),
    *(f"sort={value}" for value in ("x", "-", "--name", "name,name", ",", "__class__", "category.slug")),
    *(f"sort={value}" for value in ("name;drop", "name%00", ",name" * 900, "-price,-price", "NAME", "%FF")),
    *(f"category={value}" for value in ("A", "a+b", "%00", "%FF", "%ED%A0%80", "x" * 5_000, "'--", "")),
    *(f"maxPrice={value}" for value in ("x", "-1", "NaN", "Infinity", "1e999", "1e-999", "9" * 400, "0.001")),
    "page=1&page=0",
    "page[]=x",
    "&" * 3_000,
    f"{CANARY}=1",
    "%",
    "%zz=1",
    "a=" + "%C0%AF" * 10,
    "page=\u0000"[:5] + "%C2%A0x",
    "+".join(["page="] * 50),
)


def _queries() -> Iterator[Hostile]:
    for query in QUERIES:
        yield Hostile(f"?{query[:40]}", "GET", f"/products?{query}&x={CANARY}")


PATHS: Final = (
    *(f"/products/{part}" for part in ("x", "7", "%00", "%FF", "%2e%2e", "-", "{}", "%20", "x" * 8_000)),
    *(f"/users/{part}" for part in ("x", "null", "%ED%A0%80", str(UUID(int=7))[:-1], "0" * 33, "'")),
    *(
        "/",
        "//",
        "/.",
        "/..",
        "/../../etc/passwd",
        "/products/",
        "/products//x",
        "/%2e%2e/%2e%2e",
        "/PRODUCTS",
    ),
    *("/%c0%ae%c0%ae/", "/products%00", "/.env", "/.git/config", "/\\", "/;x", "/products;x=1", "/*", "/@"),
    f"/{CANARY}",
    f"/{CANARY}%0d%0aX-Evil:%201",
    f"/products/{CANARY}?{CANARY}#{CANARY}",
    "http://other.example/products/x",
)


def _paths() -> Iterator[Hostile]:
    for path in PATHS:
        for method in ("GET", "DELETE"):
            yield Hostile(f"{method} {path[:40]}", method, path, headers={"X-Canary": CANARY})


# ---------------------------------------------------------------- heads

_PLAIN = json.dumps({**PRODUCT_BODY, "sku": "TEA-1"}).encode()
HEADS: Final[dict[str, dict[str, str]]] = {
    "no content type": {},
    "text/plain": {"Content-Type": f"text/plain; x={CANARY}"},
    "a broken content type": {"Content-Type": f"{CANARY};;;==="},
    "an empty content type": {"Content-Type": ""},
    "an unknown charset": {"Content-Type": f"application/json; charset={CANARY}"},
    "multipart without a boundary": {"Content-Type": "multipart/form-data"},
    "multipart with a boundary of none": {"Content-Type": f"multipart/form-data; boundary={CANARY}"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "gzip": {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    "200 headers": {"Content-Type": "application/json"} | {f"X-{n}": CANARY for n in range(200)},
    "a header of 40 KB": {"Content-Type": "application/json", "X-Long": CANARY * 5_000},
    "a cookie of 40 KB": {"Content-Type": "application/json", "Cookie": f"a={CANARY * 5_000}"},
    "a request id with signs": {"Content-Type": "application/json", "X-Request-ID": f"{CANARY} <b>\xff"},
    "a long request id": {"Content-Type": "application/json", "X-Request-ID": CANARY * 100},
    "a broken trace": {"Content-Type": "application/json", "traceparent": f"00-{CANARY}-x-01"},
    "a broken key": {"Content-Type": "application/json", "Idempotency-Key": f"{CANARY}\xff;,"},
    "a long key": {"Content-Type": "application/json", "Idempotency-Key": CANARY * 1_000},
    "an empty key": {"Content-Type": "application/json", "Idempotency-Key": ""},
    "a strange Accept": {"Content-Type": "application/json", "Accept": f"{CANARY}/*;q=x"},
    "a foreign origin": {"Content-Type": "application/json", "Origin": f"https://{CANARY}.example"},
    "another method": {"Content-Type": "application/json", "X-HTTP-Method-Override": "DELETE"},
    "basic credentials": {"Content-Type": "application/json", "Authorization": f"Basic {CANARY}"},
    "Latin-1": {"Content-Type": "application/json", "X-Name": "\xe4\xff" + CANARY},
}
CONDITIONS: Final = (
    "*",
    '""',
    '"x"',
    'W/"1"',
    '"1',
    "1",
    '"1","2"',
    f'"{CANARY}"',
    '"\xff"',
    ",",
    '"9' * 900,
    "",
)


def _heads() -> Iterator[Hostile]:
    for name, headers in HEADS.items():
        for target in ("/products", "/users"):
            yield Hostile(f"{name} to {target}", "POST", target, _PLAIN, headers)
    for condition in CONDITIONS:
        for header in ("If-Match", "If-None-Match"):
            given = {"Content-Type": "application/json", header: condition}
            yield Hostile(f"{header} {condition[:20]}", "PATCH", PRODUCT, b'{"name": "x"}', given)
    for method in ("TRACE", "OPTIONS", "PROPFIND", "LINK", "PURGE", "SEARCH", "HEAD", "PUT"):
        yield Hostile(f"{method} /products", method, "/products", headers={"X-Canary": CANARY})


# ---------------------------------------------------------------- forms, where none is expected


def _forms() -> Iterator[Hostile]:
    form = "application/x-www-form-urlencoded"
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s%d"\r\n\r\nv\r\n' % (_SECRET, n)
        for n in range(5_000)
    )
    bodies = {
        "100,000 fields": (form, "&".join(f"a{n}=1" for n in range(100_000)).encode()),
        "a NUL": (form, b"name=%00" + _SECRET),
        "bytes that are no text": (form, b"name=%FF" + _SECRET),
        "5,000 parts": ("multipart/form-data; boundary=x", parts + b"--x--\r\n"),
        "a part that never ends": ("multipart/form-data; boundary=x", parts[:200]),
    }
    for name, (kind, body) in bodies.items():
        for method, target in WRITES:
            headers = {"Content-Type": kind, **VERSION}
            yield Hostile(f"a form with {name} to {method} {target}", method, target, body, headers)
