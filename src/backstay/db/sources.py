"""What a reader declares to read: the rows of a model, or one row of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper

from backstay.db._keys import Encoder, encode_key, encoder_of, encoders_of, has_same_key
from backstay.errors import ConfigurationError
from backstay.transaction import EVERYTHING, row_tag, table_tag, unknown_rows_tag

__all__ = ["ModelSource", "RowSource", "row", "source_of_model"]


def row(model: type[Any], *parameters: str) -> RowSource:
    """Declare that a function reads one row of a model, by its primary key.

    Args:
        model: The class whose row is read.
        *parameters: The function's parameter for each column of the primary key, in the order of the columns;
            the columns are integers, text or UUIDs.

    Raises:
        ConfigurationError: The model has another primary key, or it cannot be named by a parameter.
    """
    mapper = _mapper_of(model)
    _check_parameters(mapper, parameters)
    return RowSource(mapper, parameters)


def source_of_model(model: type[Any]) -> ModelSource:
    """Return all rows of a model as a source.

    Raises:
        ConfigurationError: The class has no table.
    """
    return ModelSource(_mapper_of(model))


def _mapper_of(model: object) -> Mapper[Any]:
    mapper = sa.inspect(model, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise ConfigurationError(
            f"{getattr(model, '__name__', repr(model))} has no table.",
            hint="Name a class that is mapped to one, such as class User(Model).",
        )
    return mapper


def _check_parameters(mapper: Mapper[Any], parameters: tuple[str, ...]) -> None:
    name, columns = mapper.class_.__name__, mapper.primary_key
    keys = [str(column.key) for column in columns]
    if not all(isinstance(parameter, str) and parameter.isidentifier() for parameter in parameters):
        raise ConfigurationError(
            f"row({name}, ...) takes names of parameters, not {', '.join(map(repr, parameters))}.",
            hint=f"Write {_example(name, keys)}.",
        )
    if len(parameters) != len(columns):
        raise ConfigurationError(
            f"{name} is found by {', '.join(keys)}, and row() was given {len(parameters)} parameter(s).",
            hint=f"Write {_example(name, keys)}; a lookup by other columns is reads=[{name}].",
        )
    for column in columns:
        if encoder_of(column) is None:
            raise ConfigurationError(
                f"{name}.{column.key} is a {type(column.type).__name__}, and row() takes integers, text "
                "without a collation, and UUIDs.",
                hint=f"Write reads=[{name}].",
            )
    if not all(has_same_key(mapper, table) for table in mapper.tables):
        raise ConfigurationError(
            f"{name} is not found by the primary key of its table.", hint=f"Write reads=[{name}]."
        )


def _example(name: str, keys: list[str]) -> str:
    shown = ", ".join(f'"{name.lower()}_{key}"' if key == "id" else f'"{key}"' for key in keys)
    return f"row({name}, {shown})"


class ModelSource:
    """All rows of a model: of its tables, and of those of the classes that inherit from it."""

    parameters: tuple[str, ...] = ()

    def __init__(self, mapper: Mapper[Any]) -> None:
        self.mapper = mapper
        self._seen: object = None
        self._tables: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.mapper.class_.__name__

    def tables(self) -> tuple[str, ...]:
        """Return the tables read."""
        mappers = self.mapper.self_and_descendants
        if mappers is not self._seen:  # a new one once another class inherits
            tables = {table_tag(table.name): None for mapper in mappers for table in mapper.tables}
            self._tables, self._seen = tuple(tables), mappers
        return self._tables

    def tags(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tags that a reader of all rows depends on."""
        return (*self.tables(), EVERYTHING)


class RowSource:
    """One row of a model, found by its primary key; made by `row()`."""

    def __init__(self, mapper: Mapper[Any], parameters: tuple[str, ...]) -> None:
        self.parameters = parameters
        self._model = ModelSource(mapper)
        self._encoders: tuple[Encoder, ...] = encoders_of(mapper.primary_key) or ()

    def __repr__(self) -> str:
        return f"row({', '.join([repr(self._model), *map(repr, self.parameters)])})"

    def tables(self) -> tuple[str, ...]:
        """Return the tables read: several with joined inheritance."""
        return self._model.tables()

    def tags(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tags of the row; those of the whole model when the arguments can be no key of it."""
        key = encode_key([arguments[name] for name in self.parameters], self._encoders)
        if key is None:
            return self._model.tags(arguments)
        tables = self._model.tables()
        rows = [row_tag(table, key) for table in tables]
        return (*rows, *map(unknown_rows_tag, tables), EVERYTHING)
