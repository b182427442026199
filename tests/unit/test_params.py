"""One parameter model: ranges, presets, infotext there and back."""

from __future__ import annotations

import dataclasses

import pytest

from lib_negtrans.options import ParamError
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.translation.infotext import format_infotext, parse_pairs, translation_params_from_fields
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams, translation_preset


@pytest.mark.parametrize("params", [TranslationParams, TrainingParams])
def test_defaults_are_valid_and_every_field_has_an_option(params):
    instance = params().validate()
    assert set(params.options()) == {field.name for field in dataclasses.fields(params)}
    assert params.from_dict(instance.to_dict()) == instance
    for name, opt in params.options().items():
        assert opt.label and opt.help.endswith("."), name
        assert opt.infotext is None or opt.infotext.startswith("NegTrans ")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"strength": 0}, "Strength must be above 0"),
        ({"strength": 1.5}, "Strength must lie between"),
        ({"strength": 0.01}, "leaves no step"),
        ({"guidance": "sega", "sega_warmup": 9}, "A warm-up of 9 leaves SEGA guidance out of all 9 steps: make it sm"),
        ({"concepts": "wool | warmup=9"}, 'A warm-up of 9 leaves the concept "wool" out of all 9 steps'),
        ({"steps": 0}, "Steps must lie between"),
        ({"cfg_scale": "7"}, "CFG scale must lie between"),
        ({"start": "middle"}, "Start from must be one of"),
        ({"order": "published"}, "needs 0 fixed-point"),
        ({"strenght": 0.3}, "unknown parameter 'strenght'"),
        ({"cfg_scale": float("nan")}, "CFG scale must lie between"),
        ({"guidance": "apg"}, "Guidance must be one of cfg, perp, topk, salience, sega"),
        ({"tac_depths": "0.9 much"}, "TAC depths must be up to 4 numbers"),
        ({"tac_depths": "1 1 1 1 1"}, "TAC depths must be up to 4 numbers"),
        ({"tac_depths": "1.1"}, "TAC depths must be up to 4 numbers"),
    ],
)
def test_wrong_values_are_refused_in_words(values, says):
    with pytest.raises(ParamError, match=says):
        TranslationParams.from_dict(values)


@pytest.mark.parametrize("name", TRANSLATION_PRESETS)
def test_presets_are_valid(name):
    assert translation_preset(name, cfg_scale=3.0).cfg_scale == 3.0


def test_the_published_preset_recomputes_and_the_default_captures():
    assert translation_preset("fashionr2r").features_from == "recomputed"
    assert translation_preset("default").features_from == "captured"
    assert translation_preset("default", solver="ddim").features_from == "captured"
    assert translation_preset("default", solver="ddim", fixed_point=0).features_from == "recomputed"


def test_what_starts_from_noise_is_sampled_by_itself():
    assert translation_preset("default").sampler == "difference"
    assert translation_preset("default", start="noise").validate().sampler == "ddim"


def test_a_step_ends_where_attention_control_does():
    assert translation_preset("default").timesteps == (6, 21, 44, 75, 113, 154, 197, 239, 281)
    assert translation_preset("default").tac_steps == 7
    half = translation_preset("default", tac_ratio=0.5)  # 7 of 15 steps: from 281 to 161, and on to 141
    assert 141 in half.timesteps and half.tac_steps == sum(t > 141 for t in half.timesteps)
    for ratio, steps in ((0.0, 0), (1.0, 9)):
        assert translation_preset("default", tac_ratio=ratio).tac_steps == steps
    depths = translation_preset("default", tac_depths="0.9 0.5")
    assert [depths.tac_steps_at(level) for level in range(3)] == [7, sum(t > 141 for t in depths.timesteps), 0]


def test_infotext_gives_every_option_back():
    params = TranslationParams(
        prompt="a photo", negative_prompt='neg-x, "quoted"', source_prompt="a render, grey: studio", strength=0.42,
        steps=40, cfg_scale=5.5, tac_layers=64, tac_ratio=0.35, fixed_point=2, start="noise", solver="ddim",
        features="recomputed",
        guidance="sega", sega_threshold=0.8, sega_warmup=2, sega_cooldown=9, sega_momentum=0.3, sega_beta=0.5,
        guidance_limit=0.7, details="model", cfg_rescale=0.7, tac_halves="both", tac_blend=0.5, tac_depths="0.9 0.5",
        colour="statistics", colour_strength=0.4, mask="border", background="keep",
        concepts='wool, "weave" :3 | threshold=0.8\nred: dark :-1 | kind=topk',
    )  # fmt: skip
    text = format_infotext(params, (256, 128))
    first, second, last = text.split("\n")
    assert first == "a photo" and second == 'Negative prompt: neg-x, "quoted"'
    fields = parse_pairs(last)
    assert fields["Script"] == "Realistic Translation" and fields["Size"] == "256x128"
    restored = translation_params_from_fields(fields)
    # what does nothing here is not written
    assert set(restored) == {name for name, opt in params.options().items() if opt.infotext} - {"topk_ratio"}
    for name, value in restored.items():
        assert value == getattr(params, name), name


def test_depths_take_the_place_of_layers_and_ratio():
    params = TranslationParams.from_dict({"tac_depths": "1, 0.5 0", "step_share": 1.0})
    assert [params.tac_steps_at(level) for level in range(4)] == [15, 7, 0, 0]
    assert params.tac_steps == 15
    assert TranslationParams(tac_depths="0 0").tac_steps == 0
    assert TranslationParams(tac_blend=0.0).tac_steps == TranslationParams(tac_blend=0.0, tac_depths="1").tac_steps == 0
    published = translation_preset("fashionr2r", tac_depths="0.9 0.9")
    assert published.tac_steps_at(1) == translation_preset("fashionr2r").tac_steps


def test_an_option_says_when_it_does_nothing():
    names = [name for name in TranslationParams.options() if not TranslationParams().applies(name)]
    assert "topk_ratio" in names and "sega_beta" in names and "cfg_rescale" not in names
    assert TranslationParams(guidance="topk").applies("topk_ratio")


@pytest.mark.parametrize("read", [TranslationParams.from_given, TranslationParams.from_dict])
def test_a_part_of_a_step_is_refused_everywhere_and_two_point_nought_is_two(read):
    with pytest.raises(ParamError, match=r"Steps must be a whole number, not 2\.7"):
        read({"steps": 2.7})
    steps = read({"steps": 20.0}).steps
    assert steps == 20 and isinstance(steps, int)


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("steps", "20", 20), ("steps", "20.0", 20), ("seed", str(2**63 - 1), 2**63 - 1), ("strength", "0.3", 0.3),
        ("strength", 1, 1.0), ("prompt", " a ", "a"),
    ],
)  # fmt: skip
def test_text_and_numbers_become_the_options_type(name, value, typed):
    got = TranslationParams.typed(name, value)
    assert got == typed and type(got) is type(typed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "2.7"),
        ("steps", float("inf")),
        ("steps", float("nan")),
        ("steps", True),
        ("strength", "much"),
        ("prompt", 3),
    ],
)
def test_what_is_of_no_such_type_is_refused(name, value):
    with pytest.raises(ParamError, match="must be"):
        TranslationParams.typed(name, value)
