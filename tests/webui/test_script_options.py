"""Guidance and attention-control options over the host's API: each acts, is in the text, and comes back from it."""

from __future__ import annotations

import json

import pytest

from tests.webui.client import arguments, difference, infotext, need_neighbour, pixels, restored

EMBEDDING = {"embedding": "neg-test", "embedding_weight": 1.3}
PROMPT = {"prompt": "a photo of a shirt"}
# values, and what of them the picture's text must say
OPTIONS = {
    "perp": ({"guidance": "perp"}, ["NegTrans guidance: perp"]),
    "topk": ({"guidance": "topk", "topk_ratio": 0.1}, ["NegTrans guidance: topk", "NegTrans top-k ratio: 0.1"]),
    "salience": ({"guidance": "salience"}, ["NegTrans guidance: salience"]),
    "sega": (
        {"guidance": "sega", "sega_threshold": 0.8, "sega_warmup": 2, "sega_cooldown": 5, "sega_beta": 0.6},
        ["NegTrans SEGA threshold: 0.8", "NegTrans SEGA warm-up: 2", "NegTrans SEGA cool-down: 5"],
    ),
    "rescale": ({"cfg_rescale": 0.8}, ["NegTrans guidance: cfg", "NegTrans CFG rescale: 0.8"]),
    "both halves": ({"tac_halves": "both"}, ["NegTrans TAC halves: both"]),
    "blend": ({"tac_blend": 0.3}, ["NegTrans TAC blend: 0.3"]),
    "solver": (
        {"solver": "difference", "step_share": 0.5},
        ["NegTrans solver: difference", "NegTrans step share: 0.5"],
    ),
    "depths": ({"tac_depths": "0.9, 0.2"}, ['NegTrans TAC depths: "0.9, 0.2"']),
}


@pytest.fixture(scope="module")
def plain(client):
    return client.translate(arguments(**EMBEDDING), **PROMPT)["images"][0]


@pytest.mark.parametrize("name", OPTIONS)
def test_it_acts_and_its_picture_can_be_made_again_from_its_text(client, webui, plain, name):
    values, written = OPTIONS[name]
    answer = client.translate(arguments(**EMBEDDING, **values), **PROMPT)
    picture, text = answer["images"][0], infotext(answer)
    assert difference(picture, plain) > 1
    assert all(pair in text for pair in written), text
    assert client.translate(restored(webui, picture), **PROMPT)["images"][0] == picture


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"guidance": "topk", "topk_ratio": 1.0}, id="top-k of everything"),
        pytest.param(
            {"guidance": "sega", "sega_threshold": 0.0, "sega_warmup": 0, "sega_momentum": 0.0}, id="SEGA of everything"
        ),
    ],
)
@pytest.mark.parametrize("prompt", ["", "a photo AND a shirt :0.5"])
def test_a_variants_limit_is_the_hosts_own_guidance(client, values, prompt):
    ours, host = (client.translate(arguments(**EMBEDDING, **more), prompt=prompt)["images"][0] for more in (values, {}))
    assert difference(ours, host) <= 1


def test_guidance_does_not_depend_on_how_the_host_splits_its_calls(client):
    script_args = arguments(**EMBEDDING, guidance="perp", tac_halves="both")
    request = {"prompt": "a photo AND a shirt :0.5", "negative_prompt": "cg"}
    together = client.translate(script_args, **request)["images"][0]
    client.options(batch_cond_uncond=False)
    try:
        apart = client.translate(script_args, **request)["images"][0]
    finally:
        client.options(batch_cond_uncond=True)
    assert difference(together, apart) <= 1


GRID = {"negative_prompt": "a 3d render of a doll", "cfg_scale": 15}


def test_a_grid_over_guidance(client, webui):
    listed = webui.get("/sdapi/v1/script-info").json()
    axes = next(s for s in listed if s["name"] == "x/y/z plot" and s["is_img2img"])["args"][0]["choices"]
    for name in ("Guidance", "Top-k ratio", "SEGA threshold", "CFG rescale", "TAC halves", "TAC blend", "TAC depths"):
        assert f"[NegTrans] {name}" in axes
    answer = client.plot({"X": ("[NegTrans] Guidance", "cfg,topk,sega")}, **GRID)
    assert len(answer["images"]) == 4
    assert "X Type: [NegTrans] Guidance" in json.loads(answer["info"])["infotexts"][0]
    cells = answer["images"][1:]
    alone = client.translate(arguments(guidance="topk"), **GRID)["images"][0]
    assert pixels(cells[1]).tolist() == pixels(alone).tolist()
    assert difference(cells[0], cells[1]) > 1 and difference(cells[1], cells[2]) > 1


def test_neutral_prompts_keywords_rule_their_picture(client, webui):
    need_neighbour(webui, "neutral prompt")
    keyword = {"prompt": "a photo AND_PERP a red shirt :0.8"}
    theirs = client.translate(arguments(**EMBEDDING), **keyword)
    ours = client.translate(arguments(**EMBEDDING, guidance="topk", topk_ratio=0.1), **keyword)
    assert difference(ours["images"][0], theirs["images"][0]) == 0
    text = infotext(ours)
    assert "NegTrans guidance: cfg" in text and "NegTrans guidance stood down: topk" in text
    # without a keyword ours acts, although the extension is there
    plain, guided = (
        client.translate(arguments(**EMBEDDING, **more), **PROMPT)["images"][0]
        for more in ({}, {"guidance": "topk", "topk_ratio": 0.1})
    )
    assert difference(plain, guided) > 1


CONCEPT = {"concepts": "a blue shirt :8 | threshold=0.5\nstriped :-0.7 | kind=topk ratio=0.2"}


@pytest.mark.parametrize("word", ["AND_PERP", "AND_SALT", "AND_TOPK"])
def test_our_words_give_neutral_prompts_picture(client, webui, word):
    """Their formulas, with our own rows, to 2 grey levels: ours are in a call of their own."""
    need_neighbour(webui, "neutral prompt")
    asked = {"prompt": f"a photo of a shirt {word} a red striped dress :0.8"}
    theirs = client.translate(arguments(**EMBEDDING), **asked)
    plain = client.translate(arguments(**EMBEDDING), **PROMPT)["images"][0]
    client.options(neutral_prompt_enabled=False)
    try:
        ours = client.translate(arguments(**EMBEDDING), **asked)
    finally:
        client.options(neutral_prompt_enabled=True)
    assert difference(ours["images"][0], theirs["images"][0]) <= 2
    assert difference(ours["images"][0], plain) > 10  # and it acts
    # where theirs rule the prompt, ours stand down, which is said
    both = client.translate(arguments(**EMBEDDING, **CONCEPT), **asked)
    assert "NegTrans guidance stood down: concepts" in infotext(both)
    assert difference(both["images"][0], theirs["images"][0]) == 0


def test_concepts_come_back_from_the_picture_and_each_way_of_writing_is_the_same(client, webui):
    lines = "a blue shirt :8 | threshold=0.5\nwool :0.6 | kind=topk"
    plain = {"prompt": "a photo of a shirt", "negative_prompt": "cg"}
    answer = client.translate(arguments(**EMBEDDING, concepts=f"a doll :-1 | kind=perp\n{lines}"), **plain)
    picture, text = answer["images"][0], infotext(answer)
    assert 'NegTrans concepts: "a doll :-1 | kind=perp\\na blue shirt :8 | threshold=0.5\\nwool :0.6 |' in text
    assert client.translate(restored(webui, picture), **plain)["images"][0] == picture
    # as words in the negative prompt, where neutral-prompt has none
    words = {**plain, "negative_prompt": "cg AND_PERP a doll"}
    answer = client.translate(arguments(**EMBEDDING, concepts=lines), **words)
    assert difference(answer["images"][0], picture) == 0
    assert "Negative prompt: cg AND_PERP a doll\n" in infotext(answer)
    assert client.translate(restored(webui, answer["images"][0]), **words)["images"] == answer["images"]
    none, without = (
        client.translate(arguments(**EMBEDDING, concepts=text), **plain)["images"][0] for text in ("wool :0", "")
    )
    assert difference(none, without) == 0 and difference(picture, without) > 10


def test_the_hosts_and_is_a_concept_of_kind_cfg(client):
    both = client.translate(arguments(**EMBEDDING), prompt="a photo of a shirt AND red :0.5")["images"][0]
    line = client.translate(arguments(**EMBEDDING, concepts="red :0.5 | kind=cfg"), **PROMPT)["images"][0]
    assert difference(both, line) <= 1


def test_a_grid_over_a_concepts_weight(client):
    axes = {"X": ("[NegTrans] Concepts", "a red dress"), "Y": ("[NegTrans] Weight of concept 1", "0,6,-6")}
    answer = client.plot(axes, **GRID)
    cells = answer["images"][1:]
    for cell, text in zip(cells, ("", "a red dress :6", "a red dress :-6"), strict=True):
        alone = client.translate(arguments(concepts=text), **GRID)["images"][0]
        assert pixels(cell).tolist() == pixels(alone).tolist()
    assert difference(cells[0], cells[1]) > 1 and difference(cells[1], cells[2]) > 1


def test_concepts_that_cannot_be_read_are_refused_in_one_sentence(client):
    answer = client.ask(arguments(concepts="wool | kind=tok"))
    assert "Line 1 of Concepts: kind must be one of cfg, perp" in answer.text
    answer = client.ask(negative_prompt="a photo AND_TOPK [a AND_PERP b]")
    assert "AND_PERP within square brackets is not supported" in answer.text


def test_a_concepts_text_is_edited_by_steps_as_a_prompts_is_and_a_batch_has_it_in_each_picture(client):
    def made(text, **more):
        return client.translate(arguments(concepts=text), negative_prompt="cg", steps=50, **more)["images"]

    first, last, edited = (made(text)[0] for text in ("red :20", "a blue coat :20", "[red:a blue coat:4] :20"))
    assert min(difference(first, edited), difference(edited, last)) > 1
    batch = made("red :20", batch_size=2)
    assert len(batch) == 2 and all(difference(one, first) <= 1 for one in batch)
    assert difference(made("red :20", cfg_scale=1)[0], made("", cfg_scale=1)[0]) > 1
