"""What the script writes into a picture comes back into its controls."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from lib_negtrans import TITLE
from lib_negtrans.apps.webui import infotext_fields as infotext
from lib_negtrans.translation import arguments
from lib_negtrans.translation.params import TRANSLATION_PRESETS

HOST_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # infotext_utils.re_param


def host_write(fields):
    """As `processing.create_infotext` and `infotext_utils.quote` do."""

    def quote(value):
        text = str(value)
        return json.dumps(value, ensure_ascii=False) if any(c in text for c in ",\n:") else value

    return ", ".join(
        key if key == value else f"{key}: {quote(value)}" for key, value in fields.items() if value is not None
    )


def host_read(text):
    """As `infotext_utils.parse_generation_parameters` does."""
    found = {}
    for key, value in HOST_PAIR.findall(text):
        found[key] = json.loads(value) if value.startswith('"') and value.endswith('"') else value
    return found


def job_for(fake_host, panel, **attributes):
    from lib_negtrans.apps.webui import job as module

    vector = pytest.importorskip("torch").zeros(2, 64)
    for name in ("neg-render", "neg: odd, name"):
        fake_host.embeddings[name] = SimpleNamespace(vec=vector)
    module.refuse_job = lambda p, inverts: None
    module.refuse_host = lambda: None
    attributes |= {
        "steps": 50,
        "cfg_scale": 7.5,
        "denoising_strength": 0.3,
        "all_prompts": [""],
        "all_negative_prompts": [""],
    }
    p = SimpleNamespace(extra_generation_params={}, init_images=["one"], **attributes)
    job = module.TranslationJob(p, lambda: arguments.parse(panel))
    return p, job


def panels():
    yield "defaults", [{}]
    for preset in TRANSLATION_PRESETS:
        yield preset, filled([1, preset, "neg-render", 1.25])
    start = [1, "default", "neg-render", 0.7, "a render, of: 1", "noise", 3, 1024, 0.35, "recomputed", "ascending"]
    yield "sega and all", filled([*start, "sega", None, 0.8, 3, 7, 0.25, 0.6, 0.7, "both", 0.35, "0.9 0.5, 0", "ddim"])
    yield "topk", filled([*start, "topk", 0.25, *[None] * 9, "ddim"])
    start = [1, "default", "None", 1.0, 'two\nlines "quoted", \\', "inversion", 0, 64, 0.0, "auto", "ascending"]
    yield "quotes", filled([*start, *[None] * 11, "ddim"])
    yield (
        "concepts",
        [{"concepts": 'wool, "visible": weave :3 | threshold=0.8\n\nred :-1 | kind=topk', "preset": "fast"}],
    )


def filled(values):
    """The rest as the preset has it."""
    return [*values, *[None] * (len(arguments.LIST_NAMES) - len(values))]


@pytest.mark.parametrize("panel", [pytest.param(values, id=name) for name, values in panels()])
def test_every_control_comes_back(fake_host, panel):
    p, job = job_for(fake_host, panel)
    job._prepare()
    fields = host_read(host_write({"Steps": 50, **p.extra_generation_params}))
    restored = {name: infotext.reader(name)(fields) for name in arguments.NAMES[1:]}
    assert arguments.parse([restored]) == arguments.parse(panel)


def test_pictures_of_others_change_nothing():
    for name in arguments.NAMES[1:]:
        assert infotext.reader(name)({"Steps": "20", "Script": "X/Y/Z plot", "NegTrans TAC ratio": "0.1"}) is None


def test_a_number_that_is_none_falls_back():
    fields = {"Script": TITLE, "NegTrans TAC ratio": "much", "NegTrans embedding weight": "heavy"}
    assert infotext.reader("tac_ratio")(fields) == 0.9
    assert infotext.reader("embedding_weight")(fields) == 1.0


def test_a_picture_that_is_older_than_an_option_is_as_it_was():
    assert infotext.reader("flat_background")({"Script": TITLE}) == "translate"
    assert infotext.reader("flat_background")({"Script": TITLE, "NegTrans flat background": "hold"}) == "hold"


def test_our_keys_begin_with_our_name():
    assert all(key.startswith("NegTrans ") for key in infotext.field_names())


def test_what_does_nothing_is_not_written(fake_host):
    def keys(guidance):
        p, job = job_for(fake_host, [{"guidance": guidance}])
        job._prepare()
        return {key for key in p.extra_generation_params if "SEGA" in key or "top-k" in key}

    assert keys("cfg") == keys("perp") == set()
    assert keys("topk") == {"NegTrans top-k ratio"}
    assert len(keys("sega")) == 5
