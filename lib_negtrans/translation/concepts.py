"""Concepts as they are written: `AND_TOPK wool :0.6` in a prompt, or one a line as `wool :3 | threshold=0.8 warmup=2`.

The words AND_PERP, AND_SALT and AND_TOPK, and the weight behind a text, are those of ljleb's sd-webui-neutral-prompt;
its groups in square brackets are refused. In the negative prompt a concept is pushed away from.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from lib_negtrans.core.guidance import VARIANTS, Concept, Variant
from lib_negtrans.core.guidance.topk import ConceptTopK
from lib_negtrans.options import ParamError

MAXIMUM = 20  # each is a row of the model at every step
MAXIMUM_WEIGHT = 100.0
DEFAULT_KIND = "sega"
_DEFAULT_WEIGHTS = {"sega": 5.0}  # its authors'; of the other kinds 1
_KINDS: dict[str, type[Variant]] = {**VARIANTS, "topk": ConceptTopK}
_WORDS = {"AND": "cfg", "AND_PERP": "perp", "AND_SALT": "salience", "AND_TOPK": "topk"}
_WORD = re.compile(r"\b(AND(?:_PERP|_SALT|_TOPK)?)\b")
CONCEPT_WORD = re.compile(r"\bAND_(?:PERP|SALT|TOPK)\b")
_WEIGHT = re.compile(r":\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))$")
_SCHEDULE = ("warmup", "cooldown")


@dataclass(frozen=True)
class Steering:
    """The texts that a guided prediction is made from: both prompts without their concepts, and all concepts."""

    prompt: str
    negative_prompt: str
    concepts: tuple[Concept, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the concepts, each once."""
        return tuple(dict.fromkeys(c.text for c in self.concepts))


def steering(prompt: str, negative_prompt: str, lines: str = "", *, composes_and: bool = False) -> Steering:
    """Both prompts and the lines taken apart; concepts of weight 0 are left out. Raises ParamError in one sentence.

    composes_and: the host itself joins prompts by AND, which are then left in the prompt. In the negative prompt they
    always are: no host joins those.
    """
    towards, concepts = _split(prompt, composes_and)
    away, others = _split(negative_prompt, True)
    concepts += [replace(c, weight=-c.weight) for c in others]
    concepts += [concept for _line, concept in numbered(lines)]
    concepts = [c for c in concepts if c.weight]
    if len(concepts) > MAXIMUM:
        raise ParamError(f"These are {len(concepts)} concepts: leave {MAXIMUM} at most, as each takes a model call.")
    return Steering(towards, away, tuple(concepts))


def _split(prompt: str, keeps_and: bool) -> tuple[str, list[Concept]]:
    """What is left of a prompt, and its concepts."""
    if not (CONCEPT_WORD if keeps_and else _WORD).search(prompt):
        return prompt, []
    pieces = _WORD.split(prompt)
    for at in range(1, len(pieces), 2):
        if _opened("".join(pieces[:at])) > 0 and "]" in "".join(pieces[at:]):
            raise ParamError(
                f"{pieces[at]} within square brackets is not supported: write one concept after the other."
            )
    first, parts = pieces[0].strip(), list(zip(pieces[1::2], pieces[2::2], strict=True))
    concepts = []
    if keeps_and:
        first = " AND ".join([first, *(text.strip() for word, text in parts if word == "AND")])
        parts = [(word, text) for word, text in parts if word != "AND"]
    else:
        first, own = _text_and_weight(first)
        # the first prompt's own weight: as much more or less of its direction
        concepts.append(Concept(first, _KINDS["cfg"](), 0.0 if own is None else own - 1))
    for word, part in parts:
        text, weight = _weighted(part, 1.0, word)
        concepts.append(Concept(text, _KINDS[_WORDS[word]](), weight))
    return first, concepts


def _opened(text: str) -> int:
    plain = re.sub(r"\\.", "", text)
    return plain.count("[") - plain.count("]")


def _text_and_weight(text: str) -> tuple[str, float | None]:
    text = text.strip()
    found = _WEIGHT.search(text)
    return (text, None) if found is None else (text[: found.start()].strip(), float(found[1]))


def _weighted(text: str, default: float, where: str) -> tuple[str, float]:
    bare, weight = _text_and_weight(text)
    weight = default if weight is None else weight
    if not bare:
        raise ParamError(f"{where} has no text: write what to push towards, such as wool.")
    if abs(weight) > MAXIMUM_WEIGHT:
        raise ParamError(f"{where} has the weight {weight:g}: it must lie between -100 and 100.")
    return bare, weight


def numbered(lines: str) -> list[tuple[int, Concept]]:
    """The concept of each line that is not empty, with the line's number from 0. Raises ParamError."""
    return [(number, _of_line(line, number + 1)) for number, line in enumerate(lines.splitlines()) if line.strip()]


def with_weight(lines: str, number: int, weight: float) -> str:
    """The lines with another weight for their concept `number`, counted from 1. Raises ParamError where none is."""
    found = numbered(lines)
    if not 1 <= number <= len(found):
        raise ParamError(f"There is no concept {number}: Concepts has {len(found)}, one a line.")
    at, texts = found[number - 1][0], lines.splitlines()
    text, options = _apart(texts[at])
    texts[at] = " ".join(filter(None, (f"{_text_and_weight(text)[0]} :{weight:g}", options and f"| {options.strip()}")))
    return "\n".join(texts)


def written(concept: Concept) -> str:
    """A concept in few words, for a summary: `wool :0.6 (topk)`."""
    return f"{concept.text} :{concept.weight:g} ({concept.variant.name})"


def _apart(line: str) -> tuple[str, str]:
    """Text and options of a line; a bar in square brackets belongs to the text."""
    text, bar, options = line.rpartition("|")
    return (text, options) if bar and "]" not in options else (line, "")


def _of_line(line: str, number: int) -> Concept:
    where = f"Line {number} of Concepts"
    text, options = _apart(line)
    given = _pairs(options, where)
    kind = given.pop("kind", DEFAULT_KIND)
    if kind not in _KINDS:
        raise ParamError(f"{where}: kind must be one of {', '.join(_KINDS)}, not {kind}.")
    text, weight = _weighted(text, _DEFAULT_WEIGHTS.get(kind, 1.0), where)
    if word := _WORD.search(text) or re.search(r"<\w+:[^>]+>", text):
        raise ParamError(f"{where}: {word[0]} belongs in the prompt, not here; the kind is written as | kind=topk.")
    variant = _KINDS[kind]()
    fields = {field.name: field for field in dataclasses.fields(variant) if field.init}
    schedule = {name: getattr(variant, name, 0) for name in _SCHEDULE}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "weight":
            raise ParamError(f"{where}: the weight is written behind the text, such as {text} :3.")
        if name not in {*fields, *_SCHEDULE}:
            taken = ", ".join(dict.fromkeys(["kind", *_SCHEDULE, *fields]))
            raise ParamError(f"{where}: a concept of kind {kind} has no option {name}; it takes {taken}.")
        whole = name in _SCHEDULE
        low, high = (0, 999) if whole else (fields[name].metadata["minimum"], fields[name].metadata["maximum"])
        values[name] = _number(value, name, whole, (low, high), where)
    schedule |= {name: values.pop(name) for name in _SCHEDULE if name in values}
    # the concept's own schedule is the only one
    always = dict.fromkeys(name for name in _SCHEDULE if name in fields)
    return Concept(text, replace(variant, **values, **dict.fromkeys(always, 0)), weight, **schedule)


def _pairs(options: str, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in re.sub(" ?= ?", "=", " ".join(options.replace(",", " ").split())).split():
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise ParamError(f"{where}: options are written as name=value, such as threshold=0.8, not {pair}.")
        found[name.lower()] = value
    return found


def _number(text: str, name: str, whole: bool, limits: tuple[float, float], where: str) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not limits[0] <= value <= limits[1]:
        kind = "a whole number" if whole else "a number"
        raise ParamError(f"{where}: {name} must be {kind} between {limits[0]:g} and {limits[1]:g}, not {text}.")
    return value


def lines_of(given: Iterable[str]) -> str:
    """Several concepts as one text."""
    return "\n".join(text.strip() for text in given)
