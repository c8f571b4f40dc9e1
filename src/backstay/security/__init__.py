"""Who calls: principals, the tokens and keys that prove it, passwords. No tool for the web and no table.

`keys` holds what signs, `tokens` issues and verifies access tokens, `passwords` checks and hashes, `opaque`
and `api_keys` make what is only ever stored as a digest. docs/decisions/0013-tokens-and-keys.md says why so.
"""

from backstay.security.principal import Principal

__all__ = ["Principal"]
