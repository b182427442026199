"""One trainer of benchmarks/train.py in this process: started as its users start it, ended after some steps."""

from __future__ import annotations

import itertools
import json
import runpy
import shutil
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tools")]
WARM_UP, PICTURES, NAME = 2, 5, "neg-bench"


class Enough(SystemExit):
    """Ends a trainer: no SystemExit is taken for a failed step."""


class StepClock:
    """Notes when AdamW steps, and ends the process's trainer after enough of them."""

    def __init__(self, steps: int) -> None:
        import torch
        from memory import PeakMemory

        self.wanted = WARM_UP + steps
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.memory = PeakMemory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        real = torch.optim.AdamW.step

        def step(optimizer, *args, **options):
            result = real(optimizer, *args, **options)
            self.times.append(time.perf_counter())
            self.cpu.append(time.process_time())
            if len(self.times) > self.wanted:
                raise Enough
            return result

        torch.optim.AdamW.step = step

    def begin(self) -> None:
        """The model is loaded, the trainer starts."""
        self.memory.begin()

    def result(self) -> dict[str, Any]:
        import torch

        def taken(times: list[float]) -> float:
            return statistics.median([b - a for a, b in itertools.pairwise(times)][WARM_UP - 1 :])

        return {
            "seconds": taken(self.times), "cpu": taken(self.cpu), "above": self.memory.above(),
            "whole": self.memory.whole(), "torch": torch.__version__,
        }  # fmt: skip


def pictures(job: dict) -> Path:
    """A folder with some of the pictures, without captions."""
    folder = Path(job["folder"]) / "pictures"
    folder.mkdir()
    for path in sorted(Path(job["images"]).glob("*.png"))[:PICTURES]:
        shutil.copy(path, folder)
    return folder


def ours(job: dict, clock: StepClock, host: Any) -> None:
    from lib_negtrans.training.params import TrainingParams
    from lib_negtrans.training.request import TrainingRequest
    from lib_negtrans.training.run import Training

    params = TrainingParams(
        steps=1000, vectors=1, size=job["size"], batch_size=job["batch"], accumulation=1, template="name",
        aspect="square", save_every=1000, gradient_checkpointing="checkpointing" in job["name"],
    )  # fmt: skip
    out = Path(job["folder"]) / f"{NAME}.pt"
    training = Training(TrainingRequest(NAME, pictures(job), params), host, Path(job["folder"]) / "run", out)
    clock.begin()
    for _ in training.run():
        pass


def ours_alone(job: dict, clock: StepClock) -> None:
    import torch
    from models import RANDOM_SD15, benchmark_host

    ours(job, clock, benchmark_host(RANDOM_SD15, dtype=torch.float32))


def ours_in_webui(job: dict, clock: StepClock) -> None:
    _webui_model(job)
    from lib_negtrans.models.a1111 import current_host

    ours(job, clock, current_host())


def webui(job: dict, clock: StepClock) -> None:
    """Through the function behind the button of its Train tab."""
    _webui_model(job)
    from modules.textual_inversion import textual_inversion, ui

    textual_inversion.create_embedding(NAME, 1, True, init_text="style")
    from modules import sd_hijack

    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
    folder, size = pictures(job), job["size"]
    clock.begin()
    ui.train_embedding(
        "bench", NAME, "0.005", job["batch"], 1, str(folder), str(Path(job["folder"]) / "log"), size, size, False, 1000,
        "disabled", "0.1", False, 0, "once", False, 0, 1000, "style.txt", False, False, "", "", 20, "DDIM", 7, -1, 512,
        512,
    )  # fmt: skip


def _webui_model(job: dict) -> None:
    import webui_process

    data = Path(job["folder"]) / "data"
    webui_process.boot(Path(job["webui"]), data)
    webui_process.random_model(data)


def diffusers(job: dict, clock: StepClock) -> None:
    """The example as it is, but for its networks, which are the same as ours and need no folder."""
    import diffusers as library
    import diffusers.utils
    import transformers
    from models import random_sd15

    from lib_negtrans.models.standalone import load_tokenizer

    networks, tokenizer = random_sd15(), load_tokenizer()
    tokenizer.model_max_length = 77  # as SD1.5's own tokenizer_config.json says
    given = {
        (transformers, "CLIPTokenizer"): tokenizer,
        (transformers, "CLIPTextModel"): networks.text_encoder,
        (library, "AutoencoderKL"): networks.vae,
        (library, "UNet2DConditionModel"): networks.unet,
        (library, "DDPMScheduler"): library.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
    }
    for (module, name), network in given.items():
        cls = getattr(module, name)
        cls.from_pretrained = classmethod(lambda cls, *args, network=network, **options: network)
    # a clone may be of a later version than the installed package
    diffusers.utils.check_min_version = lambda version: None
    _stand_in_for_torchvision()
    script = Path(job["diffusers"]) / "examples" / "textual_inversion" / "textual_inversion.py"
    sys.argv = [
        str(script), "--pretrained_model_name_or_path", "random", "--train_data_dir", str(pictures(job)),
        "--placeholder_token", f"<{NAME}>", "--initializer_token", "style", "--resolution", str(job["size"]),
        "--train_batch_size", str(job["batch"]), "--max_train_steps", "1000", "--learnable_property", "style",
        "--output_dir", str(Path(job["folder"]) / "out"), "--report_to", "tensorboard", "--mixed_precision", "no",
    ]  # fmt: skip
    # it logs through accelerate; the writer is not what is measured
    import accelerate

    accelerate.Accelerator.init_trackers = lambda self, *args, **options: None
    clock.begin()
    runpy.run_path(str(script), run_name="__main__")


def _stand_in_for_torchvision() -> None:
    """The example flips pictures with it, and does nothing else."""
    try:
        import torchvision  # noqa: F401

        return
    except ImportError:
        pass
    import random

    from PIL import Image, ImageOps

    class RandomHorizontalFlip:
        def __init__(self, p: float = 0.5) -> None:
            self.p = p

        def __call__(self, image: Image.Image) -> Image.Image:
            return ImageOps.mirror(image) if random.random() < self.p else image

    package, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
    transforms.RandomHorizontalFlip = RandomHorizontalFlip
    package.transforms = transforms
    sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}


RUN = {
    "ours": ours_alone,
    "ours-checkpointing": ours_alone,
    "diffusers": diffusers,
    "webui": webui,
    "ours-webui": ours_in_webui,
    "ours-webui-checkpointing": ours_in_webui,
}


if __name__ == "__main__":
    given_job = json.loads(sys.argv[1])
    the_clock = StepClock(given_job["steps"])
    try:
        RUN[given_job["name"]](given_job, the_clock)
    except Enough:
        print("RESULT " + json.dumps(the_clock.result()), flush=True)
