"""What a service that faces the world should be like, as checks with the row numbers of SECURITY.md.

They look at the settings and at the routes of an app, and start nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from backstay.app import _deployed_routes as routes
from backstay.app import _deployed_settings as settings
from backstay.app._deployed import Finding, Service
from backstay.errors import ConfigurationError, did_you_mean

__all__ = ["CHECKS", "Check", "Finding", "Outcome", "Service", "check_deployment"]

_Find: TypeAlias = Callable[[Service], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One row of SECURITY.md that a program can look after.

    Attributes:
        row: Its number there: `S20`.
        claim: What is so when nothing is found.
    """

    row: str
    claim: str
    find: _Find


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check came to; without findings, its claim holds."""

    check: Check
    findings: tuple[Finding, ...]


CHECKS: tuple[Check, ...] = (
    Check("S1", "Each route says who may call it.", routes.find_silent_routes),
    Check("S3", "Input models refuse what they do not know.", routes.find_open_inputs),
    Check("S4", "Each route says what it answers, and no answer holds a secret.", routes.find_loose_answers),
    Check("S5", "No page is larger than 100.", routes.find_large_pages),
    Check("S6", "Passwords have 15 characters at least.", settings.find_short_passwords),
    Check("S11", "Who verifies access tokens cannot make them.", settings.find_shared_keys),
    Check("S19", "JSON is only taken with its content type.", routes.find_lax_content_types),
    Check("S20", "Pages of other origins are named, and served over HTTPS.", settings.find_wide_origins),
    Check("S21", "Every answer carries the security headers.", settings.find_missing_headers),
    Check("S22", "Errors tell callers nothing about the inside.", settings.find_open_errors),
    Check("S24", "Documentation and metrics are not for everyone.", settings.find_exposed_pages),
    Check("S25", "Secrets have at least 128 bits.", settings.find_weak_secrets),
    Check("S26", "Each request leaves a line, and details stay out of the log.", settings.find_bad_logs),
    Check(
        "S30", "Only named proxies are believed, and only named hosts answered for.", settings.find_wide_trust
    ),
    Check("S37", "Links to other machines are encrypted and verified.", settings.find_plain_links),
    Check("S38", "Redis asks for a user of its own.", settings.find_open_redis),
    Check("S41", "JSON that readers understand in several ways is refused.", settings.find_unclear_json),
    Check("S42", "No route answers TRACE or CONNECT.", routes.find_odd_methods),
    Check("S43", "Every dependency is pinned with its hash.", settings.find_loose_dependencies),
)


def check_deployment(service: Service, *, ignored: Sequence[str] = ()) -> list[Outcome]:
    """Return what each check finds, in the order of the rows.

    Args:
        service: What is to be deployed, with the settings that it is to be deployed with.
        ignored: Rows to leave out.

    Raises:
        ConfigurationError: No check has such a row.
    """
    _refuse_unknown(ignored, known=[check.row for check in CHECKS])
    return [Outcome(check, tuple(check.find(service))) for check in CHECKS if check.row not in ignored]


def _refuse_unknown(rows: Iterable[str], *, known: Sequence[str]) -> None:
    for row in rows:
        if row not in known:
            raise ConfigurationError(
                f"No check is called {row!r}.{did_you_mean(row, known)}",
                hint=f"There are {', '.join(known)}.",
            )
