"""Rows to test with: a factory knows a table's columns and fills in what a test does not care about.

    class ProductFactory(RowFactory[Product]):
        name = Use(lambda: "Teapot")

    product = await ProductFactory.create(session, price=Decimal("9.50"))
    category = await factory_for(Category).create(session)
    products = await ProductFactory.create_batch(session, 3, category=category)

`Use` and the other ways to declare a value are polyfactory's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from faker import Faker
from polyfactory.factories.base import BuildContext
from polyfactory.factories.sqlalchemy_factory import SQLAlchemyFactory
from polyfactory.field_meta import FieldMeta

from backstay.db import AsyncSession
from backstay.db.types import JSON
from backstay.errors import UsageError
from backstay.testing._column_values import draw, is_unique
from backstay.testing.seeding import Chance, chance

__all__ = ["RowFactory", "factory_for"]

T = TypeVar("T")


class RowFactory(SQLAlchemyFactory[T], Generic[T]):
    """Makes rows of one Model: `class ProductFactory(RowFactory[Product])`.

    Only what must be there and has no default is made up: columns with a default, generated keys and foreign
    keys that may be null are left to the database. Values keep to the column's length and digits and to
    simple CHECKs, and are new in the test where the column is unique. A row that must refer to another one
    gets it: a new parent for each row, unless one is given. Values depend on the test's id only.

    A parent is made by the factory that the class names, as in `category = CategoryFactory`, else by the one
    that says `__set_as_default_factory_for_type__ = True`, else by `factory_for`.
    """

    __is_base_factory__ = True
    __set_relationships__ = False
    __set_association_proxy__ = False
    __faker__ = Faker()

    seeded_by: ClassVar[Chance | None] = None
    """What the numbers of the present test come from; not for use in tests."""

    @classmethod
    async def create(cls, session: AsyncSession, **values: Any) -> T:
        """Add one row and flush it; commit to show it to others.

        Args:
            session: The session it belongs to.
            **values: Of columns and relationships, by the Model's names.

        Raises:
            UsageError: A value cannot be made up; the message says which one to give.
        """
        _seed()
        for reference in _references(cls.__model__):
            if cls._needs_parent(reference, values):
                values.update(reference.to(await cls._parent_factory(reference).create(session)))
        row = cls.build(**values)
        session.add(row)
        await session.flush()
        return row

    @classmethod
    async def create_batch(cls, session: AsyncSession, size: int, **values: Any) -> list[T]:
        """Add several rows that share `values`, and flush them."""
        return [await cls.create(session, **values) for _ in range(size)]

    @classmethod
    def _needs_parent(cls, reference: _Reference, values: dict[str, Any]) -> bool:
        names = reference.names
        if not names.isdisjoint(values):
            return False
        return all(_is_row_factory(getattr(cls, name)) for name in names & _declared(cls))

    @classmethod
    def _parent_factory(cls, reference: _Reference) -> type[RowFactory[Any]]:
        for name in reference.names & _declared(cls):
            declared: type[RowFactory[Any]] = getattr(cls, name)
            return declared
        model = reference.model
        if model is None or model is cls.__model__:
            raise UsageError(
                f"{cls.__name__} cannot make up {', '.join(reference.keys)}, which refers to "
                f"{reference.constraint.referred_table.name}: give a value."
            )
        registered: Any = cls._factory_type_mapping.get(model)
        return registered or factory_for(model)

    @classmethod
    def should_column_be_set(cls, column: Any) -> bool:
        """Return whether a value is made up for a column."""
        mapper = _mapper(cls.__model__)
        if mapper.get_property_by_column(column).key in _declared(cls):
            return True
        is_given_elsewhere = (
            column.default is not None
            or column.server_default is not None
            or column is column.table.autoincrement_column
            or column is mapper.polymorphic_on
            or column is mapper.version_id_col
        )
        return not is_given_elsewhere and not column.foreign_keys

    @classmethod
    def get_model_fields(cls) -> list[FieldMeta]:
        """Return the columns to fill in, and the relationships that the factory declares."""
        declared = _declared(cls).intersection(_mapper(cls.__model__).relationships.keys())
        relationships = [FieldMeta.from_type(annotation=object, name=name) for name in sorted(declared)]
        return [*super().get_model_fields(), *relationships]

    @classmethod
    def get_field_value(
        cls,
        field_meta: FieldMeta,
        field_build_parameters: Any | None = None,
        build_context: BuildContext | None = None,
    ) -> Any:
        """Return a value for a column, new in this test where the column is unique."""
        _seed()
        column = _mapper(cls.__model__).columns[field_meta.name]

        def draw_one() -> Any:
            value = cls._draw(column, field_meta.name)
            if value is NotImplemented:
                return super(RowFactory, cls).get_field_value(
                    field_meta, field_build_parameters, build_context
                )
            return value

        if not is_unique(column):
            return draw_one()
        value = chance().unused((column.table.fullname, column.name), draw_one)
        if value is None:
            raise UsageError(
                f"{cls.__name__} finds no unused value for the unique column {column.name}: give one."
            )
        return value

    @classmethod
    def _draw(cls, column: Any, name: str) -> Any:
        if isinstance(column.type, JSON):
            return _empty_json(cls.__model__, name)
        return draw(column, _bare(cls._get_type_from_type_engine(column.type)), chance().random)


@cache
def factory_for(model: type[T]) -> type[RowFactory[T]]:
    """Return the standard factory of a Model, for tests that declare none."""
    factory: Any = RowFactory.create_factory(model)
    return factory  # type: ignore[no-any-return]  # polyfactory types it as its own base class


@dataclass(frozen=True, slots=True)
class _Reference:
    """A foreign key that every row must have."""

    constraint: Any
    keys: tuple[str, ...]
    """The attributes that hold it."""
    relationship: Any
    """The relationship over it; None when there is none."""
    model: Any
    """What it refers to; None for a table without a Model."""

    @property
    def names(self) -> frozenset[str]:
        """The attributes that may set it."""
        return frozenset(self.keys if self.relationship is None else (*self.keys, self.relationship.key))

    def to(self, parent: object) -> dict[str, object]:
        """Return the values that make a row refer to `parent`."""
        if self.relationship is not None:
            return {self.relationship.key: parent}
        mapper = _mapper(type(parent))
        targets = [mapper.get_property_by_column(element.column).key for element in self.constraint.elements]
        return {key: getattr(parent, target) for key, target in zip(self.keys, targets, strict=True)}


def _references(model: Any) -> Iterator[_Reference]:
    """Return the foreign keys that every row must have, those that join it to its parent class aside."""
    mapper = _mapper(model)
    inherited = () if mapper.inherits is None else mapper.inherits.tables
    for constraint in sorted(mapper.local_table.foreign_key_constraints, key=lambda one: one.column_keys):
        is_optional = any(column.nullable for column in constraint.columns)
        if not is_optional and constraint.referred_table not in inherited:
            keys = tuple(mapper.get_property_by_column(column).key for column in constraint.columns)
            relationship = _relationship_over(mapper, constraint)
            yield _Reference(constraint, keys, relationship, _model_of(mapper, constraint.referred_table))


def _relationship_over(mapper: Any, constraint: Any) -> Any:
    columns = set(constraint.columns)
    for relationship in mapper.relationships:
        is_to_parent = relationship.direction.name == "MANYTOONE" and not relationship.viewonly
        if is_to_parent and set(relationship.local_columns) == columns:
            return relationship
    return None


def _model_of(mapper: Any, table: Any) -> Any:
    return next((other.class_ for other in mapper.registry.mappers if other.local_table is table), None)


def _seed() -> None:
    present = chance()
    if RowFactory.seeded_by is not present:
        RowFactory.seeded_by = present
        RowFactory.__random__ = present.random
        RowFactory.__faker__.seed_instance(present.seed)


def _mapper(model: Any) -> Any:
    return model.__mapper__


def _declared(factory: type[Any]) -> frozenset[str]:
    """Return the names that a factory and its parents below `RowFactory` declare."""
    classes = factory.__mro__[: factory.__mro__.index(RowFactory)]
    return frozenset(name for one in classes for name in vars(one) if not name.startswith("_"))


def _is_row_factory(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, RowFactory)


def _bare(annotation: Any) -> object:
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _empty_json(model: Any, name: str) -> object:
    """Return an empty list where the Model's annotation says list, else an empty object."""
    kinds = get_args(get_type_hints(model).get(name))  # of Mapped[list[str]], Mapped[list[str] | None]
    kinds = (*kinds, *(inner for kind in kinds for inner in get_args(kind)))
    return [] if list in {get_origin(kind) or kind for kind in kinds} else {}
