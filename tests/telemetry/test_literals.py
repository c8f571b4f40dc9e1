"""A statement is shown without what somebody wrote into it."""

import pytest

from backstay.telemetry._literals import operation_of, strip_literals


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT * FROM users WHERE id = $1::UUID", "SELECT * FROM users WHERE id = $1::UUID"),
        ("SELECT name\n  FROM users\n WHERE id = ?", "SELECT name FROM users WHERE id = ?"),
        ("SELECT 1", "SELECT ?"),
        ("SELECT col1, t2.x FROM t2 LIMIT 10", "SELECT col1, t2.x FROM t2 LIMIT ?"),
        ("WHERE card = '4111' AND pin='12''34'", "WHERE card = ? AND pin=?"),
        (r"WHERE path = 'C:\' AND secret = 'canary'", "WHERE path = ? AND secret = ?"),
        (r"WHERE path = E'it\'s canary' AND b = 2", "WHERE path = ? AND b = ?"),
        ("DO $$ canary 'x' $$, $tag$ can$$ary $tag$", "DO ?, ?"),
        ("SELECT x'C0FFEE', 0xCAFE, 1.5e-3, .5", "SELECT ?, ?, ?, ?"),
        ("SELECT 1 -- canary\nFROM t /* canary */ WHERE a", "SELECT ? FROM t WHERE a"),
        ('SELECT "name" FROM "user" WHERE x = "the canary"', 'SELECT "name" FROM "user" WHERE x = ?'),
        ("SELECT 'canary that never ends", "SELECT ?"),
        ("SELECT /* canary that never ends", "SELECT"),
        ("SELECT u&'canary' , :name, @id", "SELECT ? , :name, @id"),
    ],
)
def test_a_literal_becomes_a_question_mark(statement: str, shown: str) -> None:
    assert strip_literals(statement) == shown


def test_a_long_statement_is_cut() -> None:
    assert len(strip_literals("SELECT " + "column, " * 1000)) == 2_000


@pytest.mark.parametrize(
    ("statement", "operation"), [("select ?", "SELECT"), ("BEGIN IMMEDIATE", "BEGIN"), ("(SELECT ?)", "SQL")]
)
def test_an_operation_is_the_first_word(statement: str, operation: str) -> None:
    assert operation_of(statement) == operation
