"""A whole evaluation on the tiny model, its table, sheet and command."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

pytest.importorskip("skimage", reason="scikit-image is not installed")

from lib_negtrans.apps.cli import evaluate as command
from lib_negtrans.apps.cli import main as cli
from lib_negtrans.apps.cli.reporting import CallError
from lib_negtrans.evaluation.configurations import parse_configurations
from lib_negtrans.evaluation.crops import load_render
from lib_negtrans.evaluation.report import HEADER, evaluation_data, evaluation_sheet, markdown_table
from lib_negtrans.evaluation.run import evaluate, judge_pictures, round_trip
from lib_negtrans.models import standalone
from lib_negtrans.pictures import feature_network as features
from lib_negtrans.pictures.tree import image_files

needs_features = pytest.mark.skipif(features.missing_packages() is not None, reason=str(features.missing_packages()))


def pool(images: torch.Tensor) -> np.ndarray:
    """Features without the network: mean colours of 4x4 fields."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1).numpy()


@pytest.fixture
def folder(tmp_path):
    """Five renders 64x80 with masks."""
    rng = np.random.default_rng(0)
    path = tmp_path / "renders"
    path.mkdir()
    for i in range(5):
        pixels = np.kron(rng.integers(40, 220, (8, 10, 3)), np.ones((8, 8, 1)))
        mask = np.zeros((64, 80))
        mask[8:56, 20:64] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(path / f"mh_{i}.png")
        Image.fromarray(mask.astype(np.uint8)).save(path / f"mask_{i}.png")
    return path


@pytest.fixture
def renders(folder):
    return [load_render(p) for p in image_files(folder)]


PHOTOS = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TEXT = "default,no-tac,none:cfg_scale=1:tac_ratio=0"


@pytest.mark.parametrize("region", ["crop", "full"])
def test_every_configuration_has_its_row_crops_and_cost(calm_tiny_host, renders, region):
    configurations = parse_configurations(TEXT, {"steps": 10, "step_share": 1.0, "negative_prompt": "a 3d render"})
    progress, rows = [], []
    result = evaluate(
        calm_tiny_host, renders, PHOTOS, configurations, pool, region=region, size=64, batch=2,
        on_progress=lambda *step: progress.append(step), on_row=rows.append,
    )  # fmt: skip
    names = [row.name for row in result.rows]
    assert names == ["renders", "renders through the VAE", "photos through the VAE", *(c.name for c in configurations)]
    assert [row.name for row in rows] == names
    assert progress[:3] == [("default", 2, 5), ("default", 4, 5), ("default", 5, 5)]
    base, _, _, default, no_tac, none = result.rows
    assert (base.ssim, base.delta_e, base.cost, base.kid_change) == (1.0, 0.0, None, None)
    # 3 steps: 4 rows of the source's; two guided rows, one where guidance is off; the first conditional one is known
    assert (no_tac.cost.forwards, none.cost.forwards) == (9, 6)
    assert default.cost.seconds > 0
    for row in (default, no_tac, none):
        assert 0 <= row.photo_share <= 1 and (row is none or (row.ssim < 1 and row.delta_e > 0))
        assert row.kid_change[0] == pytest.approx(row.kid.value - base.kid.value)
    # a reconstruction keeps all of the render, a translation does not
    assert none.ssim == pytest.approx(1) and no_tac.ssim < 0.99
    assert result.crops["default"].shape == result.sources.shape == (5, 3, 64, 64)
    assert result.masks.shape == (5, 64, 64) and result.photos == 12


def test_garment_column_does_not_see_the_background(renders):
    """Outputs that differ from the renders in their background alone: KID moves, KID garment does not."""
    outputs = [torch.where(r.mask, r.rgb, torch.tensor(0.9)) for r in renders]
    pictures = [r.rgb for r in renders]
    result = judge_pictures(renders, ("renders", pictures), {"brighter": outputs}, PHOTOS, pool, size=64)
    base, row = result.rows
    assert (base.name, row.name, row.cost) == ("renders", "brighter", None)
    moved = abs(row.kid.value - base.kid.value)
    assert abs(row.kid_garment.value - base.kid_garment.value) < 0.05 * moved
    assert row.delta_e < 1  # resampling mixes a little over the mask's edge


def test_judged_outputs_may_have_another_scale(renders):
    doubled = [torch.nn.functional.interpolate(r.rgb[None], scale_factor=2)[0] for r in renders]
    pictures = [r.rgb for r in renders]
    row = judge_pictures(renders, ("renders", pictures), {"doubled": doubled}, PHOTOS, pool, size=64).rows[1]
    assert row.ssim > 0.97 and abs(row.kid_change[0]) < 0.02


def test_round_trip_keeps_size_and_order(shared_tiny_host):
    pictures = [torch.rand(3, 64, 72), torch.rand(3, 64, 72), torch.rand(3, 70, 66)]
    results = round_trip(shared_tiny_host, pictures, 2)
    assert [tuple(r.shape) for r in results] == [tuple(p.shape) for p in pictures]
    alone = round_trip(shared_tiny_host, pictures[1:2])[0]
    assert torch.allclose(results[1], alone, atol=1e-4)


def test_region_is_checked(shared_tiny_host, renders):
    with pytest.raises(ValueError, match="region"):
        evaluate(shared_tiny_host, renders, PHOTOS, [], pool, region="half", size=64)


def test_table_json_and_sheet(shared_tiny_host, renders):
    configurations = parse_configurations("no-tac", {"steps": 10, "step_share": 1.0, "negative_prompt": "render"})
    result = evaluate(shared_tiny_host, renders, PHOTOS, configurations, pool, size=64)
    lines = markdown_table(result).split("\n\n")[0].splitlines()
    assert len(lines) == 2 + 4 + 1  # header and rule, four rows, the floor
    assert {line.count("|") for line in lines} == {len(HEADER) + 1}
    assert lines[-1].startswith("| photos to photos (floor)")
    assert "not comparable with published KID" in markdown_table(result)
    data = json.loads(json.dumps(evaluation_data(result)))
    assert [row["name"] for row in data["rows"]] == [row.name for row in result.rows]
    assert data["rows"][0]["kid_change"] is None and data["rows"][2]["kid_error"] > 0
    sheet = evaluation_sheet(result, pictures=4, cell=96)
    assert sheet.width > 4 * 96 and sheet.height > 3 * 96


class Reports(list):
    """A Reporter that keeps what it is told."""

    def event(self, kind, line=None, **fields):
        self.append((kind, line, fields))

    result = event

    def problem(self, line, **fields):
        self.append(("error", line, fields))

    def bar(self, **options):
        return tqdm(disable=True)


def call(text: str) -> tuple[int, Reports]:
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--device", "--dtype", "--feature-memory"):
        parser.add_argument(flag)
    parser.set_defaults(lora=[])
    command.add_arguments(parser)
    reports = Reports()
    return command.run(parser.parse_args(text.split()), reports), reports


@needs_features
def test_the_command(folder, tmp_path, shared_tiny_host, monkeypatch):
    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: shared_tiny_host)
    sheet = tmp_path / "out" / "sheet.png"
    code, reports = call(f"--renders {folder} --size 64 --steps 10 --configs no-tac --count 4 --sheet {sheet}")
    assert code == 0
    assert [kind for kind, *_ in reports] == [*["configuration"] * 3, "evaluation", "sheet"]
    assert reports[3][1].startswith("| configuration | KID")
    assert reports[3][2]["renders"] == 4 and reports[3][2]["photos"] == 200
    with Image.open(sheet) as image:
        assert image.width > 4 * 192


@needs_features
def test_the_command_judges_outputs_and_names_what_is_missing(folder, tmp_path, capsys):
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for path in image_files(folder)[:4]:
        with Image.open(path) as image:
            image.save(outputs / path.name)
    text = f"--renders {folder} --outputs {outputs} --size 64"
    code, reports = call(text)
    assert code == 1
    assert [line for kind, line, _ in reports if kind == "error"] == [f"failed: mh_4.png: has no picture in {outputs}."]
    row = reports[-1][2]["rows"][1]
    assert row["name"] == "outputs" and row["ssim"] == pytest.approx(1.0) and row["kid_change"] == pytest.approx(0.0)
    capsys.readouterr()
    assert cli.main(["evaluate", *text.split(), "--quiet"]) == 1  # the table is what it was called for
    assert capsys.readouterr().out.startswith("| configuration | KID")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--renders {tmp}/nowhere", "is not a folder"),
        ("--renders {tmp}", "holds 0 pictures"),
        ("--renders {folder} --size 100", "multiple of 8"),
        ("--renders {folder} --count 2", "at least 3"),
        ("--renders {folder} --photos {tmp}/nowhere", "--photos"),
        ("--renders {folder} --outputs {tmp}/nowhere", "only 0 renders"),
    ],
)
@needs_features
def test_a_wrong_call_is_one_line(arguments, message, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CallError, match=message):
        call(arguments.format(tmp=empty, folder=folder))


def test_without_the_packages_the_command_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(command, "missing_packages", lambda: "The evaluation needs more packages: pip install ...")
    with pytest.raises(CallError, match="pip install"):
        call(f"--renders {folder}")


def test_a_wrong_call_ends_with_code_2_and_one_line(folder, capsys):
    assert cli.main(["evaluate", "--renders", str(folder / "nowhere")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err


@needs_features
def test_lite0_features_tell_pictures_apart_and_ignore_scale():
    network = features.Lite0()
    colours = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(colours, size=(128, 128), mode="bicubic").clamp(0, 1)
    found = network(smooth)
    assert found.shape == (2, features.WIDTH) and found.dtype == np.float32
    doubled = torch.nn.functional.interpolate(smooth, size=(256, 256), mode="bicubic").clamp(0, 1)
    assert np.linalg.norm(network(doubled) - found) < 0.3 * np.linalg.norm(found[0] - found[1])
    with pytest.raises(ValueError, match="images must be"):
        network(smooth[0])
