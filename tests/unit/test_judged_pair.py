"""Pairs judged one by one: the table is that of all at once, what fails is named, and no pictures pile up."""

from __future__ import annotations

import pickle
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("skimage", reason="scikit-image is not installed")

from lib_negtrans.apps.cli import evaluate as command
from lib_negtrans.evaluation import judged_pair
from lib_negtrans.evaluation.judged_pair import PairItem, PairJob, PairWorker
from lib_negtrans.evaluation.report import markdown_table
from lib_negtrans.evaluation.run import THROUGH_VAE, Judge, judge_pictures, round_trip
from lib_negtrans.models import standalone
from lib_negtrans.models.standalone import ModelChoice
from lib_negtrans.pictures.images import load_picture
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.runners.runner import ItemFailed, make_item
from tests.unit.test_evaluation_run import PHOTOS, call, folder, pool, renders  # noqa: F401


def soften(source, target, scale=1):
    with Image.open(source) as image:
        image.resize((20, 16)).resize((image.width * scale, image.height * scale)).save(target)


@pytest.fixture
def items(folder, tmp_path):  # noqa: F811
    """Pairs of the five renders and softer ones, one of them at twice the size."""
    (tmp_path / "outputs").mkdir()
    pairs = [PairItem(path, tmp_path / "outputs" / path.name, path.name) for path in image_files(folder)]
    for number, pair in enumerate(pairs):
        soften(pair.source, pair.target, 2 if number == 3 else 1)
    return pairs


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The command with the tests' features and photographs; gives the options that name them."""
    for module in (command, judged_pair):
        monkeypatch.setattr(module, "missing_packages", lambda: None)
        monkeypatch.setattr(module, "Lite0", lambda _device: pool)
    (tmp_path / "photos").mkdir()
    for number, photo in enumerate((PHOTOS * 255).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{number:02}.png")
    return f"--photos {tmp_path / 'photos'} --size 64"


@pytest.mark.parametrize("background", ["same", "mean"])
@pytest.mark.parametrize("with_model", [False, True])
def test_pairs_one_by_one_give_the_table_of_all_at_once(items, renders, background, with_model, shared_tiny_host):  # noqa: F811
    host = shared_tiny_host if with_model else None
    worker = PairWorker(PairJob(64, background), pool, host)
    measures = [make_item(worker, item) for item in items]
    photos = pool(PHOTOS)
    judge = Judge(photos)
    judge.add("base", [one.base for one in measures])
    judge.add("soft", [one.output for one in measures])
    pictures = [r.rgb for r in renders]
    base = ("base", round_trip(host, pictures) if host else pictures)
    outputs = {"soft": [load_picture(item.target).rgb for item in items]}
    together = judge_pictures(renders, base, outputs, photos, pool, size=64, background=background)
    alone = judge.evaluation(together.names, together.sources, {}, together.masks)
    assert markdown_table(alone) == markdown_table(together)
    assert alone.rows[1].kid.value == pytest.approx(together.rows[1].kid.value, abs=1e-5)
    assert together.rows[1].ssim < 0.999 and together.rows[1].delta_e > 0.1


def test_job_item_and_measures_travel_and_hold_no_picture(items):
    job = PairJob(64, "mean", ModelChoice("model", dtype=torch.float16), "cpu")
    assert pickle.loads(pickle.dumps((job, items[0]))) == (job, items[0])
    sent = pickle.dumps(make_item(PairWorker(PairJob(64, "mean"), pool), items[0]))
    assert len(sent) < 4 * 4 * 48 + 1000, "four rows of 48 features and five numbers; a crop has 49152 bytes"
    found = pickle.loads(sent)
    for one in (found.base, found.output):
        assert one.features.shape == one.garment.shape == (48,) and one.features.dtype == np.float32
    assert (found.base.ssim, found.base.delta_e) == (1.0, (0.0, 0.0))
    assert 0 < found.output.ssim < 1 and len(found.output.delta_e) == 2


def test_a_job_starts_where_it_or_the_runner_says(shared_tiny_host, monkeypatch):
    places = []
    monkeypatch.setattr(judged_pair, "missing_packages", lambda: None)
    monkeypatch.setattr(judged_pair, "Lite0", lambda place: places.append(str(place)))
    monkeypatch.setattr(standalone, "usable_device", lambda name: torch.device(name))
    monkeypatch.setattr(standalone, "load_model", lambda choice: places.append(str(choice.device)) or shared_tiny_host)
    PairJob().start("cuda:1")
    assert PairJob(model=ModelChoice("m"), device="cpu").start("cuda:1").host is shared_tiny_host
    assert places == ["cuda:1", "cpu", "cpu"]
    monkeypatch.setattr(judged_pair, "missing_packages", lambda: "The evaluation needs more packages: ..")
    with pytest.raises(judged_pair.UserError, match="needs more packages"):
        PairJob().start()


def test_every_pair_that_fails_is_one_line(items, folder, offline):  # noqa: F811
    for number in (5, 6, 7):
        Image.new("RGB", (64, 80), (90, 20 * number, 60)).save(folder / f"mh_{number}.png")
        soften(folder / f"mh_{number}.png", items[0].target.with_name(f"mh_{number}.png"))
    items[0].target.unlink()
    items[1].target.write_bytes(b"no picture")
    Image.new("RGB", (64, 64)).save(items[2].target)
    items[3].source.write_bytes(b"no picture")
    code, reports = call(f"--renders {folder} --outputs {items[0].target.parent} {offline}")
    unreadable = "cannot be read as a picture (UnidentifiedImageError): replace or remove it."
    assert code == 1 and reports[-1][2]["renders"] == 4
    assert [(line, fields["source"]) for kind, line, fields in reports if kind == "error"] == [
        (f"failed: mh_0.png: has no picture in {items[0].target.parent}.", "mh_0.png"),
        (f"failed: mh_1.png: {unreadable}", "mh_1.png"),
        ("failed: mh_2.png: is 80x64 but its translation 64x64: another shape.", "mh_2.png"),
        (f"failed: {items[3].source}: {unreadable}", str(items[3].source)),
    ]


def test_a_mask_that_no_crop_shows_fails_its_pair_alone(items):
    thin = np.zeros((640, 800), np.uint8)
    thin[100, 100:700] = thin[100:600, 100] = 255
    for path, mode in ((items[0].source, "RGB"), (items[0].target, "RGB")):
        Image.new(mode, (800, 640)).save(path)
    Image.fromarray(thin).save(items[0].source.with_name("mask_0.png"))
    with pytest.raises(ItemFailed, match="mask too thin for a crop of 64 pixels"):
        make_item(PairWorker(PairJob(64), pool), items[0])


@pytest.mark.parametrize("model", ["", "--model tiny"])
def test_the_command_holds_one_pair_at_a_time_and_its_sheet_eight(
    folder, tmp_path, offline, model, shared_tiny_host, monkeypatch  # noqa: F811
):  # fmt: skip
    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: shared_tiny_host)
    outputs, loaded = tmp_path / "soft", []
    outputs.mkdir()
    for number in range(12):
        if number > 4:
            Image.new("RGB", (80, 64), (20 * number, 90, 60)).save(folder / f"mh_{number}.png")
        soften(folder / f"mh_{number}.png", outputs / f"mh_{number}.png")
    load = judged_pair.load_render

    def watched(*args):
        assert sum(alive() is not None for alive, _ in loaded) <= 1
        render = load(*args)
        loaded.append((weakref.ref(render), render.name))
        return render

    monkeypatch.setattr(judged_pair, "load_render", watched)
    text = f"--renders {folder} --outputs {outputs} --judged-background mean {model} {offline}"
    code, reports = call(f"{text} --sheet {tmp_path / 'sheet.png'}")
    names = [path.name for path in image_files(folder)]
    assert code == 0 and [name for _, name in loaded] == names + names[:8]
    data = reports[-2][2]
    assert data["renders"] == 12 and data["size"] == 64
    assert [row["name"] for row in data["rows"]] == [THROUGH_VAE if model else "renders", "soft"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        rows = 3 if model else 2  # without the VAE, the base is the renders
        assert 8 * 192 < sheet.width < 10 * 192 and rows * 192 < sheet.height < (rows + 1) * 192


def test_the_order_in_which_pairs_are_done_does_not_matter(items, folder, offline, monkeypatch):  # noqa: F811
    text = f"--renders {folder} --outputs {items[0].target.parent} {offline}"
    table = call(text)[1][-1][2]
    measured = command._measured
    monkeypatch.setattr(command, "_measured", lambda args, job, items: reversed(list(measured(args, job, items))))
    assert call(text)[1][-1][2] == table
