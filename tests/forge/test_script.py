"""The script on Forge: what A1111's tests ask of it, and what is Forge's alone."""

from __future__ import annotations

from tests.webui.client import arguments, difference
from tests.webui.test_script_api import (  # noqa: F401
    test_a_list_of_version_1_gives_the_same_bytes,
    test_a_lora_acts_in_both_directions_and_is_gone_afterwards,
    test_agrees_with_the_command_line_to_one_grey_level,
    test_an_axis_of_the_grid_makes_a_translation,
    test_batch_size_two_and_count_two,
    test_every_preset_agrees_with_the_command_line,
    test_outside_the_mask_nothing_changes,
    test_plain_pictures_stay_the_same_to_the_byte,
    test_refused_in_one_sentence,
    test_seeds_matter_when_started_from_noise,
    test_the_same_request_gives_the_same_bytes,
    test_token_merging_is_off_for_the_job,
)


def test_multidiffusion_is_refused_in_one_sentence(client):
    listed = client.server.get("/sdapi/v1/script-info").json()
    script = next(s for s in listed if "multidiffusion" in s["name"] and s["is_img2img"])
    values = [argument["value"] for argument in script["args"]]
    values[0] = True
    answer = client.ask(alwayson_scripts={script["name"]: {"args": values}})
    assert answer.status_code == 422 and "MultiDiffusion" in answer.json()["detail"]
    assert client.ask().status_code == 200


def test_unequal_prompts_and_and(client):
    """AND with weights, a long negative prompt, scale 1: each changes the picture, and is the same again."""
    neg = arguments(embedding="neg-test")
    cases = [{}, {"prompt": "a photo AND a shirt :0.5"}, {"negative_prompt": "ugly, " * 90}, {"cfg_scale": 1}]
    pictures = [client.translate(neg, **case)["images"][0] for case in cases]
    assert all(difference(pictures[0], other) > 1 for other in pictures[1:])
    assert pictures == [client.translate(neg, **case)["images"][0] for case in cases]


def test_weights_of_and_that_do_not_add_up_to_one_are_kept_at_scale_one(client):
    """Forge leaves the unconditional out there, and would multiply the clean picture by the weights' sum."""
    joined = client.translate(arguments(), cfg_scale=1, prompt="a photo :0.6 AND a photo :0.6")["images"][0]
    assert difference(joined, client.translate(arguments(), cfg_scale=1.2, prompt="a photo")["images"][0]) <= 1
