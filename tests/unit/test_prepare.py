"""From a messy tree to a training folder: what is taken, how it is cut and named, and that nothing is ever lost."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib_negtrans.apps.cli.main import main
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import picture_from_pil
from lib_negtrans.pictures.masks import border_mask
from lib_negtrans.preparation import build as module
from lib_negtrans.preparation.build import REPORT_FILE, PrepareError, prepare
from lib_negtrans.preparation.choice import choose
from lib_negtrans.preparation.framing import cut, find_subject, frame
from lib_negtrans.preparation.names import LONGEST, Names, safe_name
from lib_negtrans.preparation.params import PrepareParams
from lib_negtrans.training.data.dataset import check_folder


def noise(path, size=(96, 96), seed=0, **options):
    """Smooth noise: pictures of different seeds are nowhere nearly the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


def run(source, target, overwrite=False, **params):
    job = prepare(source, target, PrepareParams(**({"size": 64} | params)), overwrite)
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


def state(folder):
    """Every file of a tree with content and time."""
    return {
        p.relative_to(folder).as_posix(): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
        for p in sorted(folder.rglob("*"))
    }


@pytest.fixture
def messy(tmp_path):
    source = tmp_path / "source"
    for number in range(6):
        noise(source / "dress" / "long" / f"{number}.png", seed=number)
    noise(source / "dress" / "short" / "0.png", (96, 160), seed=20)
    noise(source / "coat_and_hat" / "0.jpg", (160, 96), seed=21)
    noise(source / "coat_and_hat" / "CON.png", seed=22)
    noise(source / "large.webp", (300, 200), seed=23)
    Image.open(source / "dress/long/0.png").resize((120, 120)).save(source / "again.jpg", quality=80)
    (source / "dress" / "long" / "1.txt").write_text("a red dress\n", encoding="utf-8")
    (source / "dress" / "long" / "2.txt").write_bytes("Mäntel".encode("latin-1"))
    noise(source / "small.png", (70, 50), seed=24)
    (source / "empty.png").write_bytes(b"")
    (source / "cut.jpg").write_bytes((source / "again.jpg").read_bytes()[:500])
    (source / "dress" / "loop").symlink_to(source / "dress")
    (source / "loop.png").symlink_to(source / "loop.png")
    (source / ".hidden.png").write_bytes(b"")
    return source


def test_a_messy_tree(messy, tmp_path):
    before = state(messy)
    report = run(messy, tmp_path / "out")
    assert state(messy) == before
    written = sorted(p.name for p in (tmp_path / "out").glob("*.png"))
    assert written == [
        "again.png", "coat_and_hat-0.png", "coat_and_hat-CON.png", *(f"dress-long-{n}.png" for n in range(1, 6)),
        "dress-short-0.png", "large.png",
    ]  # fmt: skip
    reasons = dict(report.left_out)
    assert reasons["dress/long/0.png"] == "is nearly the same as again.jpg."  # the larger one is kept
    assert "70x50" in reasons["small.png"] and "cannot be read" in reasons["empty.png"] + reasons["cut.jpg"]
    assert reasons["loop.png"] == "is a link that leads nowhere."
    assert sorted(path for path, _ in report.unreadable) == ["cut.jpg", "empty.png", "loop.png"]
    for name in written:
        assert Image.open(tmp_path / "out" / name).size == (64, 64)
    captions = {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "out").glob("*.txt")}
    assert captions["dress-long-1.txt"] == "a red dress"
    assert captions["dress-long-3.txt"] == "dress, long" and captions["coat_and_hat-0.txt"] == "coat and hat"
    assert "again.txt" not in captions
    assert "dress/long/2.txt is not UTF-8" in " ".join(report.lines())
    kept = json.loads((tmp_path / "out" / REPORT_FILE).read_text(encoding="utf-8"))
    assert (kept["found"], len(kept["prepared"]), kept["params"]["size"]) == (report.found, 10, 64)
    # what comes out can be trained on as it is
    assert len(check_folder(tmp_path / "out", 64).entries) == 10
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_of_two_the_original_is_kept_and_not_its_copy(tmp_path):
    for name in ("mh_007.png", "copy of mh_007 (1).png"):
        noise(tmp_path / "in" / name, seed=40)
    assert [p.source for p in run(tmp_path / "in", tmp_path / "out").prepared] == ["mh_007.png"]


def test_the_same_call_gives_the_same_bytes(messy, tmp_path):
    one, other = (run(messy, tmp_path / name, total=5, seed=3) for name in "ab")
    assert [p.source for p in one.prepared] == [p.source for p in other.prepared] and one.spare == 5
    assert {n: c for n, (_, c) in state(tmp_path / "a").items() if n != REPORT_FILE} == {
        n: c for n, (_, c) in state(tmp_path / "b").items() if n != REPORT_FILE
    }
    assert "Only 10 can be used, fewer than the 99" in " ".join(run(messy, tmp_path / "d", total=99).lines())
    assert {p.source for p in run(messy, tmp_path / "c", total=5, seed=4).prepared} != {p.source for p in one.prepared}


def test_another_colour_is_not_a_duplicate(tmp_path):
    shape = np.zeros((96, 96, 3), dtype=np.uint8) + 240
    for name, colour in {"red": (180, 20, 20), "blue": (20, 20, 180)}.items():
        shape[20:80, 30:60] = colour
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(shape).save(tmp_path / "in" / f"{name}.png")
    assert len(run(tmp_path / "in", tmp_path / "out").prepared) == 2
    Image.open(tmp_path / "in" / "red.png").save(tmp_path / "in" / "red again.jpg")
    assert len(run(tmp_path / "in", tmp_path / "out2").prepared) == 2
    assert len(run(tmp_path / "in", tmp_path / "out3", duplicates=-1).prepared) == 3


def test_choice_is_balanced_at_every_level():
    paths = [f"a/x/{i}.png" for i in range(50)] + [f"a/y/{i}.png" for i in range(50)] + [f"b/{i}.png" for i in range(4)]
    chosen = choose(paths, 24, True, 0)
    counts = [sum(p.startswith(start) for p in chosen) for start in ("a/x", "a/y", "b/")]
    assert counts == [10, 10, 4], "b gives all it has, and the others make up for it"
    assert [sum(p.startswith(s) for p in choose(paths, 0, True, 0)) for s in ("a/", "b/")] == [4, 4]
    assert choose(paths, 0, False, 0) == sorted(paths) and len(choose(paths, 1000, True, 0)) == 104


@given(
    st.lists(st.tuples(st.sampled_from(["", "a/", "b/", "a/x/"]), st.integers(0, 30)), max_size=60, unique=True),
    st.integers(0, 70), st.booleans(), st.integers(0, 5),
)  # fmt: skip
def test_choice_properties(entries, total, balance, seed):
    paths = [f"{folder}{number}.png" for folder, number in entries]
    chosen = choose(paths, total, balance, seed)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(paths)
    assert chosen == choose(list(reversed(paths)), total, balance, seed)
    if total:
        assert len(chosen) == min(total, len(paths))


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["dress", "a:b?.png"], "dress-a_b_.png"),
        (["con"], "con_"),
        (["COM1.backup"], "COM1.backup_"),
        (["trailing. . "], "trailing"),
        ([".hidden", "--x"], "hidden-x"),
        (["..", ""], "picture"),
        (["ドレス", "赤"], "ドレス-赤"),
        ([unicodedata.normalize("NFD", "café")], "café"),
        (["a\u202eb\x00c"], "a_b_c"),
    ],
)
def test_names(parts, name):
    assert safe_name(parts) == name


@given(st.lists(st.text(max_size=80), min_size=1, max_size=4))
def test_every_name_is_safe(parts):
    name = safe_name(parts)
    assert name and len(name.encode("utf-8")) <= LONGEST + 1 and name[-1] not in ". " and name[0] not in ".-"
    assert not set(name) & set('<>:"/\\|?*') and name == unicodedata.normalize("NFC", name)
    assert safe_name([name]) == name


def test_names_differ_for_every_file_system():
    names = Names()
    taken = [
        names.take([n]) for n in ("Coat", "coat", "COAT", unicodedata.normalize("NFD", "é"), "é", "coat-2", "ﬁ", "fi")
    ]
    keys = {unicodedata.normalize("NFKC", name).casefold() for name in taken}
    assert len(keys) == len(taken) and taken[0] == "Coat" and taken[1] == "coat-2"
    assert len({names.take(["x" * 300 + str(n)]) for n in range(3)}) == 3


def subject_on(colour, box, size=(100, 200), mode="RGB"):
    image = Image.new(mode, size, colour)
    image.paste((200, 30, 30, 255)[: len(colour)], box)
    return image


def test_the_subject_is_found():
    assert find_subject(subject_on((240, 240, 240), (20, 100, 60, 180))).box == (20, 100, 60, 180)
    assert find_subject(subject_on((240, 240, 240), (20, 100, 60, 200))).how == "plain border", "it may stand on a side"
    found = find_subject(subject_on((0, 0, 0, 0), (10, 20, 30, 60), mode="RGBA"))
    assert (found.box, found.how) == ((10, 20, 30, 60), "alpha")
    random = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    assert find_subject(random).how == "unknown"
    assert find_subject(Image.new("RGB", (70, 90))).how == "unknown"


@pytest.mark.parametrize(
    "box", [(20, 100, 60, 180), (0, 150, 60, 200), (0, 10, 100, 190), (0, 0, 100, 100)],
    ids=["free", "in a corner", "over two sides", "over half of the border"],
)  # fmt: skip
def test_preparation_and_translation_see_the_same_background(box):
    """A subject is cut out after a plain border exactly where a translation would take its mask from it."""
    image = subject_on((240, 240, 240), box)
    mask = border_mask(picture_from_pil(image).rgb)
    assert find_subject(image).box == (None if mask is None else box)


def test_a_large_picture_has_its_subject_at_its_own_scale():
    box = find_subject(subject_on((240, 240, 240), (301, 1001, 900, 2600), size=(2000, 3000))).box
    assert np.abs(np.subtract(box, (301, 1001, 900, 2600))).max() <= 4 and box[0] <= 301 and box[2] >= 900


@pytest.mark.parametrize("fit", ["crop", "subject", "pad", "aspect"])
@pytest.mark.parametrize("box", [(5, 150, 45, 195), (10, 10, 90, 200), (40, 90, 60, 110)])
@pytest.mark.parametrize("colour", [(240, 240, 240), (0, 0, 0, 0)])
def test_nothing_of_the_subject_is_cut(fit, box, colour):
    image = subject_on(colour, box, mode="RGBA" if len(colour) == 4 else "RGB")
    subject = find_subject(image)
    found = frame(image.size, subject, fit, 64)
    where = subject.box
    assert (
        where == box and found[0] <= where[0] and found[1] <= where[1] and found[2] >= where[2] and found[3] >= where[3]
    )
    result = cut(image, found, subject, fit, 64)
    assert result.mode == image.mode
    if fit == "aspect":
        assert result.size == (44, 88), "own shape, about the area"
    else:
        assert result.size == (64, 64) and found[2] - found[0] == found[3] - found[1] >= 64
    # the subject's share of the picture's area is what the frame says: it was neither stretched nor lost
    red = np.asarray(result.convert("RGB"), dtype=int)
    share = ((red[..., 0] - red[..., 2] > 85) & (np.asarray(result.convert("RGBA"))[..., 3] > 127)).mean()
    area = (found[2] - found[0]) * (found[3] - found[1])
    assert share == pytest.approx((box[2] - box[0]) * (box[3] - box[1]) / area, abs=0.05)


def test_without_a_subject_a_portrait_keeps_its_upper_part():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 100, 3), dtype=np.uint8))
    left, top, right, bottom = frame(image.size, find_subject(image), "crop", 64)
    assert (left, right, bottom - top) == (0, 100, 100) and 0 < top < 50
    wide = image.rotate(90, expand=True)
    assert frame(wide.size, find_subject(wide), "crop", 64) == (100, 0, 200, 100)


def test_padding_has_the_borders_colour(tmp_path):
    (tmp_path / "in").mkdir()
    subject_on((10, 200, 10), (2, 20, 98, 180)).save(tmp_path / "in" / "a.png")
    report = run(tmp_path / "in", tmp_path / "out")
    assert report.prepared[0].padded
    assert Image.open(tmp_path / "out" / "a.png").getpixel((1, 32)) == (10, 200, 10)


def test_where_the_result_may_go(messy, tmp_path):
    for target, says in [
        (messy, "holds the pictures themselves"),
        (tmp_path, "holds the pictures themselves"),
        (messy / "large.webp", "is a file"),
    ]:
        with pytest.raises(PrepareError, match=says):
            run(messy, target, overwrite=True)
    with pytest.raises(PrepareError, match="There is no folder"):
        run(tmp_path / "none", tmp_path / "out")
    # inside the source: its own result is not looked at
    inside = messy / "dress" / "prepared"
    assert run(messy, inside).found == run(messy, inside, overwrite=True).found
    with pytest.raises(PrepareError, match="not empty"):
        run(messy, inside)
    (inside / "mine.doc").write_text("x")
    with pytest.raises(PrepareError, match=r"also holds mine\.doc"):
        run(messy, inside, overwrite=True)
    (tmp_path / "foreign").mkdir()
    noise(tmp_path / "foreign" / "a.png")
    with pytest.raises(PrepareError, match="was not prepared here"):
        run(messy, tmp_path / "foreign", overwrite=True)
    assert (tmp_path / "foreign" / "a.png").exists() and (inside / "mine.doc").exists()


def test_a_link_in_the_target_is_no_way_out(messy, tmp_path):
    (tmp_path / "link").symlink_to(messy)
    with pytest.raises(PrepareError, match="holds the pictures themselves"):
        run(messy, tmp_path / "link", overwrite=True)


@pytest.mark.parametrize("how", ["closed", "full"])
def test_an_end_before_the_end_leaves_nothing(messy, tmp_path, how, monkeypatch):
    out = tmp_path / "out"
    run(messy, out, total=2)
    before = state(out)
    if how == "closed":
        job = prepare(messy, out, PrepareParams(size=64), overwrite=True)
        for progress in job:
            if progress.phase == "writing" and progress.done == 3:
                break
        job.close()
    else:
        real, calls = Image.Image.save, []

        def save(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
            real(self, *args, **kwargs)

        monkeypatch.setattr(module.Image.Image, "save", save)
        with pytest.raises(PrepareError, match=r"No space left on device\); nothing was changed"):
            run(messy, out, overwrite=True)
    assert state(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_nothing_usable_is_one_sentence(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(PrepareError, match="No pictures were found"):
        run(tmp_path / "in", tmp_path / "out")
    noise(tmp_path / "in" / "a.png", (80, 80))
    with pytest.raises(PrepareError, match=r"None of the 1 pictures.*a\.png, is 80x80 pixels"):
        run(tmp_path / "in", tmp_path / "out", size=128)
    assert len(run(tmp_path / "in", tmp_path / "out", size=128, minimum=64).prepared) == 1
    with pytest.raises(ParamError, match="multiple of 8"):
        run(tmp_path / "in", tmp_path / "out2", size=100)


def test_unreadable_folders_are_named(messy, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path):
        if Path(path).name == "short":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert dict(run(messy, tmp_path / "out").left_out)["dress/short"] == "cannot be opened (Permission denied)."


def test_the_command(messy, tmp_path, capsys):
    assert main(["prepare", str(messy), str(tmp_path / "out"), "--size", "64", "--total", "4", "--balance"]) == 1
    text = capsys.readouterr().out
    assert "4 of 14 pictures prepared at 64 pixels" in text and "Left out: empty.png cannot be read" in text
    assert main(["prepare", str(messy), str(tmp_path / "out"), "--size", "64"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["prepare", str(messy), str(tmp_path / "out"), "--size", "64", "--json", "--overwrite"]) == 1
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {e["event"] for e in events} == {"progress", "prepared"} and events[-1]["found"] == 14
