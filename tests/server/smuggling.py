"""Requests that two readers may understand differently, and others that are no HTTP/1.1, by name.

Each stands alone on its connection. What `FOLLOWER` asks for must never be answered: whoever reads a body's
end differently would take it for a request of its own.
"""

from dataclasses import dataclass
from typing import Final

FOLLOWER: Final = b"GET /path?follower HTTP/1.1\r\nHost: shop.example\r\n\r\n"

_GET: Final = b"GET / HTTP/1.1\r\nHost: shop.example\r\n"
_POST: Final = b"POST /echo HTTP/1.1\r\nHost: shop.example\r\n"
_CHUNKED: Final = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Malformed:
    """One of them, and the status that refuses it."""

    name: str
    content: bytes
    status: int = 400


def malformed() -> list[Malformed]:
    """Return all of them."""
    return [
        *(Malformed(f"length: {name}", _POST + lines + b"\r\nhello") for name, lines in _LENGTHS.items()),
        *(
            Malformed(f"encoding: {name}", _POST + lines + b"\r\n0\r\n\r\n", status)
            for name, (lines, status) in _ENCODINGS.items()
        ),
        *(Malformed(f"chunk: {name}", _CHUNKED + body) for name, body in _CHUNKS.items()),
        *(Malformed(f"line end: {name}", content) for name, content in _LINE_ENDS.items()),
        *(Malformed(f"header: {name}", _GET + line + b"\r\n\r\n") for name, line in _HEADERS.items()),
        *(Malformed(f"host: {name}", content) for name, content in _HOSTS.items()),
        *(Malformed(f"start: {name}", content, status) for name, (content, status) in _STARTS.items()),
    ]


_LENGTHS: Final = {
    "with an encoding": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "behind an encoding": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "twice": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "twice the same": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "a list": b"Content-Length: 5, 5\r\n",
    "with a sign": b"Content-Length: +5\r\n",
    "negative": b"Content-Length: -5\r\n",
    "hexadecimal": b"Content-Length: 0x5\r\n",
    "with an underscore": b"Content-Length: 1_0\r\n",
    "with a space inside": b"Content-Length: 5 5\r\n",
    "with a space before the colon": b"Content-Length : 5\r\n",
    "with digits of another script": b"Content-Length: \xd9\xa5\r\n",
    "empty": b"Content-Length:\r\n",
    "beyond 64 bit": b"Content-Length: 18446744073709551621\r\n",
}

_ENCODINGS: Final = {
    "unknown": (b"Transfer-Encoding: xchunked\r\n", 501),
    "identity": (b"Transfer-Encoding: identity\r\n", 501),
    "chunked, then another": (b"Transfer-Encoding: chunked, gzip\r\n", 400),
    "another, then chunked": (b"Transfer-Encoding: gzip, chunked\r\n", 501),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked\r\n", 400),
    "in two lines": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
    "quoted": (b'Transfer-Encoding: "chunked"\r\n', 501),
    "behind a vertical tab": (b"Transfer-Encoding: \x0bchunked\r\n", 400),
    "folded": (b"Transfer-Encoding:\r\n chunked\r\n", 400),
    "with a space before the colon": (b"Transfer-Encoding : chunked\r\n", 400),
}

_CHUNKS: Final = {
    "hexadecimal prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "with a space": b"5 \r\nhello\r\n0\r\n\r\n",
    "beyond 64 bit": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "longer than said": b"3\r\nhello\r\n0\r\n\r\n",
    "no line end behind it": b"5\r\nhello0\r\n\r\n",
    "bare line feed behind the size": b"5\nhello\r\n0\r\n\r\n",
    "bare line feed behind the data": b"5\r\nhello\n0\r\n\r\n",
    "bare line feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "bare line feed at the end": b"5\r\nhello\r\n0\r\n\n",
}

_LINE_ENDS: Final = {
    "bare line feeds": b"GET / HTTP/1.1\nHost: shop.example\n\n",
    "a bare line feed behind the first line": b"GET / HTTP/1.1\nHost: shop.example\r\n\r\n",
    "a bare line feed in a header": _GET + b"X-A: b\nX-C: d\r\n\r\n",
    "a bare line feed at the end": _GET + b"\n",
    "a bare carriage return": _GET + b"X-A: b\rX-C: d\r\n\r\n",
    "two carriage returns": _GET + b"X-A: b\r\r\n\r\n",
}

_HEADERS: Final = {
    "folded": b"X-A: b\r\n c",
    "folded with a tab": b"X-A: b\r\n\tc",
    "space before the colon": b"X-A : b",
    "without a colon": b"X-A b",
    "without a name": b": b",
    "with a NUL": b"X-A: b\x00c",
    "with a control character": b"X-A: b\x01c",
    "a bracket in the name": b"X(A): b",
    "another alphabet in the name": b"X-\xc3\xa4: b",
}

_HOSTS: Final = {
    "none": b"GET / HTTP/1.1\r\n\r\n",
    "empty": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "twice": _GET + b"Host: other.example\r\n\r\n",
    "twice the same": _GET + b"Host: shop.example\r\n\r\n",
    "a list": b"GET / HTTP/1.1\r\nHost: shop.example, other.example\r\n\r\n",
    "with a path": b"GET / HTTP/1.1\r\nHost: shop.example/x\r\n\r\n",
    "with a name and password": b"GET / HTTP/1.1\r\nHost: me:secret@shop.example\r\n\r\n",
    "a port of letters": b"GET / HTTP/1.1\r\nHost: shop.example:http\r\n\r\n",
    "another one in the target": b"GET http://other.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\n Host: shop.example\r\n\r\n",
}

_STARTS: Final = {
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: shop.example\r\n\r\n", 400),
    "HTTP/2 with prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "an unknown method": (b"STEAL / HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a tunnel": (b"CONNECT shop.example:80 HTTP/1.1\r\nHost: shop.example\r\n\r\n", 501),
    "a target without a slash": (b"GET path HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a fragment in the target": (b"GET /path#x HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a star in place of a path": (b"GET * HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a control character in the target": (b"GET /\x01 HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "an encoding in HTTP/1.0": (
        b"POST /echo HTTP/1.0\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
}
