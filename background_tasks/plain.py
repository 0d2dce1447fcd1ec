"""`to_dict`: our own values as plain ones, which JSON has, for people and programs elsewhere.

Only what is known to be ours is taken; anything else is refused rather than shown, since what
users hand in or return may be secret. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from background_tasks.checks import shown
from background_tasks.errors import InvalidTypeError

__all__ = ["to_dict"]


def to_dict(
    value: object, *, leave_out: Collection[str] = (), add: Collection[str] = ()
) -> dict[str, Any]:
    """Return the fields of a dataclass or NamedTuple of ours, by name, as values that JSON has.

    Instants become ISO 8601 text, durations seconds, enum members their values, tuples lists; a
    value with a ``to_dict`` of its own, what that returns; infinity and NaN their names.

    Args:
        value: The object. A field that begins with an underscore is nobody's business.
        leave_out: Fields that are not wanted.
        add: Properties that are, after the fields.

    Raises:
        InvalidTypeError: A field holds something that is none of these.
    """
    names = [name for name in _field_names(value) if name not in leave_out and name[0] != "_"]
    return {name: _plain(getattr(value, name)) for name in (*names, *add)}


def _field_names(value: object) -> tuple[str, ...]:
    if is_dataclass(value):
        return tuple(field.name for field in fields(value))
    names: tuple[str, ...] = getattr(value, "_fields", ())
    return names


def _plain(value: Any) -> object:
    """Return *value* as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _composed(value)


def _composed(value: Any) -> object:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value) or hasattr(value, "_fields"):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    raise InvalidTypeError(f"to_dict must be given plain values, got {shown(value)}")
