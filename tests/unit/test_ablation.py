"""The ablation: its rows switch off what they say, and each part is put back afterwards."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("skimage", reason="scikit-image is not installed")

from lib_negtrans.evaluation.ablation import EXCHANGED_ROWS, FULL, NO_POSITIVE, ROWS, ablation, ablation_table
from lib_negtrans.evaluation.crops import Render, garment_box
from lib_negtrans.evaluation.run import evaluate
from lib_negtrans.lora.files import read_lora, write_lora
from lib_negtrans.translation.negatives import Negative
from tests.lora_files import random_pairs


@pytest.fixture
def parts(shared_tiny_host, tmp_path):
    """Two negatives, and a LoRA with its weight."""
    width = shared_tiny_host.embedding_width
    vectors = torch.randn(2, 2, width, generator=torch.Generator().manual_seed(0))
    write_lora(tmp_path / "photo.safetensors", random_pairs(shared_tiny_host, scale=0.5), {})
    return [Negative(f"neg-{i}", vectors[i]) for i in (0, 1)], [(read_lora(tmp_path / "photo.safetensors"), 1.0)]


def test_rows_hold_the_parts_that_they_name(parts):
    rows = ablation({"steps": 10, "seed": 5}, *parts)
    assert list(rows) == list(ROWS)
    for name, members in rows.items():
        text = ROWS[name].split()
        for number, one in enumerate(members):
            assert one.params.start == ("inversion" if "inversion" in text else "noise"), name
            assert (one.params.tac_ratio > 0) == ("tac" in text), name
            assert list(one.embeddings) == ([f"neg-{number}"] if "negative" in text else []), name
            assert one.params.negative_prompt == (f"neg-{number}" if "negative" in text else ""), name
            assert bool(one.loras) == ("positive" in text), name
            assert one.params.seed == 5 + number, name
    assert [len(members) for members in rows.values()] == [2, 1, 1, 2, 1, 2, 2, 2]


def test_negatives_trained_without_the_lora_are_used_without_it_and_exchanged(parts):
    negatives, loras = parts
    base = [Negative(f"base-{i}", one.vectors) for i, one in enumerate(negatives)]
    rows = ablation({"steps": 10}, negatives, loras, base)
    assert list(rows) == list(dict.fromkeys([*ROWS, *EXCHANGED_ROWS])) and EXCHANGED_ROWS[FULL] == ROWS[FULL]
    for name, text in EXCHANGED_ROWS.items():
        word = "base" if "base-negative" in text.split() else "neg"
        assert [list(one.embeddings) for one in rows[name]] == [[f"{word}-0"], [f"{word}-1"]], name
        assert all(bool(one.loras) == ("positive" in text) and one.params.tac_ratio > 0 for one in rows[name]), name
    assert rows[NO_POSITIVE] != ablation({"steps": 10}, negatives, loras)[NO_POSITIVE]


def test_each_part_changes_the_pictures_and_is_taken_out_again(parts, calm_tiny_host):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[8:56, 8:56] = True
    renders = [Render(f"{i}.png", image.roll(i, 2), mask, garment_box(mask)) for i in range(3)]
    before = {name: value.clone() for name, value in calm_tiny_host.unet.state_dict().items()}
    photos = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    rows = ablation({"steps": 10, "step_share": 1.0}, *parts)
    configurations = [one for members in rows.values() for one in members]
    result = evaluate(calm_tiny_host, renders, photos, configurations, lambda x: x.flatten(1).numpy(), size=64)
    assert all(torch.equal(value, before[name]) for name, value in calm_tiny_host.unet.state_dict().items())
    found = {row.name: row for row in result.rows}
    assert found["inversion [1]"].ssim > 0.99
    # without guidance an inverted picture is only reconstructed, with or without attention control and the LoRA
    effective = [members[0].name for name, members in rows.items() if "inversion" not in ROWS[name].split()[:1]]
    effective += [members[0].name for name, members in rows.items() if "negative" in ROWS[name].split()]
    crops = [result.crops[name] for name in dict.fromkeys(effective)]
    assert len(crops) == 5
    for number, one in enumerate(crops):
        assert all((one - other).abs().max() > 1e-3 for other in crops[number + 1 :])
    lines = ablation_table(result, rows).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "renders", "renders through the VAE", "photos through the VAE", *ROWS,
    ]  # fmt: skip
    assert next(line for line in lines if line.startswith(f"| {FULL} |")).count("±") == 6
