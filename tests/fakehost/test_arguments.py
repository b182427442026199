"""The script's argument: an object of names, or version 1's list, whose order is a contract with API users."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib_negtrans.options import ParamError
from lib_negtrans.translation import arguments

FULL = [
    1, "default", "neg-render", 1.2, "a render", "inversion", 2, 64, 0.5, "captured", "ascending",
    "sega", 0.3, 0.8, 2, 9, 0.2, 0.5, 0.7, "both", 0.6, "0.9 0.5", "difference", 0.4,
    "statistics", 0.5, "border", "keep",
]  # fmt: skip


def test_the_order_is_a_contract():
    assert arguments.LIST_NAMES == (
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
    assert arguments.preset_of(arguments.parse([{}]).options) == "default"


def test_an_object_says_what_a_list_says_in_any_order():
    named = dict(zip(arguments.LIST_NAMES, FULL, strict=True)) | {"version": 2}
    assert arguments.parse([named]) == arguments.parse([dict(reversed(named.items()))]) == arguments.parse(FULL)
    short = arguments.parse([{"version": 2, "preset": "texture", "embedding": "neg-render", "topk_ratio": 0.2}])
    assert (short.embedding, short.options["tac_ratio"], short.options["topk_ratio"]) == ("neg-render", 1.0, 0.2)
    # as the host's own list has it, in which a script's arguments are counted
    assert arguments.parse([{"version": 2}, *[None] * (len(FULL) - 1)]) == arguments.parse(
        [1, *[None] * (len(FULL) - 1)]
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([{"topk_ration": 0.2}], "takes no 'topk_ration': the nearest name that it takes is 'topk_ratio'."),
        ([{"fixpoint": 2}], "is 'fixed_point'"),
        ([{"strength": 0.5}], "takes no 'strength': it is the request's own denoising_strength"),
        ([{"version": 1}], "object of version 2, not 1"),
        ([{}, "default"], "nothing but null may follow"),
        ([{"tac_layers": 2.7}], "TAC layers must be a whole number, not 2.7"),
        ([{"guidance": 3}], "Guidance must be text"),
    ],
)
def test_an_object_is_refused_in_one_sentence(given, words):
    with pytest.raises(ParamError, match=words):
        arguments.parse(given)


TEXTS = st.one_of(st.text(st.characters(codec=None)), st.text("ab:|=\n.-()[] 0,", max_size=40), st.just("x" * 20_000))
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.fixed_dictionaries({}, optional=dict.fromkeys(arguments.NAMES, JUNK)), st.lists(JUNK, max_size=40)))
@example({"preset": [0]})
@example({"embedding": "\ud800"})
@example({"concepts": "wool\ud800 :1"})
def test_a_request_that_nobody_designed_is_taken_or_refused_in_a_sentence(given):
    try:
        values = arguments.parse([given] if isinstance(given, dict) else given)
        values.params(20, 7.5, 0.3)
        json.dumps([values.embedding, values.options], ensure_ascii=False).encode()
    except ParamError:
        pass


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


@pytest.mark.parametrize("length", [0, len(FULL) - 1, len(arguments.NAMES) + 1])
def test_a_list_of_another_length_is_refused_with_the_order(length):
    with pytest.raises(
        ParamError, match=f"has {length} values, Realistic Translation takes one object, or {len(FULL)}: v"
    ):
        arguments.parse([*FULL, *[0] * 9][:length])


def page(sent, behind=()):
    """A job whose request put `sent` into all scripts' arguments: one always-on script, a script, ours, another."""
    end = 4 + len(arguments.NAMES)
    spans = [(1, 3), (3, 4), (4, end), (end, end + 2)]
    scripts = [SimpleNamespace(args_from=a, args_to=b) for a, b in spans]
    args = ["choice", "on 1", "on 2", "before", *sent, "after 1", "after 2"]
    runner = SimpleNamespace(scripts=scripts, alwayson_scripts=[scripts[0], *(scripts[i] for i in behind)])
    return scripts[2], SimpleNamespace(scripts=runner, script_args=args)


@pytest.mark.parametrize("sent", [FULL, [{"tac_ratio": 0.5}], [{"tac_ratio": 0.5}, None], [{}, *[None] * 40]])
def test_what_a_request_moved_is_moved_back(fake_host, sent):
    from lib_negtrans.apps.webui.script import own_arguments

    script, p = page(sent)
    got = own_arguments(script, p, p.script_args[script.args_from : script.args_to])
    assert arguments.parse(got) == arguments.parse(sent)
    assert p.script_args[:4] == ["choice", "on 1", "on 2", "before"] and p.script_args[-2:] == ["after 1", "after 2"]
    assert len(p.script_args) == 6 + len(arguments.NAMES)
    again = own_arguments(script, p, p.script_args[script.args_from : script.args_to])  # the Batch tab's next picture
    assert arguments.parse(again) == arguments.parse(sent)


@pytest.mark.parametrize(
    ("sent", "behind", "words"),
    [
        (FULL[:-1], (), f"has {len(FULL) - 1} values"),
        ([*FULL, *[0] * 9], (), f"has {len(FULL) + 9} values"),
        ([], (), "has 0 values"),
        ([{}], (3,), f"script_args must have {len(arguments.NAMES)} values here: put nulls"),
    ],
)
def test_what_cannot_be_moved_back_is_refused(fake_host, sent, behind, words):
    from lib_negtrans.apps.webui.script import own_arguments

    script, p = page(sent, behind)
    with pytest.raises(ParamError, match=words):
        own_arguments(script, p, p.script_args[script.args_from : script.args_to])


def test_an_axis_goes_before_the_panel_and_a_preset_before_its_options(fake_host):
    from lib_negtrans.apps.webui.xyz import _values

    assert _values(FULL, {"tac_ratio": 0.1}).options == {**arguments.parse(FULL).options, "tac_ratio": 0.1}
    preset = _values([{"preset": "default", "source_prompt": "a", "tac_ratio": 0.5}], {"preset": "texture"})
    assert (preset.options["source_prompt"], preset.options["tac_ratio"]) == ("a", 1.0)


def test_an_axis_changes_the_weight_of_one_concept_and_a_preset_leaves_them(fake_host):
    from lib_negtrans.apps.webui.xyz import CONCEPT_AXES, _values

    panel = [{"concepts": "wool :3 | kind=topk ratio=0.2\n\ndenim | warmup=2"}]
    assert _values(panel, {"concept 1": -0.5}).options["concepts"] == (
        "wool :-0.5 | kind=topk ratio=0.2\n\ndenim | warmup=2"
    )
    both = _values(panel, {"concept 2": 0.0, "preset": "texture", "concept 1": 1.0}).options
    assert both["concepts"] == "wool :1 | kind=topk ratio=0.2\n\ndenim :0 | warmup=2" and both["tac_ratio"] == 1.0
    assert CONCEPT_AXES == (1, 2, 3)
    with pytest.raises(ParamError, match="There is no concept 3: Concepts has 2, one a line"):
        _values(panel, {"concept 3": 1.0})
    assert arguments.preset_of(arguments.parse(panel).options) == "default"
