"""What users write as text: ``--set key=value`` for fields of dataclasses, and ``I/N`` for parts of a job."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

from datool.errors import DatoolError, lookup

Value = TypeVar("Value")


def split(setting: str) -> tuple[str, str]:
    """Return the key and the text of ``key=value``.

    Raises:
        DatoolError: it is none.
    """
    key, sign, text = setting.partition("=")
    if not (key and sign):
        raise DatoolError(f"cannot apply --set {setting}: expected key=value.")
    return key, text


def changed(value: Value, settings: Iterable[tuple[str, str]], noun: str) -> Value:
    """Return a dataclass with fields replaced, all at once, so that they are checked together.

    Args:
        value: an instance of a dataclass.
        settings: a field (``a``, or ``a.b`` for a field of a field) and what it becomes, as JSON or as plain text:
            lists are ``0.9,0.99`` or ``[0.9,0.99]``, words ``garg`` or ``"garg"``, and ``inf`` is a number.
        noun: what a field is called in messages, such as "recipe field".
    Raises:
        DatoolError: no such field, or a text that is no value of its type.
    """
    assert is_dataclass(value) and not isinstance(value, type)
    known, new = _types(type(value)), dict[str, Any]()
    for key, text in settings:
        head, _, rest = key.partition(".")
        kind = lookup(known, head, noun)
        current = new.get(head, getattr(value, head))
        if not rest:
            new[head] = _typed(text.strip(), kind, head, current, noun)
        elif is_dataclass(current):
            new[head] = changed(current, [(rest, text)], noun)
        else:
            raise DatoolError(f"cannot set {key}: {head} is {current!r}.", f"Give it first: --set {head}={{}}.")
    return replace(value, **new) if new else value


def from_json(value: Any, kind: Any, key: str, noun: str) -> Any:
    """Return a JSON value as a type: lists become tuples, objects dataclasses, whole numbers may stand for floats.

    Args:
        value: as `json.loads` gives it.
        kind: a type of a field.
        key, noun: the field's name, and what it is, for messages.
    Raises:
        DatoolError: it is of another type.
    """
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        return None if value is None else from_json(value, typing.get_args(kind)[0], key, noun)
    if origin is tuple and isinstance(value, list):
        kinds = _kinds(kind, len(value))
        if len(kinds) == len(value):
            return tuple(from_json(item, each, key, noun) for item, each in zip(value, kinds, strict=True))
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        known = _types(kind)
        return kind(**{name: from_json(item, lookup(known, name, noun), name, noun) for name, item in value.items()})
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and type(value) is kind:
        return value
    raise DatoolError(f"{noun} '{key}' is {_name(kind)}, got {value!r}.")


def as_text(value: object) -> str:
    """Return a value as ``--set`` takes it: one text for each, whichever form it was given in."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_part(part: tuple[int, int], option: str) -> None:
    """Refuse a part that is none of its N, which are counted from 0 as schedulers count the tasks of an array.

    Raises:
        DatoolError: it is not.
    """
    number, count = part
    if not 0 <= number < count:
        known = (
            f"{option} is counted from 0: 0/{count} to {count - 1}/{count}." if count > 1 else f"{option} 0/1 is all."
        )
        raise DatoolError(f"{option} {number}/{count} cannot be.", known)


def _typed(text: str, kind: Any, key: str, current: object, noun: str) -> Any:
    try:
        parsed = _parsed(text, kind)
    except ValueError as error:
        example = "" if current in (None, ()) or is_dataclass(current) else f", such as {as_text(current)}"
        raise DatoolError(
            f"cannot apply --set {key}={text}: '{text}' is not a value of {key}, expected {_name(kind)}{example}."
        ) from error
    return from_json(parsed, kind, key, noun)


def _parsed(text: str, kind: Any) -> Any:
    """Return what a text says, as `json.loads` would give it.

    Raises:
        ValueError: it says nothing of this kind.
    """
    if typing.get_origin(kind) is types.UnionType:
        return None if text in ("null", "none") else _parsed(text, typing.get_args(kind)[0])
    if kind is str:
        return json.loads(text) if text.startswith('"') else text
    if kind is float:
        if math.isnan(number := float(text)):
            raise ValueError(text)
        return number
    if kind is bool:
        return json.loads(text.lower())
    if typing.get_origin(kind) is tuple and not text.startswith("["):
        words = [word.strip() for word in text.split(",") if word.strip()]
        kinds = _kinds(kind, len(words))
        if len(kinds) != len(words):
            raise ValueError(text)
        return [_parsed(word, each) for word, each in zip(words, kinds, strict=True)]
    return json.loads(text)


def _kinds(kind: Any, length: int) -> tuple[Any, ...]:
    """Return the type of each item of a tuple of so many."""
    kinds = typing.get_args(kind)
    return (kinds[0],) * length if kinds[-1] is Ellipsis else kinds


@cache
def _types(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass, and their types."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _name(kind: Any) -> str:
    """Return a type in words: float, 2 of float, list of str, float or null."""
    if typing.get_origin(kind) is types.UnionType:
        return " or ".join("null" if each is type(None) else _name(each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        return f"list of {_name(kinds[0])}" if kinds[-1] is Ellipsis else f"[{', '.join(map(_name, kinds))}]"
    return "an object" if is_dataclass(kind) else str(kind.__name__)
