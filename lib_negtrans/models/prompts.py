"""Prompts as the webui means them: weights, BREAK, embedding names, chunks of 75 tokens. No model, no host.

The semantics are those of A1111 v1.10.1 with its default options (emphasis "Original", comma backtrack 20). Two of its
slips are not repeated: BREAK inside weighted brackets still breaks, and an embedding that comma backtracking moves into
the next chunk takes its vectors along. What the webui handles before the tokens and this module does not (editing as in
`[a:b:0.5]` and `[a|b]`, AND and its like, `<lora:...>`) is refused by `PromptError`: read as plain text it would be
silently wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_negtrans.errors import UserError

CHUNK_LENGTH = 75
ROUND_WEIGHT = 1.1
SQUARE_WEIGHT = 1 / 1.1

_LEXEME = re.compile(r"\\[()\[\]\\]?|:\s*(?P<weight>[+-]?[\d.]+)\s*\)|[()\[\]:]|[^\\()\[\]:]+")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_EDIT_END = re.compile(r":\s*[+-]?(\d+\.?\d*|\.\d+)\s*$")
_EXTRA_NETWORK = re.compile(r"<\w+:[^>]+>")


class PromptError(UserError, ValueError):
    """A prompt that cannot be read as the webui would read it; the message is one sentence."""


@dataclass(frozen=True)
class Segment:
    """A run of text with one weight; with `is_break` no text, but the end of a chunk."""

    text: str
    weight: float = 1.0
    is_break: bool = False


@dataclass(frozen=True)
class Chunk:
    """77 token ids with their 77 multipliers, and which embedding's vectors stand where.

    splices: (position, name), position counted in the 77 ids, so that the first word's is 1.
    """

    tokens: tuple[int, ...]
    multipliers: tuple[float, ...]
    splices: tuple[tuple[int, str], ...] = ()


def refuse_unsupported(prompt: str) -> None:
    """Raises PromptError where the webui would do something that happens outside the text encoder."""
    if found := re.search(r"\bAND(?:_PERP|_SALT|_TOPK)?\b", prompt):
        raise PromptError(
            f"{found[0]} (several prompts in one) works only in a translation's prompt: use a comma here, or 'and' if "
            "the word is meant."
        )
    if found := _EXTRA_NETWORK.search(prompt):
        raise PromptError(f"{found[0]} works only in the webui: take it out, and name a LoRA's file with --lora.")
    opened: list[tuple[str, int]] = []
    for found in re.finditer(r"\\.|[()\[\]|]", prompt, re.S):
        mark, at = found[0], found.start()
        if mark in "([":
            opened.append((mark, at))
        elif mark in ")]":
            inside_square = bool(opened) and opened[-1][0] == "["
            if mark == "]" and inside_square and _EDIT_END.search(prompt[opened[-1][1] + 1 : at]):
                _refuse_editing(prompt[opened[-1][1] : at + 1])
            if opened and (mark == "]") == inside_square:
                opened.pop()
        elif mark == "|" and opened and opened[-1][0] == "[" and "]" in prompt[at:]:
            _refuse_editing(prompt[opened[-1][1] :])


def _refuse_editing(text: str) -> None:
    shown = text if len(text) <= 60 else text[:57] + "..."
    raise PromptError(
        f"Prompt editing such as {shown} works only in the webui: write one of the two texts, "
        "or \\[ for a bracket that is meant literally."
    )


def parse_attention(prompt: str) -> list[Segment]:
    """`(word)` x1.1, `(word:1.3)` x1.3, `[word]` /1.1, nested; `\\(` and the like are literal; BREAK ends a chunk.

    Neighbours of equal weight are joined. An unclosed bracket counts to the end, a closing one without partner is text.
    Raises PromptError for a weight such as `(word:1.2.3)`.
    """
    texts: list[str | None] = []  # None stands for BREAK
    weights: list[float] = []
    round_starts: list[int] = []
    square_starts: list[int] = []

    def scale_from(start: int, factor: float) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for found in _LEXEME.finditer(prompt):
        lexeme = found[0]
        if lexeme[0] == "\\":
            texts.append(lexeme[1:])
            weights.append(1.0)
        elif lexeme == "(":
            round_starts.append(len(texts))
        elif lexeme == "[":
            square_starts.append(len(texts))
        elif found["weight"] is not None and round_starts:
            scale_from(round_starts.pop(), _weight(found["weight"]))
        elif lexeme == ")" and round_starts:
            scale_from(round_starts.pop(), ROUND_WEIGHT)
        elif lexeme == "]" and square_starts:
            scale_from(square_starts.pop(), SQUARE_WEIGHT)
        else:
            for number, part in enumerate(_BREAK.split(lexeme)):
                new = [part] if number == 0 else [None, part]
                texts += new
                weights += [1.0] * len(new)
    for start in round_starts:
        scale_from(start, ROUND_WEIGHT)
    for start in square_starts:
        scale_from(start, SQUARE_WEIGHT)

    segments: list[Segment] = []
    for text, weight in zip(texts, weights, strict=True):
        if text is None:
            segments.append(Segment("", 1.0, is_break=True))
        elif segments and not segments[-1].is_break and segments[-1].weight == weight:
            segments[-1] = Segment(segments[-1].text + text, weight)
        else:
            segments.append(Segment(text, weight))
    return segments or [Segment("")]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PromptError(f"'{text}' is not a weight: write a number such as (word:1.2).") from None


@dataclass(frozen=True)
class PromptTokenizer:
    """Turns prompts into chunks.

    tokenize: texts -> ids of each, without begin and end; comma: the id of a comma that ends a word, or None;
    comma_backtrack: how many tokens after the last comma may move on to the next chunk (0 = none).
    """

    tokenize: Callable[[list[str]], list[list[int]]]
    begin: int
    end: int
    comma: int | None
    comma_backtrack: int = 20

    @classmethod
    def from_clip(cls, tokenizer) -> PromptTokenizer:
        """From a transformers CLIPTokenizer."""

        def tokenize(texts: list[str]) -> list[list[int]]:
            return tokenizer(texts, truncation=False, add_special_tokens=False, verbose=False)["input_ids"]

        return cls(tokenize, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.get_vocab().get(",</w>"))

    def chunks(self, prompt: str, vectors: Mapping[str, int] | None = None) -> list[Chunk]:
        """The chunks of one prompt, at least one. vectors: trigger word -> how many vectors it stands for (1..75).

        A trigger is found by its token ids, the longest first: so `Neg` finds `neg`, and `x-2` is found in `x-20`.
        Raises PromptError for what cannot be read, ValueError for a number of vectors that no chunk can hold.
        """
        refuse_unsupported(prompt)
        triggers = self._triggers(vectors or {})
        segments = parse_attention(prompt)
        builder = _ChunkBuilder(self)
        for segment, ids in zip(segments, self.tokenize([segment.text for segment in segments]), strict=True):
            if segment.is_break:
                builder.close()
                continue
            position = 0
            while position < len(ids):
                builder.make_room(ids[position])
                found = next(((t, name) for t, name in triggers if ids[position : position + len(t)] == t), None)
                if found:
                    builder.add_embedding(found[1], (vectors or {})[found[1]], segment.weight)
                    position += len(found[0])
                else:
                    builder.add_token(ids[position], segment.weight)
                    position += 1
        return builder.finish()

    def _triggers(self, vectors: Mapping[str, int]) -> list[tuple[list[int], str]]:
        for name, count in vectors.items():
            if not 1 <= count <= CHUNK_LENGTH:
                raise ValueError(f"The embedding {name} has {count} vectors; a prompt chunk holds 1 to {CHUNK_LENGTH}.")
        ids = self.tokenize(list(vectors)) if vectors else []
        triggers = [(trigger, name) for trigger, name in zip(ids, vectors, strict=True) if trigger]
        return sorted(triggers, key=lambda pair: len(pair[0]), reverse=True)

    def empty_chunk(self) -> Chunk:
        """What shorter prompts of a batch are filled up with."""
        return Chunk((self.begin,) + (self.end,) * (CHUNK_LENGTH + 1), (1.0,) * (CHUNK_LENGTH + 2))

    def batch(self, prompts: Sequence[str], vectors: Mapping[str, int] | None = None) -> list[list[Chunk]]:
        """The chunks of several prompts, all filled up to as many chunks as the longest has."""
        rows = [self.chunks(prompt, vectors) for prompt in prompts]
        longest = max((len(row) for row in rows), default=0)
        return [row + [self.empty_chunk()] * (longest - len(row)) for row in rows]


class _ChunkBuilder:
    """The chunk being filled, and those done."""

    def __init__(self, rules: PromptTokenizer):
        self.rules = rules
        self.done: list[Chunk] = []
        self._clear()

    def _clear(self) -> None:
        self.tokens: list[int] = []
        self.multipliers: list[float] = []
        self.splices: list[tuple[int, str]] = []
        self.last_comma: int | None = None

    def close(self) -> None:
        missing = CHUNK_LENGTH - len(self.tokens)
        tokens = (self.rules.begin, *self.tokens, *[self.rules.end] * (missing + 1))
        multipliers = (1.0, *self.multipliers, *[1.0] * (missing + 1))
        self.done.append(Chunk(tokens, multipliers, tuple(self.splices)))
        self._clear()

    def make_room(self, token: int) -> None:
        """Before a token or an embedding that begins with it: remembers commas; closes a full chunk at a near one."""
        full = len(self.tokens) == CHUNK_LENGTH
        if token == self.rules.comma:
            self.last_comma = len(self.tokens)
        elif full and self.last_comma is not None and len(self.tokens) - self.last_comma <= self.rules.comma_backtrack:
            self._close_at(self.last_comma + 1)
            full = False
        if full:
            self.close()

    def _close_at(self, start: int) -> None:
        tokens, multipliers = self.tokens[start:], self.multipliers[start:]
        moved = [(position - start, name) for position, name in self.splices if position > start]
        self.splices = [(position, name) for position, name in self.splices if position <= start]
        del self.tokens[start:], self.multipliers[start:]
        self.close()
        self.tokens, self.multipliers, self.splices = tokens, multipliers, moved

    def add_token(self, token: int, weight: float) -> None:
        self.tokens.append(token)
        self.multipliers.append(weight)

    def add_embedding(self, name: str, count: int, weight: float) -> None:
        if len(self.tokens) + count > CHUNK_LENGTH:
            self.close()
        self.splices.append((len(self.tokens) + 1, name))
        self.tokens += [0] * count
        self.multipliers += [weight] * count

    def finish(self) -> list[Chunk]:
        if self.tokens or not self.done:
            self.close()
        return self.done


def apply_emphasis(z: Tensor, multipliers: Tensor) -> Tensor:
    """The webui's "Original" emphasis: z times multipliers, then rescaled so that each row's mean is what it was.

    z (B, 77, width), multipliers (B, 77). Rows without weights come back unchanged to the bit. The mean is taken row by
    row, as the webui does for its usual one prompt at a time.
    """
    multipliers = multipliers.to(z)
    weighted = z * multipliers[..., None]
    plain = (multipliers == 1).all(1)[:, None, None]
    # a mean of 0 would make the gradients NaN also of rows that are not taken from here
    mean = torch.where(plain, 1.0, weighted.mean((1, 2), keepdim=True))
    return torch.where(plain, z, weighted * (z.mean((1, 2), keepdim=True) / mean))
