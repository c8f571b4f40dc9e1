"""Which tables the database changes by itself, for the shapes of foreign keys that no other test has."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import ForeignKey

from backstay.db._foreign_keys import tables_changed_with


def table(metadata: sa.MetaData, name: str, *keys: sa.Column[int]) -> sa.Table:
    return sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), *keys)


def test_tables_that_point_at_each_other_are_followed_once() -> None:
    metadata = sa.MetaData()
    first = table(metadata, "first", sa.Column("next_id", ForeignKey("second.id", ondelete="CASCADE")))
    table(
        metadata,
        "second",
        sa.Column("next_id", ForeignKey("first.id", ondelete="CASCADE")),
        sa.Column("own_id", ForeignKey("second.id", ondelete="CASCADE")),
    )
    assert tables_changed_with(first, update=None) == {"first", "second"}


def test_rows_whose_key_is_set_to_null_are_not_deleted() -> None:
    metadata = sa.MetaData()
    first = table(metadata, "first")
    table(metadata, "second", sa.Column("first_id", ForeignKey("first.id", ondelete="SET NULL")))
    table(metadata, "third", sa.Column("second_id", ForeignKey("second.id", ondelete="CASCADE")))
    assert tables_changed_with(first, update=None) == {"second"}


def test_keys_without_an_action_change_nothing() -> None:
    metadata = sa.MetaData()
    first = table(metadata, "first")
    table(metadata, "second", sa.Column("first_id", ForeignKey("first.id")))
    assert tables_changed_with(first, update=None) == set()
    assert tables_changed_with(first, update="UPDATE first SET id=1") == set()


def test_a_column_is_found_under_its_name_in_the_database() -> None:
    metadata = sa.MetaData()
    first = sa.Table("first", metadata, sa.Column("number", sa.Integer, key="id", primary_key=True))
    table(metadata, "second", sa.Column("first_id", ForeignKey("first.id", onupdate="CASCADE")))
    assert tables_changed_with(first, update="UPDATE first SET number=1") == {"second"}
    assert tables_changed_with(first, update="UPDATE first SET note=1 WHERE first.number=1") == set()


def test_a_column_that_nobody_declared_may_be_any() -> None:
    metadata = sa.MetaData()
    first = table(metadata, "first")
    table(metadata, "second", sa.Column("code", ForeignKey("first.code", onupdate="CASCADE")))
    assert tables_changed_with(first, update="UPDATE first SET note=1") == {"second"}


def test_a_table_that_comes_later_is_seen() -> None:
    metadata = sa.MetaData()
    first = table(metadata, "first")
    assert tables_changed_with(first, update=None) == set()
    table(metadata, "second", sa.Column("first_id", ForeignKey("first.id", ondelete="CASCADE")))
    assert tables_changed_with(first, update=None) == {"second"}


def test_schemas_are_left_out() -> None:
    metadata = sa.MetaData()
    first = sa.Table("First", metadata, sa.Column("id", sa.Integer, primary_key=True), schema="shop")
    table(metadata, "second", sa.Column("first_id", ForeignKey("shop.First.id", ondelete="CASCADE")))
    assert tables_changed_with(first, update=None) == {"second"}
