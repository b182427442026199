"""How a parameter is described, once for every front end: command line, tab, API, infotext, XYZ grid.

A job's parameters are a dataclass of `option` fields; a field's metadata (`Option`) holds what a front end shows:
label, help, range, choices, and its infotext key.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .errors import UserError

MAXIMUM_TEXT = 10_000


class ParamError(UserError, ValueError):
    """A parameter is out of range or contradicts another; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Option:
    """What a front end shows for a field. minimum and maximum are inclusive."""

    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None
    infotext: str | None = None  # key in the PNG text, beginning with "NegTrans"
    group: str | None = None  # the panel's folded part that it is in
    applies: tuple[str, tuple[Any, ...]] | None = None  # (field, values) under which it does anything at all
    lines: int = 1  # of a text's box
    before: Any = None  # the value of pictures that were made before there was this option, where not the default


def option(default: Any, label: str, help: str, **limits: Any) -> Any:
    """A dataclass field with an `Option`."""
    return field(default=default, metadata={"option": Option(label, help, **limits)})


def is_text(value: str) -> bool:
    """Whether no character is half a surrogate pair: such ones come out of JSON, and fail wherever they are written."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


@dataclass
class Params:
    """What the parameter models of all jobs have in common."""

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Field name -> Option, in order."""
        return {f.name: f.metadata["option"] for f in dataclasses.fields(cls) if "option" in f.metadata}

    def applies(self, name: str) -> bool:
        """Whether this option does anything, given the others: a top-k ratio does not without top-k."""
        condition = self.options()[name].applies
        return condition is None or getattr(self, condition[0]) in condition[1]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """From plain data, validated. Raises ParamError for unknown names."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ParamError(f"unknown parameter {unknown[0]!r}; known are {', '.join(sorted(known))}.")
        kinds = {name: type(default) for name, default in vars(cls()).items()}

        def typed(name: str, value: Any) -> Any:
            # JSON of another program may write whole numbers as 2.0; a text for a number is refused by its range
            number_as_text = isinstance(value, str) and kinds[name] in (int, float)
            return value if number_as_text or type(value) is kinds[name] else cls.typed(name, value)

        return cls(**{name: typed(name, value) for name, value in values.items()}).validate()

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> Any:
        """From a file of this or another version, which may name options that are no more. Raises ParamError."""
        known = cls.options()
        return cls.from_dict({name: value for name, value in values.items() if name in known})

    @classmethod
    def from_given(cls, given: dict[str, Any]) -> Any:
        """From what a page's components hold, validated; an emptied one is its default. Raises ParamError."""
        return cls.from_dict({name: cls.typed(name, value) for name, value in given.items() if value is not None})

    @classmethod
    def typed(cls, name: str, value: Any) -> Any:
        """A value from a control, a request, a command line or a PNG's text as the option's type. Raises ParamError.

        Texts lose the blanks around them; 2.0 is a whole number, 2.7 is none.
        """
        kind, label = type(getattr(cls(), name)), cls.options()[name].label
        if kind is str:
            if not isinstance(value, str):
                raise ParamError(f"{label} must be text, not {value!r}.")
            return value.strip()
        if kind is bool:
            if not isinstance(value, bool):
                raise ParamError(f"{label} must be true or false, not {value!r}.")
            return value
        try:
            number = Decimal(str(value).strip())  # a float would round a large seed
        except ArithmeticError:
            raise ParamError(f"{label} must be a number, not {value!r}.") from None
        if kind is int and not (number.is_finite() and number == number.to_integral_value()):
            raise ParamError(f"{label} must be a whole number, not {value!r}.")
        return kind(number)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def validate(self) -> Any:
        """Check every range and choice and give self back; raises ParamError."""
        for name, opt in self.options().items():
            value = getattr(self, name)
            if isinstance(value, str) and len(value) > MAXIMUM_TEXT:
                raise ParamError(f"{opt.label} is longer than {MAXIMUM_TEXT} characters: make it shorter.")
            if isinstance(value, str) and not is_text(value):
                raise ParamError(f"{opt.label} has half a character, which no file can hold: type it again.")
            if opt.choices is not None and value not in opt.choices:
                raise ParamError(f"{opt.label} must be one of {', '.join(opt.choices)}, not {value!r}.")
            if opt.minimum is not None or opt.maximum is not None:
                low = -math.inf if opt.minimum is None else opt.minimum
                high = math.inf if opt.maximum is None else opt.maximum
                if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                    raise ParamError(f"{opt.label} must lie between {low:g} and {high:g}, not {value!r}.")
        return self
