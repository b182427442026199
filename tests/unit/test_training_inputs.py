"""What goes into training: learning-rate schedule, captions, pictures and their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.options import ParamError
from lib_negtrans.pictures.sizes import cover
from lib_negtrans.training.data.batch import RowSource
from lib_negtrans.training.data.captions import BUILT_IN, Captions, filewords, load_captions
from lib_negtrans.training.data.dataset import check_folder, read_folder
from lib_negtrans.training.data.latents import build_dataset
from lib_negtrans.training.data.sampler import EpochSampler
from lib_negtrans.training.errors import CaptionError, DatasetError, ScheduleError, sentence
from lib_negtrans.training.lr_schedule import parse_learning_rate
from lib_negtrans.training.params import TrainingParams

SIZE_64 = TrainingParams(size=64)


def drain(generator):
    """(what it yields, what it returns)"""
    found = []
    while True:
        try:
            found.append(next(generator))
        except StopIteration as end:
            return found, end.value


def picture(path, size=(64, 64), mode="RGB", seed=0, **options):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(values, "RGBA") if mode == "RGBA" else Image.fromarray(values[..., :3]).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("text", "pieces", "end"),
    [
        ("5e-3", [(5e-3, None)], None),
        ("5e-3:100, 1e-3:1000, 1e-5", [(5e-3, 100), (1e-3, 1000), (1e-5, None)], None),
        ("0.005:100,1e-3:-1", [(5e-3, 100), (1e-3, None)], None),
        ("1e-3:250", [(1e-3, 250)], 250),
        (" 1e-3 : 250 ,, 5e-4 : 300 ,", [(1e-3, 250), (5e-4, 300)], 300),
    ],
)
def test_schedule_pieces(text, pieces, end):
    schedule = parse_learning_rate(text)
    assert list(schedule.pieces) == pieces
    assert schedule.end == end


def test_a_rate_lasts_through_its_step():
    schedule = parse_learning_rate("5e-3:2, 1e-3:5, 1e-5")
    assert [schedule.rate(done) for done in range(7)] == [5e-3, 5e-3, 1e-3, 1e-3, 1e-3, 1e-5, 1e-5]


def test_a_schedule_that_ends_shortens_the_run():
    schedule = parse_learning_rate("5e-3:100, 1e-3:400")
    assert (schedule.steps(1000), schedule.steps(300)) == (400, 300)
    with pytest.raises(IndexError, match="ends at step 400"):
        schedule.rate(400)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("fast", "'fast' is not a number"),
        ("1e-3:ten", "whole step number"),
        ("1e-3:1.5", "whole step number"),
        ("1e-3:", "whole step number"),
        ("1e-3:0", "at least 1"),
        ("1e-3:-2", "at least 1"),
        ("1e9", "at most 1"),
        ("0", "above 0"),
        ("-1e-3", "above 0"),
        ("nan", "above 0"),
        ("inf", "above 0"),
        ("1e-3:100, 1e-4:50", "ascend"),
        ("1e-3:100, 1e-4:100", "ascend"),
        ("1e-3, 1e-4:50", "never be reached"),
        ("1e-3:-1, 1e-4", "never be reached"),
        ("5e-3:100; 1e-3", "whole step number"),
    ],
)
def test_schedule_typos_get_one_sentence(text, says):
    with pytest.raises(ScheduleError, match=says) as caught:
        parse_learning_rate(text)
    assert isinstance(caught.value, ParamError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ("red coat", "red coat"),
        ("012-red coat", "red coat"),
        ("00012-0-red coat", "red coat"),
        ("12", ""),
        ("-7 blue", "blue"),
        ("a12", "a12"),
        ("外套 赤", "外套 赤"),
        ("coat (1)", r"coat \(1\)"),
        ("coat [a:b:0.5]", r"coat \[a:b:0.5\]"),
        ("coat AND skirt BREAK", "coat and skirt break"),
        ("HANDBAG", "HANDBAG"),
        ("[name] coat", "coat"),
    ],
)
def test_words_from_file_names(tmp_path, stem, words):
    assert filewords(tmp_path / f"{stem}.png") == (words, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red coat\n", "a red coat"),
        ("\ufeffa red coat", "a red coat"),
        ("1girl, coat,\nboots", "1girl, coat, boots"),
        ("coat <lora:x:1>", "coat"),
        (r"coat \(style\)", r"coat \(style\)"),
        ("", ""),
    ],
)
def test_words_from_a_text_file(tmp_path, text, words):
    (tmp_path / "12.coat.txt").write_text(text, encoding="utf-8")
    assert filewords(tmp_path / "12.coat.png") == (words, True)


def test_a_text_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("Mäntel".encode("latin-1"))
    with pytest.raises(CaptionError, match=r"a\.txt is not UTF-8"):
        filewords(tmp_path / "a.png")


def test_captions_are_prompts_the_hosts_accept(tmp_path, shared_tiny_host):
    (tmp_path / "a.txt").write_text("[a|b] (x:1.2.3) AND [c:d:0.5] <lora:q:1>)) ((", encoding="utf-8")
    words, _ = filewords(tmp_path / "a.png")
    shared_tiny_host.encode_prompts([Captions(BUILT_IN["filewords"]).fill(0, "neg-x", words)])


def test_templates(tmp_path):
    for name, lines in BUILT_IN.items():
        assert load_captions(name).lines == lines
        assert all("[name]" in line for line in lines)
    own = tmp_path / "own.txt"
    own.write_text("\n [name] of [filewords]\n\n[name]\n", encoding="utf-8")
    assert load_captions(own).lines == ("[name] of [filewords]", "[name]")
    assert load_captions(str(own)).fill(0, "neg-x", "a coat") == "neg-x of a coat"


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no caption template"), ("", "is empty"), ("[name]\na picture", "'a picture'.*lacks")]
)
def test_bad_templates_get_one_sentence(tmp_path, content, says):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(CaptionError, match=says):
        load_captions(path)


def test_without_words_their_comma_goes():
    captions = Captions(("[filewords], [name]", "[name], [filewords]"))
    assert [captions.fill(i, "neg-x", "") for i in (0, 1)] == ["neg-x", "neg-x"]


def test_the_template_is_drawn_anew_each_time():
    captions, generator = Captions(("[name] a", "[name] b", "[name] c")), torch.Generator().manual_seed(0)
    drawn = {captions.draw("n", "", generator) for _ in range(40)}
    assert drawn == {"n a", "n b", "n c"}


@pytest.fixture
def mixed_folder(tmp_path):
    """Everything a folder of a user may hold."""
    folder = tmp_path / "pictures of 服"
    picture(folder / "a.png", seed=1)
    picture(folder / "sub folder" / "名前 2.jpg", (80, 120), seed=2)
    picture(folder / "alpha.png", mode="RGBA", seed=3)
    picture(folder / "cmyk.jpg", (70, 70), mode="CMYK", seed=4)
    picture(folder / "tiny.png", (1, 1))
    Image.fromarray(np.full((64, 64), 40000, dtype=np.uint16)).save(folder / "deep.png")
    (folder / "copy of a.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "text.png").write_text("no picture", encoding="utf-8")
    (folder / "empty.webp").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.md").write_text("x", encoding="utf-8")
    (folder / "a.txt").write_text("a coat", encoding="utf-8")
    return folder


def test_report_names_everything(mixed_folder):
    report = check_folder(mixed_folder, 64, aspect="square")
    assert [e.path for e in report.entries] == [
        "a.png", "alpha.png", "cmyk.jpg", "copy of a.png", "deep.png", "sub folder/名前 2.jpg",
    ]  # fmt: skip
    assert sorted(path for path, _ in report.skipped) == ["cut.png", "empty.webp", "text.png", "tiny.png"]
    assert dict(report.skipped)["tiny.png"].startswith("is 1x1 pixels")
    assert report.duplicates == [["a.png", "copy of a.png"]]
    assert [e.path for e in report.entries if e.has_alpha] == ["alpha.png"]
    assert [e.path for e in report.entries if e.captioned] == ["a.png"]
    text = "\n".join(sentence for _, sentence in report.sentences())
    for part in (
        "Skipped: cut.png cannot be read",
        "Skipped: tiny.png is 1x1",
        "2 times: a.png",
        "1 picture is not square",
        "1 picture is partly transp",
    ):
        assert part in text
    other = check_folder(mixed_folder, 64)
    assert "1 picture is not square and trained in its own shape: " in "\n".join(s for _, s in other.sentences())
    plain = report.to_dict()
    assert (plain["images"], plain["alpha"], len(plain["skipped"])) == (6, 1, 4)


def test_pictures_are_what_they_look_like(mixed_folder):
    images, report = drain(read_folder(mixed_folder, 64, aspect="square"))
    by_name = {e.path: image for e, (_, _, image) in zip(report.entries, images, strict=True)}
    assert all(image.shape == (3, 64, 64) and image.min() >= 0 and image.max() <= 1 for image in by_name.values())
    # 16 bit is scaled, not clipped to white
    assert torch.allclose(by_name["deep.png"], torch.tensor(40000 / 65535), atol=1e-3)


@pytest.mark.parametrize(("background", "level"), [("grey", 0.5), ("white", 1.0)])
def test_transparency_shows_the_background(tmp_path, background, level):
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    images, _ = drain(read_folder(tmp_path, 64, background=background))
    assert torch.allclose(images[0][2], torch.tensor(level), atol=1e-6)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (64, 128))
    image.paste((255, 255, 255), (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees to the right when shown
    image.save(tmp_path / "a.png", exif=exif)
    assert check_folder(tmp_path, 64).entries[0].size == (128, 64)


def test_crop_keeps_the_centre_and_the_aspect():
    image = torch.zeros(3, 64, 192)
    image[:, :, 64:128] = 1.0
    assert torch.equal(cover(image, (64, 64)), torch.ones(3, 64, 64))
    circle = (torch.cartesian_prod(torch.arange(96), torch.arange(160)).float() - torch.tensor([47.5, 79.5])).norm(
        dim=1
    )
    small = cover((circle < 40).float().reshape(1, 96, 160).expand(3, -1, -1), (48, 48))[0] > 0.5
    assert abs(int(small.any(0).sum()) - int(small.any(1).sum())) <= 1


@pytest.mark.parametrize("shape", [(64, 65), (65, 64), (1000, 67), (67, 1000), (513, 511)])
def test_crop_is_always_square(shape):
    assert cover(torch.rand(3, *shape), (72, 72)).shape == (3, 72, 72)


def test_pattern_leaves_masks_out(tmp_path):
    picture(tmp_path / "mh_1.png")
    picture(tmp_path / "mask_1.png", seed=1)
    assert [e.path for e in check_folder(tmp_path, 64, "mh_*").entries] == ["mh_1.png"]
    with pytest.raises(DatasetError, match="No pictures matching 'x\\*'"):
        check_folder(tmp_path, 64, "x*")


def test_folders_that_cannot_be_trained_on(tmp_path):
    with pytest.raises(DatasetError, match="There is no folder"):
        check_folder(tmp_path / "missing", 64)
    with pytest.raises(DatasetError, match="No pictures were found"):
        check_folder(tmp_path, 64)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"None of the 1 pictures.*a\.png"):
        check_folder(tmp_path, 64)


def test_fingerprint_follows_pixels_and_captions(tmp_path):
    picture(tmp_path / "a.png", seed=1)
    first = check_folder(tmp_path, 64).fingerprint
    assert check_folder(tmp_path, 64).fingerprint == first
    (tmp_path / "a.txt").write_text("coat", encoding="utf-8")
    captioned = check_folder(tmp_path, 64).fingerprint
    picture(tmp_path / "a.png", seed=2)
    assert len({first, captioned, check_folder(tmp_path, 64).fingerprint}) == 3


def test_latents_are_the_hosts_and_cached_once(tmp_path, shared_tiny_host):
    for i in range(3):
        picture(tmp_path / f"{i}.png", seed=i)
    events, dataset = drain(build_dataset(shared_tiny_host, tmp_path, SIZE_64))
    assert [(e.done, e.total) for e in events] == [(1, 3), (2, 3), (3, 3)]
    images, _ = drain(read_folder(tmp_path, 64))
    for latent, (_, _, image) in zip(dataset.latents, images, strict=True):
        assert torch.equal(latent, shared_tiny_host.encode_image(image[None])[0])


def test_rows_depend_on_the_generator_alone(tmp_path, shared_tiny_host):
    for i in range(3):
        picture(tmp_path / f"{i} coat.png", seed=i)
    _, dataset = drain(build_dataset(shared_tiny_host, tmp_path, SIZE_64))

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        source = RowSource(dataset, load_captions("filewords"), "neg-x", (0, 300), generator)
        torch.manual_seed(int(torch.randint(100, (1,))))  # the global one must not matter
        return [rows for _ in range(5) for rows in source.batches(2, 2)]

    for a, b in zip(draw(1), draw(1), strict=True):
        assert torch.equal(a.noise, b.noise) and torch.equal(a.timesteps, b.timesteps) and a.captions == b.captions
    assert not torch.equal(draw(1)[0].noise, draw(2)[0].noise)
    assert all("neg-x" in caption and "coat" in caption for rows in draw(1) for caption in rows.captions)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 12])
def test_every_epoch_shows_every_picture_once(batch):
    sampler = EpochSampler(5, torch.Generator().manual_seed(0))
    drawn = [i for _ in range(5 * 12 // batch) for i in sampler.draw(batch)]
    for start in range(0, len(drawn) - 4, 5):
        assert sorted(drawn[start : start + 5]) == [0, 1, 2, 3, 4]
    assert len({tuple(drawn[s : s + 5]) for s in range(0, len(drawn) - 4, 5)}) > 1


@pytest.mark.parametrize("done", [0, 1, 4, 5, 6, 13])
def test_sampler_goes_on_from_its_state(done):
    one = EpochSampler(5, torch.Generator().manual_seed(3))
    one.draw(done)
    other = EpochSampler(5, torch.Generator().manual_seed(9))
    other.load_state_dict(one.state_dict())
    other.generator.set_state(one.generator.get_state())
    assert other.draw(20) == one.draw(20)


def test_sampler_refuses_another_folders_state():
    one, other = (EpochSampler(n, torch.Generator()) for n in (5, 6))
    with pytest.raises(ValueError, match="5 pictures, not 6"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried .."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_is_one_sentence_by_whatever_name(error):
    assert sentence(error).startswith("Memory ran out: lower the batch size")
