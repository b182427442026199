"""A training that is killed again and again, at moments nobody chose, ends as if nothing had happened.

NEGTRANS_KILLS sets how often (default 3); `tools/kill_training.py` does it with whole command lines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.test_training_lora import make_photos

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
KILLS = int(os.environ.get("NEGTRANS_KILLS", "3"))

# every attempt is a child of a process that has the model in memory but has never computed with it
ATTEMPTS = """
import os, random, signal, sys, time, traceback
from pathlib import Path
import numpy as np
from PIL import Image
from safetensors.torch import save_file
from lib_negtrans.models.standalone import load_model
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from tests.tiny_model import ldm_state, tiny_networks

NAME = "neg-x"
place, kills, seed, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
save_file(ldm_state(tiny_networks()), place / "base.safetensors")
host, generator = load_model(place / "base.safetensors", device="cpu"), random.Random(seed)
host.checkpoint_hash
options = dict(
    size=64, batch_size=1, accumulation=1, save_every=2, latent_sampling="step", flip=True, alpha_weight=True,
    shuffle_tags=True, tag_dropout=0.2, latent_cache="disk", ema=0.9, validate_every=4, result="best",
)
if kind == "student":
    options = dict(size=64, batch_size=1, save_every=2, flip=True, ema=0.9)
options |= {
    "negative": dict(steps=40, vectors=2, template="filewords", lr="5e-2:20, 1e-2"),
    "lora": dict(
        steps=20, rank=2, conv_rank=2, text_encoder=True, lr="1e-2", scheduler="cosine", warmup=3, prior="base",
        caption_dropout=0.2, precision="bf16",
    ),
    "student": dict(steps=16, rank=2, decoder_rank=2, lr="1e-3", warmup=3),
    "full": dict(steps=12, text_encoder=True, lr="1e-4", scheduler="linear", warmup=2, save_every=1),
}[kind]
params = KINDS[kind].options.from_dict(options)
suffix = KINDS[kind].suffix
renders = place / "renders"
renders.mkdir()
for number, size in enumerate([(64, 64), (64, 96), (96, 64), (64, 64), (64, 64), (64, 64)]):
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(values).save(renders / f"{number}.png")
    (renders / f"{number}.txt").write_text("a coat, red, long, wool")
    (place / "photos").mkdir(exist_ok=True)
    Image.fromarray(255 - values[..., :3]).save(place / "photos" / f"{number}.png")
photos = place / "photos" if kind == "student" else None

def train(out):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        request = TrainingRequest(NAME, renders, params, resume=True, kind=kind, photos=photos)
        job = Training(request, host, out / "run", out / f"{NAME}{suffix}")
        for _ in job.run():
            pass
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)

def result(out):
    return (out / f"{NAME}{suffix}").read_bytes(), (out / "run" / "loss.csv").read_bytes()

began = time.monotonic()
assert os.waitpid(train(place / "whole"), 0)[1] == 0
whole_time = time.monotonic() - began
done = attempts = 0
while done < kills:
    pid = train(place / "killed")
    # long enough to come further now and then, short enough to be killed often
    time.sleep(generator.uniform(0, whole_time * min(0.3, 2.5 / kills)))
    if os.waitpid(pid, os.WNOHANG)[0]:
        break  # it was done before
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    done += 1
assert os.waitpid(train(place / "killed"), 0)[1] == 0
assert result(place / "whole") == result(place / "killed"), "the results differ"
assert not [p for p in (place / "killed").rglob("*") if p.name.startswith(".") and p.suffix != ".tmp"]
print(done)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("kind", ["negative", "lora", "full", "student"])
def test_killed_at_random_moments(tmp_path, kind):
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(tmp_path), str(KILLS), "0", kind],
        cwd=ROOT, env=os.environ | QUIET, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(f"{done.stdout.strip()} kills")
    assert int(done.stdout) >= min(KILLS, 3), "it was done before it could be killed"


def test_adapt_is_killed_in_each_half(tmp_path):
    """Whole command lines on the demonstration model, from two folders to one file."""
    photos, renders = make_photos(tmp_path / "photos"), make_photos(tmp_path / "renders", 3, 40)

    def start(out):
        options = ["--lora-option", "rank=2", "--negative-option", "vectors=2", "--negative-option", "accumulation=1"]
        for kind in ("lora", "negative"):
            for value in ("steps=12", "size=64", "save_every=2", "ema=0.9"):
                options += [f"--{kind}-option", value]
        call = [sys.executable, "-m", "lib_negtrans", "adapt", "--photos", str(photos), "--renders", str(renders)]
        call += ["--name", "neg-x", "--out", str(tmp_path / out), "--device", "cpu", *options]
        return subprocess.Popen(call, cwd=ROOT, env=os.environ | QUIET, stdout=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    for half in ("neg-x-photo", "neg-x"):
        process = start("killed")
        while not list((tmp_path / "killed" / f"{half}.run").glob("checkpoint-*")):
            assert process.poll() is None, "it was done before it could be killed"
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "neg-x.pt").exists()
    assert start("killed").wait() == 0
    for name in ("neg-x-photo.safetensors", "neg-x.pt", "neg-x.bundle.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
