"""Logins, one-time tokens and API keys: tables of the library's own, and the statements on them.

Nothing in them lets anybody in: tokens and keys are stored as digests. What makes and digests them is the
room `security`, which comes in as a `TokenMaker`.
"""

from backstay.db.tokens._making import TokenMaker
from backstay.db.tokens._tables import api_key_tables, one_time_token_tables, session_tables
from backstay.db.tokens.api_keys import ApiKeyRecord, ApiKeys
from backstay.db.tokens.one_time import OneTimeTokens, Taken
from backstay.db.tokens.sessions import (
    Begun,
    RefusedRenewal,
    Renewal,
    Renewed,
    ReuseDetected,
    Sessions,
    SessionState,
)

__all__ = [
    "ApiKeyRecord",
    "ApiKeys",
    "Begun",
    "OneTimeTokens",
    "RefusedRenewal",
    "Renewal",
    "Renewed",
    "ReuseDetected",
    "SessionState",
    "Sessions",
    "Taken",
    "TokenMaker",
    "api_key_tables",
    "one_time_token_tables",
    "session_tables",
]
