"""What the rate limits said to one request, and the headers that tell its caller.

The headers are those of draft-ietf-httpapi-ratelimit-headers-11, lists of structured fields (RFC 9651).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from backstay.cache.limits import Quota, Verdict

__all__ = ["LimitRecord", "policy_of", "whole_seconds"]


@dataclass(slots=True)
class LimitRecord:
    """The verdicts of one request; a repetition of it is given them again and counts nothing."""

    _verdicts: dict[str, list[Verdict | None]] = field(default_factory=dict)
    _asked: Counter[str] = field(default_factory=Counter)
    _shown: dict[str, tuple[Quota, Verdict | None]] = field(default_factory=dict)

    def begin_attempt(self) -> None:
        """Start again: the same hits come in the same order."""
        self._asked.clear()

    def recall(self, key: str) -> tuple[Verdict | None, ...]:
        """Return the verdict of an earlier attempt on this hit, alone; nothing when there is none."""
        index = self._asked[key]
        self._asked[key] += 1
        return tuple(self._verdicts.get(key, [])[index : index + 1])

    def keep(self, key: str, verdict: Verdict | None) -> None:
        """Remember the verdict on a hit."""
        self._verdicts.setdefault(key, []).append(verdict)

    def show(self, name: str, quota: Quota, verdict: Verdict | None) -> None:
        """Let the response tell of a limit; None when nothing was counted."""
        self._shown[name] = (quota, verdict)

    def headers(self) -> dict[str, str]:
        """Return what the response tells its caller."""
        policies = [policy_of(name, quota) for name, (quota, _) in self._shown.items()]
        states = [
            f"{_quote(name)};r={verdict.remaining};t={whole_seconds(verdict.seconds)}"
            for name, (_, verdict) in self._shown.items()
            if verdict is not None
        ]
        headers = {"RateLimit-Policy": ", ".join(policies)} if policies else {}
        return {**headers, "RateLimit": ", ".join(states)} if states else headers


def policy_of(name: str, quota: Quota) -> str:
    """Return a quota as a member of `RateLimit-Policy`."""
    return f"{_quote(name)};q={quota.limit};w={whole_seconds(quota.per.total_seconds())}"


def whole_seconds(seconds: float) -> int:
    """Return seconds for a header: whole ones, never too few, at least one."""
    return max(1, math.ceil(seconds))


def _quote(name: str) -> str:
    # A template holds nothing that would have to be escaped.
    return f'"{name}"'
