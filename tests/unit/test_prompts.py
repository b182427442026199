"""Prompts mean here what they mean in the webui."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_negtrans.models.prompts import Chunk, PromptError, PromptTokenizer, Segment, apply_emphasis, parse_attention
from lib_negtrans.models.standalone import load_tokenizer
from tests.unit.webui_prompts import EMBEDDINGS, PROMPTS, RECORDED, WebuiPrompts

COMMA, END = 267, 49407


@pytest.fixture(scope="module")
def tokenizer():
    return PromptTokenizer.from_clip(load_tokenizer())


@pytest.fixture(scope="module")
def webui():
    folder = os.environ.get("NEGTRANS_WEBUI_DIR")
    if not folder:
        pytest.skip("NEGTRANS_WEBUI_DIR names no webui checkout")
    return WebuiPrompts(Path(folder), load_tokenizer())


def as_recorded(chunks: list[Chunk]) -> list[dict]:
    return [
        {
            "tokens": list(chunk.tokens),
            "multipliers": [round(value, 6) for value in chunk.multipliers],
            "splices": [list(splice) for splice in chunk.splices],
        }
        for chunk in chunks
    ]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt[:30] or "empty")
def test_chunks_are_those_recorded_from_the_webui(tokenizer, prompt):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["prompts"]
    assert as_recorded(tokenizer.chunks(prompt, EMBEDDINGS)) == recorded[prompt]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt[:30] or "empty")
def test_chunks_are_those_of_the_real_webui(tokenizer, webui, prompt):
    assert as_recorded(tokenizer.chunks(prompt, EMBEDDINGS)) == webui.chunks(prompt)


PIECES = st.lists(
    st.sampled_from(
        [
            "a photo",
            ",",
            " ",
            "(",
            ")",
            "[",
            "]",
            ":1.3)",
            ":",
            "\\(",
            "\\]",
            "\\\\",
            "\\",
            " BREAK ",
            "word " * 20,
            "x-20",
        ]
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(PIECES)
def test_any_prompt_gives_the_real_webuis_chunks(webui, tokenizer, pieces):
    prompt = "".join(pieces)
    try:
        ours = as_recorded(tokenizer.chunks(prompt, EMBEDDINGS))
    except PromptError:
        return
    if ("BREAK" in prompt and any(c in prompt for c in "([")) or ("," in prompt and "x-20" in prompt):
        return  # the two deliberate differences have tests of their own
    assert ours == webui.chunks(prompt)


def test_emphasis_is_the_real_webuis(webui):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 77, 16, generator=generator) - 0.1
    multipliers = torch.rand(1, 77, generator=generator) + 0.5
    torch.testing.assert_close(apply_emphasis(z, multipliers), webui.apply_emphasis(z, multipliers))


def test_emphasis_keeps_each_rows_mean_and_plain_rows_as_they_are():
    z = torch.randn(2, 77, 16, dtype=torch.float64) - 0.2
    multipliers = torch.ones(2, 77)
    multipliers[1, 3:9] = 1.4
    out = apply_emphasis(z, multipliers)
    assert torch.equal(out[0], z[0])
    torch.testing.assert_close(out[1].mean(), z[1].mean())
    ratio = (out[1] / z[1])[:, 0]
    torch.testing.assert_close(ratio[3] / ratio[0], torch.tensor(1.4, dtype=torch.float64), rtol=1e-6, atol=0)


@settings(max_examples=100, deadline=None)
@given(PIECES)
def test_every_chunk_has_77_ids_and_loses_no_token(tokenizer, pieces):
    prompt = "".join(pieces)
    try:
        chunks = tokenizer.chunks(prompt)
    except PromptError:
        return
    assert all(len(chunk.tokens) == len(chunk.multipliers) == 77 for chunk in chunks)
    assert all(chunk.tokens[0] == tokenizer.begin and chunk.tokens[-1] == END for chunk in chunks)
    kept = [token for chunk in chunks for token in chunk.tokens[1:-1] if token != END]
    texts = [segment.text for segment in parse_attention(prompt)]
    assert kept == [token for ids in tokenizer.tokenize(texts) for token in ids]


def test_break_inside_weighted_brackets_still_breaks():
    assert parse_attention("(a BREAK b:1.5)") == [Segment("a", 1.5), Segment("", 1.0, is_break=True), Segment("b", 1.5)]


def test_an_embedding_moved_by_comma_backtracking_takes_its_vectors_along(tokenizer):
    first, second = tokenizer.chunks("word " * 65 + ", neg-render " + "tail " * 10, {"neg-render": 3})
    assert first.splices == () and COMMA in first.tokens
    assert second.splices == ((1, "neg-render"),)
    assert second.tokens[1:5] == (0, 0, 0, tokenizer.tokenize(["tail"])[0][0])


def test_an_embedding_that_does_not_fit_goes_into_the_next_chunk_whole(tokenizer):
    first, second = tokenizer.chunks("word " * 74 + "neg-render", {"neg-render": 3})
    assert first.tokens[75] == END and first.splices == ()
    assert second.splices == ((1, "neg-render"),)


def test_shorter_prompts_of_a_batch_are_filled_up(tokenizer):
    rows = tokenizer.batch(["cat", "word " * 80])
    assert [len(row) for row in rows] == [2, 2]
    assert rows[0][1] == tokenizer.empty_chunk() == tokenizer.chunks("")[0]


@pytest.mark.parametrize("count", [0, 76])
def test_an_embedding_no_chunk_can_hold_is_refused(tokenizer, count):
    with pytest.raises(ValueError, match="holds 1 to 75"):
        tokenizer.chunks("x-1", {"x-1": count})


@pytest.mark.parametrize(
    "prompt",
    [
        "a [cat:dog:0.5]",
        "a [dog:0.5]",
        "a [cat::10 ]",
        "a [(red:1.2) cat:dog: .5]",
        "[cat|dog] in (snow)",
        "(a [cat|dog]:1.2)",
        "a cat <lora:style:0.8>",
    ],
)
def test_what_only_the_webui_can_do_is_refused(tokenizer, prompt):
    with pytest.raises(PromptError, match="only in the webui"):
        tokenizer.chunks(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "a | b",
        "(a | b)",
        r"\[cat:dog:0.5\]",
        r"[cat\|dog]",
        "ratio 1:2] (a:1.2)",
        "[(a:1.2)]",
        "[a: b]",
        "BRAND and ANDES",
        "<3",
    ],
)
def test_what_only_looks_like_it_is_read(tokenizer, prompt):
    assert len(tokenizer.chunks(prompt)) == 1


def test_a_weight_that_is_no_number_is_refused(tokenizer):
    with pytest.raises(PromptError, match=r"'1\.2\.3' is not a weight"):
        tokenizer.chunks("(a:1.2.3)")


def test_emphasis_has_gradients_where_the_mean_is_nothing():
    """As at chance in a text encoder whose last normalisation has no bias; no row here has weights."""
    z = torch.tensor([1.0, -1.0]).repeat(1, 77, 4).requires_grad_()
    apply_emphasis(z, torch.ones(1, 77)).sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
