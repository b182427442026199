"""Our files, opened by the programs whose layouts they have: run by test_owners.py with a Python that has those.

    python tests/owners.py FOLDER KOHYA

FOLDER: what the test has written; a program's prediction goes into it as PROGRAM-FILE.pt. KOHYA: a clone of
kohya-ss/sd-scripts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

ROOT = Path(__file__).resolve().parents[1]


def pipeline(folder: Path, model: str) -> StableDiffusionPipeline:
    """By diffusers' own reader; the config says what a tiny model's sizes are, and no weights lie beside it."""
    return StableDiffusionPipeline.from_single_file(
        str(folder / model), config=str(folder / "config"), local_files_only=True
    )


@torch.no_grad()
def predictions(pipe: StableDiffusionPipeline, asked: dict) -> list[torch.Tensor]:
    """[context, noise]"""
    tokens = pipe.tokenizer(asked["prompt"], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    context = pipe.text_encoder(tokens.input_ids)[0]
    return [context, pipe.unet(asked["latent"], asked["timestep"], context).sample]


def with_kohya(pipe: StableDiffusionPipeline, file: Path, clone: Path) -> None:
    """As its train_network.py goes on from a file; the networks' class names are all that it looks for."""
    sys.path[:0] = [str(ROOT / "benchmarks"), str(clone)]
    from train_peers import stand_in_for_torchvision

    stand_in_for_torchvision()
    from networks.lora import create_network_from_weights

    network, weights = create_network_from_weights(1.0, str(file), pipe.vae, pipe.text_encoder, pipe.unet)
    text = any(key.startswith("lora_te_") for key in weights)
    network.apply_to(pipe.text_encoder, pipe.unet, text, True)
    network.load_state_dict(weights, strict=True)  # every key taken, none missing
    assert len(network.text_encoder_loras + network.unet_loras) == sum("lora_down" in key for key in weights)


def main() -> None:
    folder, clone = Path(sys.argv[1]), Path(sys.argv[2])
    asked = torch.load(folder / "asked.pt")
    torch.save(predictions(pipeline(folder, "photo-full.safetensors"), asked), folder / "diffusers-photo-full.pt")
    for name in ("photo-lora", "photo-locon"):
        pipe = pipeline(folder, "base.safetensors")
        pipe.load_lora_weights(str(folder), weight_name=f"{name}.safetensors")
        torch.save(predictions(pipe, asked), folder / f"diffusers-{name}.pt")
        pipe = pipeline(folder, "base.safetensors")
        with_kohya(pipe, folder / f"{name}.safetensors", clone)
        torch.save(predictions(pipe, asked), folder / f"kohya-{name}.pt")


if __name__ == "__main__":
    main()
