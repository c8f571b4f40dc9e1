"""Values that a column takes: of its type, within its length, its digits and the simple CHECKs."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from backstay.db.types import Enum, UTCDateTime

__all__ = ["Limits", "draw", "is_unique", "limits_of"]

_TEXT_LENGTH = 12
_MOST = 10_000
_FIRST_MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
_MOMENTS_SECONDS = 5 * 365 * 24 * 60 * 60

_NUMBER = r"\(?(-?\d+(?:\.\d+)?)\)?"
_COMPARED = re.compile(
    rf"(?P<length>(?:char_)?length\()?(?:\"?\w+\"?\.)?\"?(?P<column>\w+)\"?\)?\s*(?P<sign>>=|<=|>|<)\s*{_NUMBER}"
)
_BETWEEN = re.compile(
    rf"(?:\w+\.)?\"?(?P<column>\w+)\"?\s+BETWEEN\s+{_NUMBER}\s+AND\s+{_NUMBER}", re.IGNORECASE
)
_UNIQUE = ("UniqueConstraint", "PrimaryKeyConstraint")
_NOT_SIMPLE = re.compile(r"\b(OR|NOT|CASE)\b", re.IGNORECASE)


@dataclass(slots=True)
class Limits:
    """What the CHECKs of a table say about one column; None is no limit."""

    least: Decimal | None = None
    most: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None
    shortest: int = 1
    longest: int | None = None


def limits_of(column: Any) -> Limits:
    """Return the limits of a column: its length, and comparisons with numbers and BETWEEN in CHECKs."""
    limits = Limits(longest=getattr(column.type, "length", None))
    for check in _checks(column):
        for match in _BETWEEN.finditer(check):
            if match["column"] == column.name:
                limits.least, limits.most = Decimal(match[2]), Decimal(match[3])
        for match in _COMPARED.finditer(check):
            if match["column"] == column.name:
                _narrow(limits, match["sign"], Decimal(match[4]), is_length=match["length"] is not None)
    return limits


def _checks(column: Any) -> Iterator[str]:
    for constraint in (*column.table.constraints, *column.constraints):
        if hasattr(constraint, "sqltext"):
            text = str(constraint.sqltext.compile(compile_kwargs={"literal_binds": True}))
            if not _NOT_SIMPLE.search(text):
                yield text


def _narrow(limits: Limits, sign: str, number: Decimal, *, is_length: bool) -> None:
    if not is_length:
        setattr(limits, {">=": "least", "<=": "most", ">": "above", "<": "below"}[sign], number)
    elif sign.startswith(">"):
        limits.shortest = int(number) + (sign == ">")
    else:
        longest = int(number) - (sign == "<")
        limits.longest = longest if limits.longest is None else min(longest, limits.longest)


def is_unique(column: Any) -> bool:
    """Return whether no two rows may share the column's value."""
    table = column.table
    indexes = [index for index in table.indexes if index.unique]
    constraints = [one for one in table.constraints if type(one).__name__ in _UNIQUE]
    return any([part.name for part in one.columns] == [column.name] for one in (*indexes, *constraints))


def draw(column: Any, python_type: object, random: Random) -> object:
    """Return a value for a column; NotImplemented for a type that nothing is known about here."""
    limits = limits_of(column)
    if isinstance(column.type, Enum):
        members = column.type.members
        return random.choice(members if isinstance(members, tuple) else list(members))
    if isinstance(column.type, UTCDateTime):
        return _FIRST_MOMENT + timedelta(seconds=random.randrange(_MOMENTS_SECONDS))
    if python_type is str:
        return _text(limits, random)
    if python_type is Decimal:
        return _number(limits, random, scale=column.type.scale, precision=column.type.precision)
    if python_type is int or python_type is float:
        number = _number(limits, random, scale=0 if python_type is int else 3, precision=15)
        return python_type(number)
    return NotImplemented


def _text(limits: Limits, random: Random) -> str:
    length = max(limits.shortest, _TEXT_LENGTH)
    length = length if limits.longest is None else min(length, limits.longest)
    return "".join(random.choices(string.ascii_lowercase, k=length))


def _number(limits: Limits, random: Random, *, scale: int, precision: int) -> Decimal:
    """Draw in the smallest unit, where every number is exact."""
    unit = Decimal(1).scaleb(-scale)
    lows = [limits.least, None if limits.above is None else limits.above + unit]
    highs = [limits.most, None if limits.below is None else limits.below - unit]
    most_digits = Decimal(10**precision - 1) * unit
    high = min([most_digits, *(number for number in highs if number is not None)])
    low = max([-most_digits, *(number for number in lows if number is not None)])
    if all(number is None for number in lows):
        low = min(unit, high)
    if all(number is None for number in highs):
        high = min(high, low + _MOST)
    units = random.randint(int((low / unit).to_integral_value("ROUND_CEILING")), int(high / unit))
    return units * unit
