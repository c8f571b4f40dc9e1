"""Values as bytes: JSON by the type that the function returns, if it can be read back the same."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any, Final, get_args, get_origin

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from backstay.errors import BackstayError, ConfigurationError

__all__ = ["CorruptPayloadError", "Payloads", "UnfaithfulValueError"]


class CorruptPayloadError(BackstayError):
    """A stored payload is not what the function returns."""


class UnfaithfulValueError(BackstayError):
    """A value would not come back from the cache as it went in."""


class Payloads:
    """Encodes and decodes what one function returns.

    Args:
        returns: The type that it returns.
        function: Its name, for errors and for the fingerprint.

    Raises:
        ConfigurationError: There is no such type, or it has no JSON form.
    """

    def __init__(self, returns: Any, *, function: str) -> None:
        self._function = function
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(returns)
            schema = json.dumps(self._adapter.json_schema(mode="serialization"), sort_keys=True)
        except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as error:
            raise ConfigurationError(
                f"{function} returns {_show(returns)}, which cannot be kept as JSON.",
                hint="Return a schema, such as UserRead, and annotate it; rows stay with their session.",
            ) from error
        self.fingerprint: Final = hashlib.sha256(f"{function}\n{schema}".encode()).hexdigest()[:10]

    def encode(self, value: Any) -> bytes:
        """Return the value as JSON.

        Raises:
            UnfaithfulValueError: What would be read back is something else, such as a masked secret.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                payload = self._adapter.dump_json(value, by_alias=True, round_trip=True)
            is_same = bool(self._adapter.validate_json(payload, by_alias=True, by_name=True) == value)
        except (PydanticSerializationError, ValidationError, UserWarning, ValueError) as error:
            raise UnfaithfulValueError(self._explain(value)) from error
        if not is_same:
            raise UnfaithfulValueError(self._explain(value))
        return payload

    def _explain(self, value: object) -> str:
        return (
            f"{self._function} returned a {type(value).__name__} that does not come back from JSON as it "
            "was, so it is not stored."
        )

    def decode(self, payload: bytes) -> Any:
        """Return the value of a payload.

        Raises:
            CorruptPayloadError: It is none of this function.
        """
        try:
            return self._adapter.validate_json(payload, by_alias=True, by_name=True)
        except ValidationError as error:
            raise CorruptPayloadError(f"A stored value of {self._function} cannot be read.") from error


def _show(returns: Any) -> str:
    return (
        str(returns)
        if get_origin(returns) or get_args(returns)
        else getattr(returns, "__name__", str(returns))
    )
