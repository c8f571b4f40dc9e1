"""The shapes that go over the wire: camelCase there, snake_case in Python.

Three base models (`Schema`, `InputSchema`, `PatchSchema`), one page of results (`Page`, `PageParams`) and one
order of results (`SortParams`), each with the limits that keep a caller from asking for too much.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, Self, TypeVar

from fastapi import Query, params
from fastapi.exceptions import RequestValidationError
from pydantic import MISSING, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from backstay.errors import ConfigurationError, did_you_mean
from backstay.redaction import REDACTED, sensitive_fields

__all__ = [
    "MAX_OFFSET",
    "InputSchema",
    "Page",
    "PageDep",
    "PageParams",
    "PatchSchema",
    "Schema",
    "SortKey",
    "SortParams",
    "sort_by",
]

MAX_OFFSET: Final = 10_000

T = TypeVar("T")


class Schema(BaseModel):
    """What a service answers: `created_at` in Python, `createdAt` on the wire.

    Builds itself from objects with attributes too, such as rows, and ignores what it does not know.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        from_attributes=True,
        hide_input_in_errors=True,
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        """Yield what the repr shows: a `Sensitive` field by its name only."""
        hidden = sensitive_fields(type(self))
        for name, value in super().__repr_args__():
            yield name, REDACTED if name in hidden else value


class InputSchema(Schema):
    """What a caller may send; unknown fields are refused, so that only what is listed here can be written."""

    model_config = ConfigDict(extra="forbid", from_attributes=False)


class PatchSchema(InputSchema):
    """A change of some fields, where an absent field and a null are two things.

    Declare each field as `name: str | MISSING = MISSING`, and as `str | MISSING | None` when null is a value.
    """

    def changes(self) -> dict[str, object]:
        """Return the fields that were given, by their Python names, in the order of their declaration."""
        given = (
            (name, getattr(self, name)) for name in type(self).model_fields if name in self.model_fields_set
        )
        return {name: value for name, value in given if value is not MISSING}


class PageParams(Schema):
    """Which page the caller wants; `?page=2&size=50` on the wire.

    The first row lies at most `MAX_OFFSET` rows in: the database has to read and drop every row before it.
    """

    model_config = ConfigDict(frozen=True)

    number: Annotated[
        int, Field(ge=1, alias="page", description="The number of the page; the first is 1.")
    ] = 1
    size: Annotated[int, Field(ge=1, le=100, description="How many items a page holds.")] = 20

    @property
    def offset(self) -> int:
        """How many rows come before this page."""
        return (self.number - 1) * self.size

    @property
    def limit(self) -> int:
        """How many rows this page may hold."""
        return self.size

    @model_validator(mode="after")
    def _refuse_deep_pages(self) -> Self:
        if self.offset > MAX_OFFSET:
            raise PydanticCustomError(
                "page_too_deep", f"A page starts at most {MAX_OFFSET} items in; narrow the search instead"
            )
        return self


PageDep = Annotated[PageParams, Query()]
"""The page that a request asks for, as a parameter of a handler."""


class Page(Schema, Generic[T]):
    """One page of a longer list."""

    items: list[T]
    total: Annotated[int, Field(ge=0, description="How many items there are on all pages.")]
    number: Annotated[int, Field(ge=1, alias="page", description="The number of this page; the first is 1.")]
    size: Annotated[int, Field(ge=1, description="How many items a page holds.")]

    @classmethod
    def of(cls, items: Iterable[object], params: PageParams, *, total: int) -> Self:
        """Return a page of `items`, which may be rows: `Page[UserRead].of(rows, params, total=3)`."""
        facts = {"items": list(items), "total": total, "number": params.number, "size": params.size}
        return cls.model_validate(facts, from_attributes=True)

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """Name `Page[UserRead]` as `UserReadPage`, a name that client generators can use as it is."""
        names = [
            getattr(param, "__name__", None) or re.sub(r"\W+", "_", str(param)).strip("_") for param in params
        ]
        return f"{''.join(names)}{cls.__name__}"


@dataclass(frozen=True, slots=True)
class SortKey:
    """One field to order by."""

    field: str
    """The Python name of the field."""
    descending: bool = False


@dataclass(frozen=True, slots=True)
class SortParams:
    """The order that the caller wants, the most significant field first.

    Comes from `sort_by`, so every field in it is one that the route allows.
    """

    keys: tuple[SortKey, ...] = ()

    def __iter__(self) -> Iterator[SortKey]:
        return iter(self.keys)


def sort_by(*fields: str, default: str = "") -> params.Depends:
    """Return a dependency that reads `?sort=-createdAt,name` and allows the given fields only.

    Write `sort: Annotated[SortParams, sort_by("name", "created_at")]` in a handler's signature. Any other
    field is answered with 422 and the list of those allowed.

    Args:
        *fields: The Python names of the fields that a caller may order by.
        default: The order when the caller names none, written like the parameter: `"-created_at,name"`.

    Raises:
        ConfigurationError: No field is given, or `default` names one that is not allowed.
    """
    wanted = _SortGrammar(fields)
    standard, written = wanted.check(default), wanted.on_the_wire(default)
    parameter = Query(description=_SORT_DESCRIPTION, json_schema_extra={"pattern": wanted.pattern()})

    # A coroutine on purpose: FastAPI would send a plain function to a thread.
    async def sort_params(
        sort: Annotated[str | SkipJsonSchema[None], parameter] = written,
    ) -> SortParams:
        return wanted.read(sort) if sort else standard

    return params.Depends(sort_params)


_SORT_DESCRIPTION: Final = "Fields to order by, separated by commas; a leading `-` descends."


class _SortGrammar:
    """What one `sort` parameter may say."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        if not fields:
            raise ConfigurationError(
                "sort_by() allows no field.", hint='Name some: sort_by("name", "created_at").'
            )
        self.names = {to_camel(field): field for field in fields}

    def check(self, text: str) -> SortParams:
        keys = tuple(
            SortKey(part.removeprefix("-"), part.startswith("-")) for part in text.split(",") if part
        )
        for key in keys:
            if key.field not in self.names.values():
                raise ConfigurationError(
                    f"sort_by() has the default {key.field!r}, which it does not allow."
                    f"{did_you_mean(key.field, self.names.values())}"
                )
        return SortParams(keys)

    def read(self, text: str) -> SortParams:
        keys = tuple(self._read_key(part) for part in text.split(",", maxsplit=len(self.names)))
        if len({key.field for key in keys}) < len(keys):
            raise self._refusal("repeated_sort_key", "Name each field once")
        return SortParams(keys)

    def pattern(self) -> str:
        key = f"-?({'|'.join(self.names)})"
        return f"^({key}(,{key})*)?$"

    def on_the_wire(self, text: str) -> str | None:
        return re.sub(r"\w+", lambda name: to_camel(name[0]), text) or None

    def _read_key(self, part: str) -> SortKey:
        field = self.names.get(part.removeprefix("-"))
        if field is None:
            raise self._refusal("unknown_sort_key", f"Sort by {', '.join(self.names)}; a leading - descends")
        return SortKey(field, part.startswith("-"))

    def _refusal(self, kind: str, message: str) -> RequestValidationError:
        return RequestValidationError([{"type": kind, "loc": ("query", "sort"), "msg": message}])
