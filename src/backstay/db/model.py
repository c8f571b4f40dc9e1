"""Tables: the typed parent of every model, what its annotations become, and the mixins."""

from __future__ import annotations

import enum
import re
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal, NewType, get_args, get_origin
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Mapper,
    RelationshipProperty,
    TypeResolve,
    declared_attr,
    has_inherited_table,
    mapped_column,
    strategies,
)
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from backstay.db.sources import ModelSource, source_of_model
from backstay.db.types import JSON, Enum, Float, Integer, JSONValue, Numeric, String, UTCDateTime, Uuid
from backstay.errors import ConfigurationError, UsageError

__all__ = ["NAMING_CONVENTION", "Model", "RelationshipNotLoadedError", "TimestampMixin", "new_id"]

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""How constraints are named: migrations can only change what has a name."""

_LOADED_IN_QUERY = "loaded_in_query"


class RelationshipNotLoadedError(UsageError, InvalidRequestError):
    """A relationship was read that the query did not load."""


class Model(DeclarativeBase):
    """The parent of every table.

    - Annotations become the portable types of `backstay.db.types`; a `Decimal` needs its digits.
    - The table is named after the class, in the plural: `OrderLine` becomes `order_lines`. An explicit
      `__tablename__` wins.
    - A relationship is loaded when the query says so: `select(Order).options(selectinload(Order.lines))`.
      Reading one that was not raises `RelationshipNotLoadedError`, unless the identity map has its row. An
      explicit `lazy=...` on the relationship wins; write `lazy=True` for SQLAlchemy's own default.
    - What the database computes (server defaults, `onupdate`) is there after the flush.
    - The repr shows the primary key and nothing else: other values may be secret.
    """

    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime,
        UUID: Uuid,
        str: String,
        int: Integer,
        float: Float,
    }

    @declared_attr.directive
    @classmethod
    def __tablename__(cls) -> str | None:
        return None if has_inherited_table(cls) else _table_name(cls.__name__)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        table = cls.__dict__.get("__table__")
        if isinstance(table, sa.Table):
            _check_enums(table)
            _refuse_bare_decimals(table)

    @classmethod
    def __backstay_source__(cls) -> ModelSource:
        """Return what `reads=[User]` stands for."""
        return source_of_model(cls)

    def __repr__(self) -> str:
        state = sa.inspect(self)
        keys = [state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key]
        values = state.identity or [state.dict.get(key) for key in keys]
        shown = ", ".join(f"{key}={value!r}" for key, value in zip(keys, values, strict=True))
        return f"{type(self).__name__}({shown})"


def _table_name(class_name: str) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
    if re.search(r"[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    return f"{name}es" if re.search(r"(s|x|z|ch|sh)$", name) else f"{name}s"


def _check_enums(table: sa.Table) -> None:
    for column in table.columns:
        if isinstance(column.type, Enum):
            # A constraint of the table: Alembic loses those of a type when the column is added later.
            allowed = column.in_([sa.literal_column(_quoted(text)) for text in column.type.texts])
            table.append_constraint(sa.CheckConstraint(allowed, name=column.name))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _refuse_bare_decimals(table: sa.Table) -> None:
    for column in table.columns:
        if isinstance(column.type, Numeric) and _is_compared_bare(column):
            raise ConfigurationError(
                f"{table.name}.{column.name} meets a bare number in a server default or a CHECK; SQLite "
                "would read it in the column's smallest unit.",
                hint='Use default=Decimal("..."), compare with 0 only, or check the value in Python.',
            )


def _is_compared_bare(column: sa.Column[Any]) -> bool:
    checks = [str(c.sqltext) for c in column.table.constraints if isinstance(c, sa.CheckConstraint)]
    return column.server_default is not None or any(
        re.search(rf"\b{re.escape(column.name)}\b", check) and re.search(r"\b\d*[1-9]", check)
        for check in checks
    )


@event.listens_for(Model, "resolve_type_annotation")
def _resolve_annotation(resolve: TypeResolve) -> TypeEngine[Any] | None:
    if resolve.raw_pep_695_type is JSONValue:
        return JSON()
    annotation: Any = resolve.resolved_type
    if isinstance(annotation, NewType):
        return resolve.resolve(annotation.__supertype__)
    origin = get_origin(annotation) or annotation
    if origin is Literal:
        return Enum(get_args(annotation))
    if not isinstance(origin, type):
        return None
    if issubclass(origin, enum.Enum):
        return Enum(origin)
    if issubclass(origin, Decimal):
        raise ConfigurationError(
            f"{resolve.cls.__name__}.{resolve.key} is a Decimal without its digits.",
            hint=f"Write {resolve.key}: Mapped[Decimal] = mapped_column(Numeric(12, 2)).",
        )
    return JSON() if issubclass(origin, (dict, list)) else None


@event.listens_for(Model, "before_mapper_configured", propagate=True)
def _set_defaults(mapper: Mapper[Any], cls: type[Any]) -> None:
    if mapper.eager_defaults == "auto":
        mapper.eager_defaults = True
    for relationship in _own_relationships(mapper):
        if relationship.lazy in ("select", "raise_on_sql"):
            relationship.lazy = "raise_on_sql"
            relationship.strategy_key = (("lazy", _LOADED_IN_QUERY),)
        if relationship.backref is not None:
            name, options = _backref_parts(relationship.backref)
            relationship.backref = (name, {"lazy": _LOADED_IN_QUERY, **options})


def _own_relationships(mapper: Mapper[Any]) -> Iterator[RelationshipProperty[Any]]:
    for attribute in mapper.iterate_properties:
        if isinstance(attribute, RelationshipProperty) and attribute.parent is mapper:
            yield attribute


def _backref_parts(backref: str | tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return (backref, {}) if isinstance(backref, str) else backref


@RelationshipProperty.strategy_for(lazy=_LOADED_IN_QUERY)
class _LoadedInQuery(strategies._LazyLoader):  # noqa: SLF001 - the one way to say how to mend it
    """SQLAlchemy's `raise_on_sql` under a key of our own, with a message that says what to write."""

    __slots__ = ()

    def __init__(self, parent: RelationshipProperty[Any], strategy_key: tuple[Any, ...]) -> None:
        super().__init__(parent, strategy_key)
        self._raise_on_sql = True

    @override
    def _invoke_raise_load(self, state: Any, passive: Any, lazy: str) -> None:
        model, name = self.parent.class_.__name__, self.key
        loader = "selectinload" if self.uselist else "joinedload"
        raise RelationshipNotLoadedError(
            f"{model}.{name} was not loaded. Load it in the query, "
            f"select({model}).options({loader}({model}.{name})), "
            f'or for one row: await session.refresh(row, ["{name}"]).'
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _moment_of_creation(context: DefaultExecutionContext) -> datetime:
    parameters = context.get_current_parameters()  # type: ignore[no-untyped-call]  # not annotated there
    created: datetime | None = parameters.get("created_at")
    return created or _now()


class TimestampMixin:
    """Adds `created_at` and `updated_at`, in UTC; equal until the first change.

    Python sets them, so they are there after the flush without a query. Bulk `update()` statements set
    `updated_at` too; raw SQL does not.
    """

    created_at: Mapped[datetime] = mapped_column(default=_now)
    updated_at: Mapped[datetime] = mapped_column(default=_moment_of_creation, onupdate=_now)


def new_id() -> UUID:
    """Return a new UUID of version 7 (RFC 9562): sorted by time, so that indexes grow at their end.

    Use it as a default: `id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)`. It tells its
    reader when the row was made; where that is a secret, use `uuid4`.
    """
    milliseconds, rest_nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (rest_nanoseconds << 12) // 1_000_000
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=value)
