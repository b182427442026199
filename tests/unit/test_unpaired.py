"""The baseline without diffusion, and its row beside ours."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("skimage", reason="scikit-image is not installed")

from benchmarks import unpaired
from lib_negtrans.evaluation.crops import Render, centre_box
from lib_negtrans.evaluation.run import THROUGH_VAE, evaluate, round_trip


def test_the_contrast_is_least_where_each_place_is_kept():
    torch.manual_seed(0)
    generator, projections = unpaired.Generator(), unpaired.Projections()
    source = generator.features(torch.rand(1, 3, 32, 32))
    moved = [features.roll((3, 5), (2, 3)) for features in source]
    with torch.no_grad():
        kept, lost = (unpaired.contrast(projections, source, result) for result in (source, moved))
    assert kept < 0.9 * lost


def test_a_training_goes_on_and_its_file_translates(tmp_path, monkeypatch):
    pictures = torch.randint(0, 256, (3, 3, unpaired.SIZE, unpaired.SIZE), dtype=torch.uint8)
    monkeypatch.setattr(unpaired, "PART", 32)
    ticks = iter(range(100))
    monkeypatch.setattr(unpaired.time, "process_time", lambda: next(ticks))
    file = tmp_path / "cut.pt"
    unpaired.train(pictures, pictures, file, 2.5 / 3600, resume=False)
    first = torch.load(file, weights_only=True)
    unpaired.train(pictures, pictures, file, 8.5 / 3600, resume=True)
    second = torch.load(file, weights_only=True)
    assert 0 < first["step"] < second["step"]
    name = "decoder.0.inner.0.weight"
    assert not torch.equal(first["average"][name], second["average"][name])
    shapes = [(3, 32, 40), (3, 64, 48)]
    found = unpaired.translate_all(file, [torch.rand(shape) for shape in shapes])
    assert [tuple(picture.shape) for picture in found] == shapes


def test_another_program_gets_the_same_pictures_and_a_row(calm_tiny_host):
    generator = torch.Generator().manual_seed(0)
    everywhere, box = torch.ones(64, 64, dtype=torch.bool), centre_box(64, 64)
    renders = [Render(str(n), torch.rand(3, 64, 64, generator=generator), everywhere, box) for n in range(4)]
    result = evaluate(
        calm_tiny_host, renders, torch.rand(8, 3, 64, 64, generator=generator), [],
        lambda images: torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1).numpy(), size=64,
        others={"untouched": list, "through": lambda pictures: round_trip(calm_tiny_host, pictures)},
    )  # fmt: skip
    rows = {row.name: row for row in result.rows}
    assert rows["untouched"].ssim == pytest.approx(1) and rows["through"].ssim == rows[THROUGH_VAE].ssim < 1
    assert torch.equal(result.crops["untouched"], result.sources)
    assert torch.equal(result.crops["through"], result.crops[THROUGH_VAE])
