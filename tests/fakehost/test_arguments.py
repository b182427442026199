"""The script's argument list: its order is a contract with API users."""

from __future__ import annotations

import pytest

from lib_negtrans.options import ParamError
from lib_negtrans.translation import arguments

FULL = [
    1, "default", "neg-render", 1.2, "a render", "inversion", 2, 64, 0.5, "captured", "ascending",
    "sega", 0.3, 0.8, 2, 9, 0.2, 0.5, 0.7, "both", 0.6, "0.9 0.5", "difference", 0.4,
    "statistics", 0.5, "border", "keep",
]  # fmt: skip


def test_the_order_is_a_contract():
    assert arguments.NAMES == (
        "version", "preset", "embedding", "embedding_weight", "source_prompt", "start", "fixed_point", "tac_layers",
        "tac_ratio", "features", "order", "guidance", "topk_ratio", "sega_threshold", "sega_warmup", "sega_cooldown",
        "sega_momentum", "sega_beta", "cfg_rescale", "tac_halves", "tac_blend", "tac_depths", "solver", "step_share",
        "colour", "colour_strength", "mask", "background",
    )  # fmt: skip


def test_full_list():
    values = arguments.parse(FULL)
    assert (values.embedding, values.embedding_weight) == ("neg-render", 1.2)
    params = values.params(steps=50, cfg_scale=7.5, strength=0.3)
    assert (params.source_prompt, params.fixed_point, params.tac_layers, params.tac_ratio) == ("a render", 2, 64, 0.5)


def test_none_takes_the_presets_value():
    values = arguments.parse([1, "fashionr2r", *[None] * (len(FULL) - 2)])
    assert (values.options["order"], values.options["fixed_point"]) == ("published", 0)
    assert arguments.preset_of(values.options) == "fashionr2r"
    assert arguments.preset_of(arguments.parse(arguments.defaults()).options) == "default"


def test_numbers_from_the_page_are_floats_or_text():
    values = arguments.parse(
        [1.0, "default", "None", 1, "", "noise", 1.0, "256", "0.9", "auto", "ascending", *[None] * (len(FULL) - 11)]
    )
    assert values.embedding is None
    assert values.options["tac_layers"] == 256 and isinstance(values.options["tac_layers"], int)


@pytest.mark.parametrize(
    ("position", "value", "words"),
    [
        (0, 2, "version of the list"),
        (0, "default", "version of the list"),
        (1, "best", "unknown preset"),
        (2, 3, "name or None"),
        (3, 9, "Embedding weight must lie"),
        (3, "heavy", "Embedding weight must lie"),
        (4, 5, "must be text"),
        (6, "x", "must be a number"),
        (6, 1.5, "whole number"),
    ],
)
def test_refused_in_words(position, value, words):
    wrong = list(FULL)
    wrong[position] = value
    with pytest.raises(ParamError, match=words):
        arguments.parse(wrong)


@pytest.mark.parametrize(
    ("position", "value"),
    [(5, "latent"), (7, 0), (8, 1.5), (9, "both"), (10, "random"), (11, "cfg++"), (19, "neg"), (21, "0.9 two")],
)
def test_ranges_are_those_of_the_parameters(position, value):
    wrong = list(FULL)
    wrong[position] = value
    with pytest.raises(ParamError):
        arguments.parse(wrong).params(50, 7.5, 0.3)


@pytest.mark.parametrize("length", [0, len(FULL) - 1, len(FULL) + 1])
def test_a_list_of_another_length_is_refused_with_the_order(length):
    with pytest.raises(ParamError, match=f"has {length} values, Realistic Translation takes {len(FULL)}: version, "):
        arguments.parse([*FULL, 0][:length])


def test_shifted_arguments_of_the_whole_page_are_noticed(fake_host):
    from types import SimpleNamespace

    from lib_negtrans.apps.webui.script import refuse_shifted_arguments

    scripts = SimpleNamespace(scripts=[SimpleNamespace(args_to=4), SimpleNamespace(args_to=15)])
    refuse_shifted_arguments(SimpleNamespace(scripts=scripts, script_args=[0] * 15))
    with pytest.raises(ParamError, match=f"has {len(FULL) - 1} values"):
        refuse_shifted_arguments(SimpleNamespace(scripts=scripts, script_args=[0] * 14))
