"""Pictures of every shape as latents: buckets, cache, sampling, mirror, tags, weights; and all of it under a kill."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.pictures.sizes import WIDEST, bucket_for, bucket_sizes
from lib_negtrans.training.data import latents as module
from lib_negtrans.training.data.batch import RowSource
from lib_negtrans.training.data.captions import Captions, load_captions, named_template, vary_tags
from lib_negtrans.training.data.dataset import check_folder
from lib_negtrans.training.data.latents import build_dataset, vae_identity
from lib_negtrans.training.data.sampler import EpochSampler
from lib_negtrans.training.errors import DatasetError
from lib_negtrans.training.events import Finished, Notice, StepDone
from lib_negtrans.training.parallel import Workers
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.run import LATENTS_FOLDER
from tests.training_job import training_job
from tests.unit.test_training_inputs import drain

NAME = "neg-x"
PARAMS = TrainingParams(size=64)
EVERYTHING = {
    "aspect": "buckets", "latent_sampling": "step", "flip": True, "alpha_weight": True, "shuffle_tags": True,
    "tag_dropout": 0.3, "keep_tags": 1, "template": "filewords", "latent_cache": "disk",
}  # fmt: skip


def changed(**values):
    return TrainingParams.from_dict(PARAMS.to_dict() | values)


def picture(path, size=(64, 64), seed=0, alpha=None):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two squares, a portrait, two landscapes; one with transparency; captions with tags."""
    folder = tmp_path_factory.mktemp("mixed")
    alpha = np.zeros((64, 64), dtype=np.uint8)
    alpha[:, :32] = 255
    picture(folder / "a.png", seed=1, alpha=alpha)
    picture(folder / "b.png", seed=2)
    picture(folder / "c.png", (64, 96), seed=3)
    picture(folder / "d.png", (120, 80), seed=4)
    picture(folder / "e.png", (96, 64), seed=5)
    for stem in "abcde":
        (folder / f"{stem}.txt").write_text(f"{stem} coat, red, long, wool", encoding="utf-8")
    return folder


def dataset_of(host, folder, cache=None, **values):
    return drain(build_dataset(host, folder, changed(**values), cache))[1]


@pytest.mark.parametrize("size", [64, 72, 128, 256, 512, 640, 768])
def test_buckets_have_about_the_squares_area(size):
    for width, height in bucket_sizes(size):
        assert width % 8 == 0 and height % 8 == 0 and 1 / WIDEST <= width / height <= WIDEST
        assert 0.75 * size * size <= width * height <= size * size
        assert bucket_for(size, (width, height)) == (width, height)
    assert (size, size) in bucket_sizes(size)
    for shape in [(1, 1), (1000, 999), (3, 4), (16, 9), (1, 20)]:
        assert bucket_for(size, shape, "square") == (size, size)
        assert bucket_for(size, shape)[::-1] == bucket_for(size, shape[::-1])
    assert bucket_for(512, (768, 1024)) == (448, 576) and bucket_for(512, (300, 301)) == (512, 512)


def test_pictures_keep_their_shape(shared_tiny_host, mixed):
    dataset = dataset_of(shared_tiny_host, mixed)
    assert dataset.shapes == [(8, 8), (8, 8), (10, 6), (6, 10), (6, 10)]
    assert all(tuple(x.shape[1:]) == s for x, s in zip(dataset.latents, dataset.shapes, strict=True))
    assert "3 pictures are not square and trained in their own shape: 64x64 (2), 80x48 (2), 48x80 (1)" in " ".join(
        text for _, text in dataset.report.sentences()
    )
    assert dataset_of(shared_tiny_host, mixed, aspect="square").shapes == [(8, 8)] * 5
    assert check_folder(mixed, 64).to_dict()["buckets"] == {"64x64": 2, "80x48": 2, "48x80": 1}


def test_batches_are_of_one_shape_and_hold_every_row(shared_tiny_host, mixed):
    dataset = dataset_of(shared_tiny_host, mixed)
    generator = torch.Generator().manual_seed(0)
    source = RowSource(dataset, load_captions("filewords"), NAME, (0, 300), generator, PARAMS, together=4)
    for _ in range(10):
        batches = list(source.batches(4, 2))
        assert sum(len(rows.captions) for rows in batches) == 4
        assert all(len(rows.captions) <= 2 and len(rows.latents) == len(rows.captions) for rows in batches)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (2, 2), (4, 1), (4, 4), (3, 2)])
def test_rows_do_not_depend_on_how_they_are_shared_out(shared_tiny_host, mixed, count, size):
    """The same rows with the same noise, whatever the batch size and the number of processes."""
    dataset = dataset_of(shared_tiny_host, mixed)
    params = changed(latent_sampling="step", shuffle_tags=True)

    def rows(size, processes):
        found = []
        for rank in range(processes):
            generator = torch.Generator().manual_seed(7)
            source = RowSource(dataset, load_captions("filewords"), NAME, (0, 300), generator, params, together=12)
            for _ in range(3):
                for batch in source.batches(12, size, workers=Workers(rank, processes)):
                    for i, caption in enumerate(batch.captions):
                        found.append((caption, int(batch.timesteps[i]), batch.latents[i].sum(), batch.noise[i].sum()))
        return sorted(found)

    assert rows(size, count) == rows(5, 1)


def test_one_kind_follows_itself_and_every_epoch_is_whole():
    kinds = ["a"] * 7 + ["b"] * 5 + ["c"]
    sampler = EpochSampler(13, torch.Generator().manual_seed(0), kinds, together=3)
    orders = [sampler.draw(13) for _ in range(20)]
    for order in orders:
        assert sorted(order) == list(range(13))
        groups = [{kinds[i] for i in order[at : at + 3]} for at in range(0, 9, 3)]
        assert all(len(group) == 1 for group in groups)
    assert len({tuple(order) for order in orders}) == 20
    assert len({kinds[order[0]] for order in orders}) == 2, "a group of either kind may come first"


def test_one_kind_is_a_plain_permutation():
    one = EpochSampler(9, torch.Generator().manual_seed(0))
    other = EpochSampler(9, torch.Generator().manual_seed(0), ["a"] * 9, together=4)
    assert one.draw(30) == other.draw(30)


@pytest.mark.parametrize("sampling", ["mean", "once", "step"])
def test_latent_sampling(shared_tiny_host, mixed, sampling):
    dataset = dataset_of(shared_tiny_host, mixed)
    params = changed(latent_sampling=sampling)
    source = RowSource(dataset, Captions(("[name]",)), NAME, (0, 300), torch.Generator().manual_seed(0), params)
    seen = {i: [] for i in range(5)}
    for _ in range(3):
        position = source.sampler.position
        row = source.draw(1)[0]
        index = source.sampler.order[position % 5].item() if position < 5 else source.sampler.order[0].item()
        seen[index].append(row.latent)
    for _ in range(12):
        position = source.sampler.position % 5
        row = source.draw(1)[0]
        seen[source.sampler.order[position].item()].append(row.latent)
    for index, found in seen.items():
        assert len(found) == 3
        encoded = dataset.encoded(index)
        differing = sum(not torch.equal(found[0], latent) for latent in found[1:])
        assert differing == (2 if sampling == "step" else 0)
        for latent in found:
            if sampling == "mean":
                assert torch.equal(latent, encoded.mean)
            else:
                z = (latent - encoded.mean) / encoded.std
                assert 0.7 < z.std() < 1.3 and z.mean().abs() < 0.3


def test_once_does_not_depend_on_the_rest_of_the_folder(shared_tiny_host, mixed, tmp_path):
    def sample(folder):
        dataset = dataset_of(shared_tiny_host, folder)
        index = [entry.path for entry in dataset.report.entries].index("b.png")
        source = RowSource(
            dataset.subset([index]), Captions(("[name]",)), NAME, (0, 300), torch.Generator().manual_seed(1),
            changed(latent_sampling="once"),
        )  # fmt: skip
        return source.draw(1)[0].latent

    (tmp_path / "b.png").write_bytes((mixed / "b.png").read_bytes())
    assert torch.equal(sample(mixed), sample(tmp_path))


def test_mirrored_pictures_are_encoded_for_themselves(shared_tiny_host, mixed):
    plain, both = dataset_of(shared_tiny_host, mixed), dataset_of(shared_tiny_host, mixed, flip=True, alpha_weight=True)
    for index in range(5):
        assert torch.equal(both.encoded(index).mean, plain.encoded(index).mean)
        mirrored = both.encoded(index, flipped=True).mean
        assert not torch.equal(mirrored, plain.encoded(index).mean)
        assert not torch.allclose(mirrored, plain.encoded(index).mean.flip(2), atol=1e-3)
    with Image.open(mixed / "b.png") as image:
        values = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255
    expected = shared_tiny_host.encode_image(values.flip(2)[None])[0]
    assert torch.allclose(both.encoded(1, flipped=True).mean, expected, atol=1e-5)
    weight = both.encoded(0).weight
    assert torch.equal(both.encoded(0, flipped=True).weight, weight.flip(2))
    drawn = RowSource(both, Captions(("[name]",)), NAME, (0, 9), torch.Generator().manual_seed(0), changed(flip=True))
    rows = [row.latent for row in drawn.draw(40)]
    share = sum(any(torch.equal(row, both.encoded(i, flipped=True).mean) for i in range(5)) for row in rows) / 40
    assert 0.25 < share < 0.75


def test_weights_follow_the_transparency(shared_tiny_host, mixed, tmp_path):
    dataset = dataset_of(shared_tiny_host, mixed, alpha_weight=True)
    weight = dataset.encoded(0).weight
    assert weight.shape == (1, 8, 8) and torch.equal(weight[0, :, :4], torch.ones(8, 4)) and weight[0, :, 4:].max() == 0
    assert [dataset.encoded(i).weight for i in range(1, 5)] == [None] * 4
    # not square: the weight lies where the transparency does
    alpha = np.zeros((128, 80), dtype=np.uint8)
    alpha[:32] = 255
    picture(tmp_path / "tall.png", (80, 128), alpha=alpha)
    tall = dataset_of(shared_tiny_host, tmp_path, alpha_weight=True).encoded(0).weight
    assert tall.shape == (1, 10, 6) and tall[0, 0].min() > 0.9 and tall[0, 5:].max() == 0
    source = RowSource(dataset, Captions(("[name]",)), NAME, (0, 300), torch.Generator().manual_seed(0), PARAMS)
    weights = [rows.weights for rows in source.batches(10, 5) if rows.weights is not None]
    assert weights and all(w.shape[1:] == (1, 8, 8) for w in weights), "opaque pictures beside it have ones"


def test_a_constant_or_empty_transparency_changes_nothing(shared_tiny_host, tmp_path):
    for name, level in (("half.png", 128), ("none.png", 0)):
        picture(tmp_path / name, alpha=np.full((64, 64), level, dtype=np.uint8))
    job = training_job(
        shared_tiny_host, changed(steps=2, accumulation=1, alpha_weight=True, vectors=1), images=tmp_path, name=NAME,
        run_folder=tmp_path / "run", out=tmp_path / f"{NAME}.pt",
    )  # fmt: skip
    weighted = [event.loss for event in job.run() if isinstance(event, StepDone)]
    job = training_job(
        shared_tiny_host, changed(steps=2, accumulation=1, vectors=1), images=tmp_path, name=NAME,
        run_folder=tmp_path / "run2", out=tmp_path / f"{NAME}.pt", overwrite=True,
    )  # fmt: skip
    assert weighted == pytest.approx([event.loss for event in job.run() if isinstance(event, StepDone)], rel=1e-6)


class CountingHost:
    """The host, and how many pictures it has encoded."""

    def __init__(self, host):
        self.host, self.count = host, 0

    def __getattr__(self, name):
        return getattr(self.host, name)

    def encode_image_distribution(self, image):
        self.count += 1
        return self.host.encode_image_distribution(image)


def test_the_disk_keeps_latents_for_the_next_training(shared_tiny_host, mixed, tmp_path):
    host = CountingHost(shared_tiny_host)
    first = dataset_of(host, mixed, tmp_path / "cache")
    assert host.count == 6  # five and the pattern
    second = dataset_of(host, mixed, tmp_path / "cache")
    assert host.count == 7
    memory = dataset_of(host, mixed)
    for a, b, c in zip(first.latents, second.latents, memory.latents, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert first.report.fingerprint == second.report.fingerprint == memory.report.fingerprint
    assert first.report.entries == second.report.entries == memory.report.entries
    assert first.shapes == second.shapes


@pytest.mark.parametrize("change", [{"size": 72}, {"aspect": "square"}, {"background": "white"}, {"flip": True}])
def test_other_settings_are_other_latents(shared_tiny_host, mixed, tmp_path, change):
    host = CountingHost(shared_tiny_host)
    dataset_of(host, mixed, tmp_path)
    before = host.count
    cached = dataset_of(host, mixed, tmp_path, **change)
    assert host.count - before == (11 if "flip" in change else 6)
    for a, b in zip(cached.latents, dataset_of(host, mixed, **change).latents, strict=True):
        assert torch.equal(a, b)


def test_another_vae_and_a_changed_file_are_other_latents(tiny_host, mixed, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((mixed / "a.png").read_bytes())
    first, identity = dataset_of(tiny_host, tmp_path / "in", tmp_path / "cache").latents[0], vae_identity(tiny_host)
    with torch.no_grad():
        tiny_host.vae.quant_conv.weight.mul_(1.5)
    assert vae_identity(tiny_host) != identity
    second = dataset_of(tiny_host, tmp_path / "in", tmp_path / "cache").latents[0]
    assert not torch.equal(first, second)
    (tmp_path / "in" / "a.png").write_bytes((mixed / "b.png").read_bytes())
    assert not torch.equal(dataset_of(tiny_host, tmp_path / "in", tmp_path / "cache").latents[0], second)


def test_damaged_and_missing_latents(shared_tiny_host, mixed, tmp_path):
    host = CountingHost(shared_tiny_host)
    dataset = dataset_of(host, mixed, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5 and not any(f.suffix in (".pt", ".safetensors", ".png", ".bin") for f in files)
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].unlink()
    before = host.count
    dataset_of(host, mixed, tmp_path)
    assert host.count - before == 3
    files[2].unlink()
    with pytest.raises(DatasetError, match="has gone or is damaged: resume"):
        _ = dataset.latents


def test_a_full_disk_falls_back_to_the_memory(shared_tiny_host, mixed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_bytes_atomic", full)
    events, dataset = drain(build_dataset(shared_tiny_host, mixed, PARAMS, tmp_path))
    notices = [str(event) for event in events if isinstance(event, Notice)]
    assert len(notices) == 1 and "No space left" in notices[0] and "the memory is used" in notices[0]
    assert len(dataset.latents) == 5


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ((False, 0.0, 0), lambda tags, all_: tags == all_),
        ((True, 0.0, 0), lambda tags, all_: sorted(tags) == sorted(all_)),
        ((True, 0.0, 2), lambda tags, all_: tags[:2] == all_[:2] and sorted(tags) == sorted(all_)),
        ((False, 0.5, 1), lambda tags, all_: tags[0] == all_[0] and [t for t in all_ if t in tags] == tags),
        ((True, 1.0, 1), lambda tags, all_: tags == all_[:1]),
    ],
)
def test_tags(options, check):
    generator, all_ = torch.Generator().manual_seed(0), ["a coat", "red", "long", r"wool \(fine\)", "buttons"]
    seen = set()
    for _ in range(20):
        tags = vary_tags(", ".join(all_), generator, *options).split(", ")
        assert check(tags, all_), tags
        seen.add(tuple(tags))
    assert (len(seen) > 3) == (options in ((True, 0.0, 0), (True, 0.0, 2), (False, 0.5, 1)))
    assert vary_tags("", generator, True, 0.5, 0) == ""


def test_auto_is_decided_by_the_folder(shared_tiny_host, mixed, tmp_path):
    assert load_captions("auto", captioned=True) == load_captions("filewords")
    assert load_captions("auto", captioned=False) == load_captions("name")
    picture(tmp_path / "in" / "0123_final.png")
    for folder, caption in ((mixed, "a coat, red, long, wool, neg-x"), (tmp_path / "in", "neg-x")):
        job = training_job(
            shared_tiny_host, changed(steps=1, accumulation=1), images=folder, name=NAME, overwrite=True,
            run_folder=tmp_path / "run", out=tmp_path / f"{NAME}.pt",
        )  # fmt: skip
        list(job.run())
        assert job.captions.fill(0, NAME, "a coat, red, long, wool") == caption


def test_a_template_of_the_host_by_its_name(tmp_path):
    (tmp_path / "style_filewords.txt").write_text("a picture of [filewords], by [name]\n")
    path = str(tmp_path / "style_filewords.txt")
    for name in ("style_filewords", "style_filewords.txt"):
        assert named_template(name, tmp_path) == path
    for name in ("auto", "style", "none-such", "../x", "/etc/passwd", ""):
        assert named_template(name, tmp_path) == name
    assert named_template("style_filewords", None) == "style_filewords"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shared_tiny_host, mixed):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_all(shared_tiny_host, mixed, folder)


def everything(**values):
    return changed(
        **EVERYTHING, steps=8, vectors=2, batch_size=2, accumulation=2, save_every=3, lr="5e-2:4, 1e-2", **values
    )


def run_all(host, folder, where, stops=(), **values):
    """A run with every option on, stopped after the given steps and resumed each time; the bytes of the result."""
    for stop in (*stops, None):
        job = training_job(
            host, everything(**values), images=folder, name=NAME, run_folder=where / "run", out=where / f"{NAME}.pt",
            resume=True,
        )  # fmt: skip
        for event in job.run():
            last = event
            if isinstance(event, StepDone) and event.step == stop:
                job.request_stop()
    assert isinstance(last, Finished)
    return (where / f"{NAME}.pt").read_bytes(), (where / "run" / "loss.csv").read_bytes()


def test_with_every_option_a_resumed_run_equals_an_uninterrupted_one(shared_tiny_host, mixed, tmp_path, whole):
    assert run_all(shared_tiny_host, mixed, tmp_path, (1, 2, 5, 7)) == whole[1]
    assert (tmp_path / LATENTS_FOLDER).is_dir()


def test_memory_and_disk_give_the_same(shared_tiny_host, mixed, tmp_path, whole):
    params = dataclasses.replace(everything(), latent_cache="memory")
    job = training_job(
        shared_tiny_host, params, images=mixed, name=NAME, run_folder=tmp_path / "run", out=tmp_path / f"{NAME}.pt"
    )
    list(job.run())
    assert (tmp_path / "run" / "loss.csv").read_bytes() == whole[1][1]
    assert not (tmp_path / LATENTS_FOLDER).exists()
