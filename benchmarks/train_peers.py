"""The trainers of others for train_worker.py: their own scripts, on networks and pictures given to them."""

from __future__ import annotations

import json
import runpy
import sys
import types
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from train_worker import NAME, StepClock, pictures

PROMPT = "a photo"


def webui(job: dict, clock: StepClock) -> None:
    """Through the function behind the button of its Train tab."""
    webui_model(job)
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


def webui_model(job: dict) -> None:
    import webui_process

    data = Path(job["folder"]) / "data"
    webui_process.boot(Path(job["clone"]), data)
    webui_process.random_model(data)


def diffusers(job: dict, clock: StepClock) -> None:
    """The example of this kind as it is, but for its networks, which are the same as ours and need no folder."""
    give_networks()
    import datasets  # noqa: F401  # looks for torchvision when it is imported, and a stand-in has no file

    stand_in_for_torchvision()
    import diffusers.utils

    # a clone may be of a later version than the installed package
    diffusers.utils.check_min_version = lambda version: None
    # it logs through accelerate; the writer is not what is measured
    import accelerate

    accelerate.Accelerator.init_trackers = lambda self, *args, **options: None
    folder = pictures(job)
    common = {
        "pretrained_model_name_or_path": "random", "train_data_dir": folder, "resolution": job["size"],
        "train_batch_size": job["batch"], "max_train_steps": 1000, "output_dir": Path(job["folder"]) / "out",
        "report_to": "tensorboard", "mixed_precision": mixed(job),
    }  # fmt: skip
    if job["kind"] == "negative":
        own = {"placeholder_token": f"<{NAME}>", "initializer_token": "style", "learnable_property": "style"}
        script = "textual_inversion/textual_inversion.py"
    else:
        lines = [json.dumps({"file_name": path.name, "text": PROMPT}) for path in sorted(folder.iterdir())]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        own = {"checkpointing_steps": 100_000}
        script = "text_to_image/train_text_to_image.py"
        if job["kind"] == "lora":
            own["rank"], script = 16, "text_to_image/train_text_to_image_lora.py"
    run_script(Path(job["clone"]) / "examples" / script, common | own, clock)


def kohya(job: dict, clock: StepClock) -> None:
    """train_network.py or fine_tune.py as it is, but for its networks."""
    networks = give_networks()
    stand_in_for_torchvision()
    sys.path.insert(0, job["clone"])
    import diffusers
    from library import train_util
    from library.original_unet import UNet2DConditionModel

    config = networks.unet.config
    unet = UNet2DConditionModel(
        config.sample_size, config.attention_head_dim, config.cross_attention_dim, config.use_linear_projection,
        config.upcast_attention,
    )  # fmt: skip
    unet.load_state_dict(networks.unet.state_dict())
    networks.unet = None
    del diffusers.UNet2DConditionModel.from_pretrained  # which holds it too: kohya's has the weights now
    train_util._load_target_model = lambda *args, **options: (networks.text_encoder, networks.vae, unet, False)
    common = {
        "pretrained_model_name_or_path": "random", "resolution": job["size"], "train_batch_size": job["batch"],
        "max_train_steps": 1000, "output_dir": Path(job["folder"]) / "out", "output_name": NAME, "sdpa": True,
        "cache_latents": True, "optimizer_type": "AdamW", "mixed_precision": mixed(job),
        "max_data_loader_n_workers": 0,
    }  # fmt: skip
    if job["kind"] == "lora":
        script = "train_network.py"
        pictures(job, f"pictures/1_{PROMPT}")
        own: dict[str, Any] = {
            "train_data_dir": Path(job["folder"]) / "pictures", "network_module": "networks.lora", "network_dim": 16,
            "network_alpha": 16, "network_train_unet_only": True, "learning_rate": 1e-4,
        }  # fmt: skip
    else:
        script, folder = "fine_tune.py", pictures(job)
        listed = {str(p): {"caption": PROMPT, "train_resolution": [job["size"]] * 2} for p in sorted(folder.iterdir())}
        (Path(job["folder"]) / "pictures.json").write_text(json.dumps(listed))
        own = {
            "train_data_dir": folder, "in_json": Path(job["folder"]) / "pictures.json", "learning_rate": 1e-6,
        }  # fmt: skip
    run_script(Path(job["clone"]) / script, common | own, clock)


def mixed(job: dict) -> str:
    return {"fp32": "no"}.get(job["precision"], job["precision"])


def run_script(script: Path, options: dict[str, Any], clock: StepClock) -> None:
    """A script as from its command line; an option that is True is a flag."""
    sys.argv = [str(script)]
    for name, value in options.items():
        sys.argv += [f"--{name}", *([] if value is True else [str(value)])]
    clock.begin()
    runpy.run_path(str(script), run_name="__main__")


def give_networks() -> Any:
    """Whatever name is loaded from then on, these networks of random weights are what comes; returns them."""
    import diffusers as library
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
    return networks


def stand_in_for_torchvision() -> None:
    """The scripts cut and flip pictures with it, and do nothing else; where it is not installed."""
    try:
        import torchvision  # noqa: F401

        return
    except ImportError:
        pass
    import random

    import numpy as np
    import torch

    def resize(side: int, interpolation: Any = None):
        return lambda image: (
            ImageOps.contain(image, (10**6, side))
            if image.height < image.width
            else (ImageOps.contain(image, (side, 10**6)))
        )

    def tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    def chain(steps: list):
        def run(value):
            for step in steps:
                value = step(value)
            return value

        return run

    package, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
    transforms.Resize = resize
    transforms.CenterCrop = transforms.RandomCrop = lambda side: lambda image: ImageOps.fit(image, (side, side))
    transforms.RandomHorizontalFlip = lambda p=0.5: (
        lambda image: ImageOps.mirror(image) if random.random() < p else image
    )
    transforms.Lambda = lambda function: function
    transforms.ToTensor = lambda: tensor
    transforms.Normalize = lambda mean, std: lambda x: (x - mean[0]) / std[0]
    transforms.Compose = chain
    transforms.InterpolationMode = types.SimpleNamespace(LANCZOS=1, BILINEAR=2)
    package.transforms = transforms
    sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}
