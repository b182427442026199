"""Concepts as they are written, and what a host of our own computes for them."""

from __future__ import annotations

import contextlib
import time

import pytest
import torch

from lib_negtrans.core.guidance import Concept, Guidance
from lib_negtrans.core.guidance.classifier_free import ClassifierFree
from lib_negtrans.core.guidance.perp import Perp
from lib_negtrans.core.guidance.salience import Salience
from lib_negtrans.core.guidance.sega import Sega
from lib_negtrans.core.guidance.topk import ConceptTopK
from lib_negtrans.options import ParamError
from lib_negtrans.translation import denoiser
from lib_negtrans.translation.concepts import MAXIMUM, Steering, numbered, steering, with_weight
from lib_negtrans.translation.infotext import format_infotext, settings_from_infotext
from lib_negtrans.translation.negatives import with_triggers
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams
from lib_negtrans.translation.pipeline import translate
from lib_negtrans.translation.plan import guided_rows
from lib_negtrans.translation.wording import translation_sentences
from tests.tiny_model import tiny_host

WOOL = Concept("wool, visible weave", ConceptTopK(), 0.6)


@pytest.mark.parametrize(
    ("prompt", "negative", "expected"),
    [
        ("a photo", "neg", Steering("a photo", "neg")),
        ("a photo AND_TOPK wool, visible weave :0.6", "", Steering("a photo", "", (WOOL,))),
        ("AND_PERP red", "", Steering("", "", (Concept("red", Perp()),))),
        (
            "a photo AND_SALT (red:1.2) :-.5 AND_PERP two\nlines:2.",
            "",
            Steering("a photo", "", (Concept("(red:1.2)", Salience(), -0.5), Concept("two\nlines", Perp(), 2.0))),
        ),
        ("a", "neg AND_PERP a doll :0.5", Steering("a", "neg", (Concept("a doll", Perp(), -0.5),))),
        ("[a:b:0.5] AND_TOPK [c|d]", "", Steering("[a:b:0.5]", "", (Concept("[c|d]", ConceptTopK()),))),
        ("ANDROID AND_PERPETUAL :0.5", "BRAND_TOPK", Steering("ANDROID AND_PERPETUAL :0.5", "BRAND_TOPK")),
        ("a AND b :0.5", "", Steering("a", "", (Concept("b", ClassifierFree(), 0.5),))),
        (
            "a :0.25 AND_PERP x AND b :0.5",
            "",
            Steering(
                "a", "",
                (Concept("a", ClassifierFree(), -0.75), Concept("x", Perp()), Concept("b", ClassifierFree(), 0.5)),
            ),
        ),
        ("a AND_PERP x :0", "", Steering("a", "")),
    ],
)  # fmt: skip
def test_words_of_a_prompt(prompt, negative, expected):
    assert steering(prompt, negative) == expected


def test_a_host_that_joins_prompts_keeps_its_and():
    found = steering("a :0.25 AND_PERP x AND b :0.5", "x AND y AND_TOPK z", composes_and=True)
    assert found.prompt == "a :0.25 AND b :0.5" and found.negative_prompt == "x AND y"
    assert found.concepts == (Concept("x", Perp()), Concept("z", ConceptTopK(), -1.0))
    assert steering("a AND b", "", composes_and=True) == Steering("a AND b", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wool", Concept("wool", Sega(warmup=0), 5.0, warmup=1)),
        ("wool, weave :-3", Concept("wool, weave", Sega(warmup=0), -3.0, warmup=1)),
        (
            "wool :3 | threshold=0.8 warmup=2 cooldown=7",
            Concept("wool", Sega(threshold=0.8, warmup=0), 3.0, warmup=2, cooldown=7),
        ),
        ("wool :.6 | kind = topk, ratio=0.2", Concept("wool", ConceptTopK(0.2), 0.6)),
        ("wool|kind=topk cooldown=3", Concept("wool", ConceptTopK(), 1.0, cooldown=3)),
        ("[a|b] :2 | kind=cfg", Concept("[a|b]", ClassifierFree(), 2.0)),
        ("[a|b]", Concept("[a|b]", Sega(warmup=0), 5.0, warmup=1)),
    ],
)
def test_a_line(line, expected):
    assert numbered(f"\n {line}\n") == [(1, expected)]


@pytest.mark.parametrize(
    ("prompt", "lines", "says"),
    [
        ("a AND_PERP [b AND_SALT c]", "", "AND_SALT within square brackets is not supported: write one concept after"),
        ("a AND_PERP :0.5", "", "AND_PERP has no text"),
        ("a AND_TOPK wool :300", "", "AND_TOPK has the weight 300: it must lie between -100 and 100"),
        ("a AND ", "", "AND has no text"),
        ("", "wool\n\nred | kind=tok", "Line 3 of Concepts: kind must be one of cfg, perp, topk, salience, sega"),
        ("", "wool | treshold=1", "kind sega has no option treshold; it takes kind, warmup, cooldown, threshold"),
        ("", "wool | kind=perp ratio=0.1", "kind perp has no option ratio; it takes kind, warmup, cooldown."),
        ("", "wool | weight=3", "the weight is written behind the text, such as wool :3"),
        ("", "wool | 3", "options are written as name=value, such as threshold=0.8, not 3"),
        ("", "wool | threshold=2", "threshold must be a number between 0 and 0.99, not 2"),
        ("", "wool | warmup=1.5", "warmup must be a whole number between 0 and 999, not 1.5"),
        ("", "wool | kind=topk ratio=nan", "ratio must be a number between 0 and 1, not nan"),
        ("", "| kind=topk", "Line 1 of Concepts has no text"),
        ("", "AND_TOPK wool", "AND_TOPK belongs in the prompt, not here"),
        ("", "<lora:x:1> wool", "<lora:x:1> belongs in the prompt, not here"),
        ("", "wool\n" * 21, f"These are 21 concepts: leave {MAXIMUM} at most"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(prompt, lines, says):
    with pytest.raises(ParamError) as error:
        TranslationParams(prompt=prompt, concepts=lines).validate()
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", [" " * 9_000 + "x", "x:" + "1" * 9_000 + "x", "AND " * 2_400, "x | " + " " * 9_000 + "y"]
)
def test_long_texts_are_read_at_once(text):
    began = time.process_time()
    for prompt, lines in ((f"a AND_PERP {text}", ""), ("", text)):
        with contextlib.suppress(ParamError):
            steering(prompt, "", lines)
    assert time.process_time() - began < 0.5


def test_another_weight_leaves_the_rest_of_the_lines():
    lines = "wool :3 | kind=topk  ratio=0.2\n\nred"
    assert with_weight(lines, 1, -0.5) == "wool :-0.5 | kind=topk  ratio=0.2\n\nred"
    assert with_weight(lines, 2, 2.5) == "wool :3 | kind=topk  ratio=0.2\n\nred :2.5"
    with pytest.raises(ParamError, match="There is no concept 3: Concepts has 2, one a line"):
        with_weight(lines, 3, 1.0)


def test_a_trigger_goes_before_the_words_of_the_negative_prompt():
    assert with_triggers([("neg", 1.0)], "AND_PERP a doll") == "neg AND_PERP a doll"
    assert with_triggers([("neg", 1.2)], "cg AND_PERP a doll") == "(neg:1.2), cg AND_PERP a doll"
    assert with_triggers([], "AND_PERP a doll") == "AND_PERP a doll" and with_triggers([], " ") == ""


def test_concepts_come_back_from_a_pictures_text():
    params = TranslationParams(
        prompt="a photo AND_TOPK wool :0.6", negative_prompt="neg AND_PERP doll",
        concepts='red, "dark": x :3 | threshold=0.8\n\nblue :-1',
    )  # fmt: skip
    assert settings_from_infotext(format_infotext(params, (64, 64))) == {
        name: getattr(params, name) for name in params.options()
    }


def params(**values) -> TranslationParams:
    return TranslationParams.from_dict(
        {"steps": 20, "step_share": 1.0, "negative_prompt": "a 3d render", "prompt": "a photo", **values}
    )


@pytest.fixture
def image():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()


@pytest.fixture(scope="module")
def host():
    """In float64, so that another order of rounding stays small."""
    made = tiny_host(dtype=torch.float64)
    made.unet.conv_out.weight.data.mul_(0.1)
    return made


def test_rows_are_those_that_the_plan_counts_and_equal_texts_are_one(host, image):
    cases = {
        "": 2, "wool | kind=topk": 3, "wool | kind=topk\nwool :-2 | kind=perp": 3, "wool": 4, "wool\nred": 5,
        "a photo | kind=topk": 2, "wool :0": 2,
    }  # fmt: skip
    for lines, rows in cases.items():
        asked = params(concepts=lines)
        assert guided_rows(asked) == rows
        assert translate(host, image, asked).forwards.guided == rows * len(asked.timesteps)
    # at scale 1 the negative is read for what is measured from it alone
    for lines, rows in {"": 1, "wool | kind=topk": 3, "wool": 3}.items():
        asked = params(concepts=lines, cfg_scale=1.0)
        assert guided_rows(asked) == rows
        assert translate(host, image, asked).forwards.guided == rows * len(asked.timesteps)


@pytest.mark.parametrize("preset", ["default", "fashionr2r"])
def test_weight_0_gives_the_picture_without_to_the_bit(host, image, preset):
    values = TRANSLATION_PRESETS[preset][1]
    without = translate(host, image, params(**values)).latent
    for asked in (
        params(concepts="wool :0\nred :0 | kind=topk", **values),
        params(prompt="a photo AND_SALT wool :0", **values),
    ):
        assert torch.equal(translate(host, image, asked).latent, without)
    moved = translate(host, image, params(concepts="wool :3", **values)).latent
    assert (moved - without).abs().max() > 1e-3


def test_words_and_lines_say_the_same(host, image):
    words = params(prompt="a photo AND_TOPK wool :0.6 AND_PERP red", negative_prompt="a 3d render AND_SALT doll :0.5")
    lines = params(concepts="wool :0.6 | kind=topk\nred | kind=perp\ndoll :-0.5 | kind=salience")
    assert torch.equal(translate(host, image, words).latent, translate(host, image, lines).latent)


def test_a_prompts_own_weight_is_a_composed_prompts(host, image):
    """ "a :0.5 AND a :0.5" is a."""
    halves = translate(host, image, params(prompt="a photo :0.5 AND a photo :0.5")).latent
    torch.testing.assert_close(halves, translate(host, image, params()).latent, rtol=0, atol=1e-8)


@pytest.mark.parametrize("values", [{}, {"features": "recomputed"}, TRANSLATION_PRESETS["fashionr2r"][1]])
def test_a_concepts_row_takes_the_sources_attention_as_the_prompts_does(host, image, monkeypatch, values):
    """A concept of the prompt's own text in other words' clothes: its row is the conditional row again."""
    seen = []

    def recorded(self, uncond, cond, negative, scale, step, found):
        seen.append((cond, found["(a photo)"], found["wool"]))
        return original(self, uncond, cond, negative, scale, step, found)

    original = Guidance.__call__
    monkeypatch.setattr(Guidance, "__call__", recorded)
    monkeypatch.setattr(host, "encode_prompts", same_for_brackets(host.encode_prompts))
    asked = params(concepts="(a photo) | kind=topk\nwool | kind=topk", **values)
    together = translate(host, image, asked)
    assert len(seen) == len(asked.timesteps)
    for cond, again, wool in seen:
        torch.testing.assert_close(again, cond, rtol=0, atol=1e-9)
        assert (wool - cond).abs().max() > 1e-6
    monkeypatch.setattr(denoiser, "LARGE", 8 * 8 - 1)  # the rows one after the other
    torch.testing.assert_close(translate(host, image, asked).latent, together.latent, rtol=0, atol=1e-6)


def test_a_concept_is_held_at_the_first_step_too_where_the_prompt_is_the_sources(host, image, monkeypatch):
    asked = params(prompt="", concepts="wool :3", tac_layers=4096, features="recomputed")
    found = translate(host, image, asked).latent
    monkeypatch.setattr(denoiser.StandaloneDenoiser, "_is_the_source", lambda self, z, position: False)
    torch.testing.assert_close(translate(host, image, asked).latent, found, rtol=0, atol=1e-9)


def same_for_brackets(encode):
    def encoded(prompts, embeddings=None):
        return encode([prompt.strip("()") for prompt in prompts], embeddings)

    return encoded


def test_the_summary_names_concepts_and_their_cost():
    asked = TranslationParams(prompt="a photo AND_TOPK wool :0.6", concepts="red :3\nwool :-1 | kind=perp")
    said = " ".join(translation_sentences(asked, "neg"))
    assert "Concepts: wool :0.6 (topk); red :3 (sega); wool :-1 (perp)." in said
    assert "They add 3 to the model calls of each step." in said  # wool, red and the empty prompt for SEGA
    before = " ".join(translation_sentences(TranslationParams(prompt="a photo"), "neg"))
    calls = [int(text.partition("takes about ")[2].partition(" ")[0]) for text in (before, said)]
    assert calls[1] - calls[0] == 3 * len(asked.timesteps)
    assert "Concepts" not in before
    alone = " ".join(translation_sentences(TranslationParams(concepts="red :3")))
    assert "nothing to lead away from" not in alone and "They add 1 to the model calls" in alone
