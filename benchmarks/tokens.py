"""What the strict rules cost: an access token is verified about as quickly as by PyJWT with its own few.

Run it with `python benchmarks/tokens.py`; it exits with 1 when the bound is missed. The contenders take
turns, and a ratio is the median of those of the rounds, so that it holds on a shared machine too. It also
tells what a token costs with each algorithm, and what a password costs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns
from typing import get_args

import jwt

from backstay.security.keys import KeyRing, generate_key
from backstay.security.passwords import Passwords
from backstay.security.tokens import AccessTokens
from backstay.settings import SecuritySettings
from backstay.settings.security import SigningAlgorithm

ISSUER = "https://shop.example"
ROUNDS = 40
CALLS = 50
HASHES = 20
BOUND = 1.25

Contender = Callable[[], object]


def time_calls(call: Contender) -> float:
    """Return the microseconds that one of several calls takes."""
    begin = perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (perf_counter_ns() - begin) / CALLS / 1000


def make_contenders(algorithm: SigningAlgorithm) -> tuple[Contender, Contender, Contender]:
    """Return what issues a token, what verifies it, and PyJWT's way to verify it."""
    ring = KeyRing((generate_key(algorithm),))
    tokens = AccessTokens(SecuritySettings(), lambda: ring, issuer=ISSUER, audience=ISSUER)

    def issue() -> str:
        issued = tokens.issue("7", client_id="web", scopes=["orders:read"], session="s1")
        return issued.token.get_secret_value()

    token, key = issue(), ring.keys[0].public.material

    def verify_plainly() -> object:
        return jwt.decode(token, key, [algorithm], audience=ISSUER, issuer=ISSUER)

    return issue, lambda: tokens.verify(token), verify_plainly


async def time_hash() -> float:
    """Return the milliseconds that verifying a password takes."""
    times = []
    async with Passwords(SecuritySettings()) as passwords:
        for _ in range(HASHES):
            begin = perf_counter_ns()
            await passwords.verify("correct horse battery staple", None)
            times.append((perf_counter_ns() - begin) / 1e6)
    return median(times)


def main() -> int:
    """Measure, print, and return the exit code."""
    worst = 0.0
    for algorithm in get_args(SigningAlgorithm):
        contenders = make_contenders(algorithm)
        rounds = [[time_calls(call) for call in contenders] for _ in range(ROUNDS)]
        issue, verify, plain = (min(times) for times in zip(*rounds, strict=True))
        ratio = median(ours / theirs for _, ours, theirs in rounds)
        worst = max(worst, ratio)
        print(f"{algorithm}: issued in {issue:.0f} us, verified in {verify:.0f} us; PyJWT: {plain:.0f} us")
    print(f"A password is verified in {asyncio.run(time_hash()):.1f} ms.")
    print(f"An access token is verified in {worst:.2f} times the time of PyJWT alone (bound {BOUND:g}).")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
