"""What must not be shown: by key, by type and by the look of a text.

Every room that shows anything (logs, problems, traces, `explain`) asks here. Masking too much costs a second
look, masking too little costs a password: whatever cannot be looked into is not shown.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias, TypeGuard, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

__all__ = ["REDACTED", "Redactor", "Sensitive", "is_sensitive_key", "redact_url", "sensitive_fields"]

REDACTED: Final = "[redacted]"


class Sensitive:
    """Mark a field as never to be shown: `email: Annotated[str, Sensitive]`.

    Works on fields of Pydantic models and of dataclasses, anywhere in the annotation. It hides the value
    from whatever goes through a `Redactor`; what a route answers with is not changed. For secrets prefer
    `SecretStr`, which hides itself from `repr` too.
    """

    __slots__ = ()


def is_sensitive_key(key: str) -> bool:
    """Return whether a value under this key must not be shown.

    Whole words are compared, whatever the case and the separators: `userPassword`, `X-API-Key` and
    `db_token2` are sensitive; `tokenizer`, `pinned` and `author` are not. Neither is a key that only tells
    about a secret: `token_type`, `password_changed_at`, `has_pin`, `max_tokens`.
    """
    return _BUILT_IN[key]


def redact_url(url: str) -> str:
    """Return the URL with the password of its user and the sensitive values of its query masked."""
    return _BUILT_IN_REDACTOR.redact_text(url)


class Redactor:
    """Mask what must not be shown, by key, by type and by the look of a text.

    Args:
        extra_keys: Sensitive keys besides the built-in ones, compared in the same way: `shoe_size` also
            catches `customerShoeSize`.
    """

    __slots__ = ("_verdicts",)

    def __init__(self, extra_keys: Collection[str] = ()) -> None:
        self._verdicts = _Verdicts(extra_keys) if extra_keys else _BUILT_IN

    def is_sensitive_key(self, key: str) -> bool:
        """Return whether a value under this key must not be shown."""
        return self._verdicts[key]

    def redact(self, value: object) -> object:
        """Return the value with everything sensitive in it masked, or the very same object if nothing is.

        Looks into mappings, sequences, sets, named tuples, dataclasses and Pydantic models; of the last
        three, one that holds something sensitive becomes a dict. Containers that are nested deeper than 32
        levels, or in themselves, are masked as a whole. Under a sensitive key, None, True and False stay.
        """
        return self._redact(value, ())

    def redact_text(self, text: str) -> str:
        """Return the text without passwords in URLs, `key=value` secrets, bearer tokens and private keys.

        Understands `key=value` and `"key": "value"` with sensitive keys, `Authorization` and `Cookie` header
        lines, `Bearer` followed by at least 16 characters, JSON web tokens and PEM blocks.
        """
        if len(text) < _SHORTEST_TOKEN and "=" not in text and ":" not in text:
            return text
        return self._redact_suspicious(text)

    def _redact_suspicious(self, text: str) -> str:
        for sign, pattern, replacement in _TEXT_RULES:
            if sign in text:
                text = pattern.sub(replacement, text)
        if "=" in text:
            text = _ASSIGNMENT.sub(self._redact_pair, text)
        if '":' in text or "':" in text:
            text = _QUOTED_PAIR.sub(self._redact_pair, text)
        return text

    def _redact_pair(self, found: re.Match[str]) -> str:
        return f"{found['start']}{REDACTED}" if self._verdicts[found["key"]] else found[0]

    def _redact(self, value: object, ancestors: tuple[int, ...]) -> object:
        if type(value) in _PLAIN:
            return value
        if isinstance(value, str):
            shown = self.redact_text(value)
            return value if shown == value else shown
        if isinstance(value, _SECRETS):
            return REDACTED
        if isinstance(value, bytes | bytearray):
            return self._redact_bytes(value)
        if id(value) in ancestors or len(ancestors) >= _DEPTH_LIMIT:
            return REDACTED
        return self._redact_container(value, (*ancestors, id(value)))

    def _redact_bytes(self, value: bytes | bytearray) -> object:
        # Latin-1 maps each byte to one character and back, so that nothing else changes.
        text = value.decode("latin-1")
        shown = self.redact_text(text)
        return value if shown == text else shown.encode("latin-1")

    def _redact_container(self, value: object, ancestors: tuple[int, ...]) -> object:
        if isinstance(value, Mapping):
            return self._redact_mapping(value, value, ancestors)
        fields = _read_fields(value)
        if fields is not None:
            return self._redact_mapping(value, fields, ancestors, masked=sensitive_fields(type(value)))
        if isinstance(value, Sequence):
            return self._redact_sequence(value, ancestors)
        if isinstance(value, AbstractSet):
            shown = [self._redact(item, ancestors) for item in value]
            return value if _are_same(shown, value) else set(shown)
        return value

    def _redact_mapping(
        self,
        original: object,
        mapping: Mapping[Any, object],
        ancestors: tuple[int, ...],
        *,
        masked: Collection[str] = (),
    ) -> object:
        verdicts = self._verdicts
        changes: dict[Any, object] = {}
        # Each log line passes here: exact types first, and no call for what most values are.
        for key, value in mapping.items():
            kind = type(value)
            if verdicts[key] if type(key) is str else self._is_sensitive(key):
                shown = value if kind in _TELLS_NOTHING else REDACTED
            elif kind in _PLAIN or (
                kind is str
                and len(value) < _SHORTEST_TOKEN  # type: ignore[arg-type]  # mypy does not follow `kind`
                and "=" not in value  # type: ignore[operator]  # the same
                and ":" not in value  # type: ignore[operator]  # the same
            ):
                continue
            else:
                shown = self._redact(value, ancestors)
            if shown is not value:
                changes[key] = shown
        for key in masked:
            if mapping.get(key) is not None:
                changes[key] = REDACTED
        return {**mapping, **changes} if changes else original

    def _is_sensitive(self, key: object) -> bool:
        return _is_text(key) and self._verdicts[_as_text(key)]

    def _redact_sequence(self, value: Sequence[object], ancestors: tuple[int, ...]) -> object:
        # A pair such as (b"authorization", b"Bearer ...") is how ASGI and many clients hold one header.
        if isinstance(value, tuple) and len(value) == 2 and self._is_sensitive(value[0]):
            name, content = value
            return value if type(content) in _TELLS_NOTHING or content == REDACTED else (name, REDACTED)
        shown = [self._redact(item, ancestors) for item in value]
        if _are_same(shown, value):
            return value
        return tuple(shown) if isinstance(value, tuple) else shown


def sensitive_fields(kind: type) -> frozenset[str]:
    """Return the names of the fields of a Pydantic model or dataclass that are marked `Sensitive`."""
    return _sensitive_fields(kind)


# By key


class _Verdicts(dict[str, bool]):
    """Remember per key whether it is sensitive: one dict look-up for a key that was seen before."""

    __slots__ = ("_extra",)

    def __init__(self, extra_keys: Collection[str]) -> None:
        super().__init__()
        self._extra = _compile_extra_keys(extra_keys)

    def __missing__(self, key: str) -> bool:
        words = _split_words(key)
        verdict = _is_secret(words) or (self._extra is not None and self._extra.search(words) is not None)
        # Keys may come from a caller's JSON: neither many nor long ones may fill the memory.
        if len(key) <= _CACHED_KEY_CHARACTERS:
            if len(self) >= _CACHED_KEYS:
                self.clear()
            self[key] = verdict
        return verdict


_CACHED_KEYS: Final = 4096
_CACHED_KEY_CHARACTERS: Final = 80


def _split_words(key: str) -> str:
    """Return the words of a key in lower case between underscores: `X-APIKey` becomes `_x_api_key_`."""
    return f"_{_WORD_BORDER.sub('_', key).strip('_').lower()}_"


_WORD_BORDER: Final = re.compile(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _is_secret(words: str) -> bool:
    return _SECRET_WORDS.search(words) is not None and _HARMLESS_WORDS.search(words) is None


# A word may carry a prefix written without a border (`dbpassword`) and a number (`password2`).
_SECRET_WORDS: Final = re.compile(
    r"_(?:[^\W_]*(?:password|passwd|passphrase|secret|token|cookie|credential|api_?key)s?"
    r"|pwd|passcode|otp|totp|pin|cvv|cvc|jwt|bearer|signature|sig|csrf|xsrf|ssn|authorization"
    r"|(?<=^_)auth(?=_$)"
    r"|(?:private|access|signing|encryption|master|account|shared|hmac)_?keys?"
    r"|session_?ids?|sessid|phpsessid|jsessionid"
    r")\d*_"
)
# Such keys tell about a secret and do not hold one.
_HARMLESS_WORDS: Final = re.compile(
    r"^_(?:has|is|max|min|num|total|requires)_"
    r"|_(?:at|in|count|type|types|length|limit|policy|ttl|expires|expiry|usage)_$"
)


def _compile_extra_keys(extra_keys: Collection[str]) -> re.Pattern[str] | None:
    words = [_split_words(key).strip("_").replace("_", "_?") for key in extra_keys]
    alternatives = "|".join(word for word in words if word)
    return re.compile(rf"_(?:{alternatives})\d*_") if alternatives else None


def _is_text(key: object) -> TypeGuard[str | bytes]:
    return isinstance(key, str | bytes)


def _as_text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")


# By the look of a text

_Replacement: TypeAlias = str | Callable[[re.Match[str]], str]
_SHORTEST_TOKEN: Final = 20

# Each with a sign to look for first, since `in` costs a twentieth of a search. Possessive quantifiers keep
# the time linear in the length of the text, whoever wrote it.
_TEXT_RULES: Final[tuple[tuple[str, re.Pattern[str], _Replacement], ...]] = (
    # A password may hold / and @; digits up to a slash are a port; another :// starts another URL.
    (
        "://",
        re.compile(r"""(://[^\s/?#@:\[]*+:)(?!\d{1,5}(?:[/?#]|\s|$))(?:(?!://)[^\s"'<>])*(?=@)"""),
        rf"\1{REDACTED}",
    ),
    ("uthorization", re.compile(r"(?i)\b(authorization\s*+:\s*+)[^\s\"'][^\r\n]*+"), rf"\1{REDACTED}"),
    ("ookie", re.compile(r"(?i)\b(cookie\s*+:\s*+)[^\s\"'][^\r\n]*+"), rf"\1{REDACTED}"),
    ("eyJ", re.compile(r"\beyJ[\w\-]{5,}+(?:\.[\w\-]*+){2,4}"), REDACTED),
    ("earer", re.compile(r"(?i)\b(bearer\s++)[\w.~+/=\-]{16,}+"), rf"\1{REDACTED}"),
    (
        "PRIVATE KEY-----",
        re.compile(r"(?s)(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----).*?(?:(?=-----END)|\Z)"),
        rf"\1{REDACTED}",
    ),
)
_BARE_OR_QUOTED: Final = (
    r"""(?:(?<=["'])(?:(?!(?P=quote))[^\\]|\\.)*+|(?<!["'])(?:\[redacted\]|[^\s&;,"'<>)\]}])++)"""
)
_ASSIGNMENT: Final = re.compile(
    r"""(?P<start>(?<![\w.\-])(?P<key>[\w.\-]++)=(?P<quote>["']?))""" + _BARE_OR_QUOTED
)
_QUOTED_PAIR: Final = re.compile(
    r"""(?P<start>["'](?P<key>[\w.\- ]++)["']\s*+:\s*+(?:b?(?P<quote>["'])|(?=[\w+\-])))""" + _BARE_OR_QUOTED
)


# By type

_SECRETS: Final = (SecretStr, SecretBytes, Secret)
_PLAIN: Final = frozenset({int, float, bool, type(None)})
_TELLS_NOTHING: Final = frozenset({bool, type(None)})
_DEPTH_LIMIT: Final = 32


def _read_fields(value: object) -> Mapping[str, object] | None:
    """Return the fields of a model, dataclass or named tuple by name; None for anything else."""
    if isinstance(value, BaseModel):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, Sequence) and callable(as_dict := getattr(value, "_asdict", None)):
        return dict(as_dict())
    return None


@lru_cache(maxsize=1024)
def _sensitive_fields(kind: type) -> frozenset[str]:
    if issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return frozenset(
            name for name, field in fields if _has_marker(field.metadata) or _is_marked(field.annotation)
        )
    if not dataclasses.is_dataclass(kind):
        return frozenset()
    annotations = get_type_hints(kind, include_extras=True)
    return frozenset(
        field.name for field in dataclasses.fields(kind) if _is_marked(annotations.get(field.name))
    )


def _is_marked(annotation: object) -> bool:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return _has_marker(metadata) or _is_marked(inner)
    aliased = getattr(annotation, "__value__", None)  # of `type Email = Annotated[str, Sensitive]`
    return (aliased is not None and _is_marked(aliased)) or any(map(_is_marked, get_args(annotation)))


def _has_marker(metadata: Iterable[object]) -> bool:
    return any(item is Sensitive or isinstance(item, Sensitive) for item in metadata)


def _are_same(shown: Iterable[object], original: Iterable[object]) -> bool:
    return all(new is old for new, old in zip(shown, original, strict=True))


_BUILT_IN: Final = _Verdicts(())
_BUILT_IN_REDACTOR: Final = Redactor()
