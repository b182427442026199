"""AUTOMATIC1111's own code in this process, without its server: for measurements and checks of the model path.

Run by the webui's own Python. `boot` is the part of its start that a model needs; `random_model` gives it a model of
SD1.5's size, or any other of the SD1 layout, without a checkpoint file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--skip-python-version-check",
    "--skip-install", "--do-not-download-clip", "--no-download-sd-model", "--disable-nan-check",
    "--skip-load-model-at-start", "--no-hashing",
)  # fmt: skip
CPU_FLAGS = ("--use-cpu", "all", "--no-half")
SD15_CLIP = {
    "model_type": "clip_text_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "vocab_size": 49408, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
}  # fmt: skip


def boot(webui: Path, data: Path, flags: tuple[str, ...] = CPU_FLAGS) -> None:
    """Import the webui and set up what loading a model and training need. data: an empty folder for its files."""
    (data / "models" / "Stable-diffusion").mkdir(parents=True, exist_ok=True)
    (data / "embeddings").mkdir(exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.chdir(webui)
    sys.path[:0] = [str(webui), str(ROOT)]
    sys.argv = ["webui.py", "--data-dir", str(data), *FLAGS, *flags]
    from modules import initialize

    initialize.imports()
    from modules import (
        extra_networks,
        initialize_util,
        script_callbacks,
        sd_hijack,
        sd_hijack_optimizations,
        sd_models,
        sd_samplers,
        sd_unet,
        sd_vae,
        textual_inversion,
    )

    initialize_util.fix_torch_version()
    initialize_util.fix_pytorch_lightning()
    sd_samplers.set_samplers()
    sd_models.setup_model()
    sd_vae.refresh_vae_list()
    textual_inversion.textual_inversion.list_textual_inversion_templates()
    script_callbacks.on_list_optimizers(sd_hijack_optimizations.list_optimizers)
    sd_hijack.list_optimizers()
    sd_unet.list_unets()
    extra_networks.initialize()
    extra_networks.register_default_extra_networks()


def load_checkpoint(path: Path):
    """Load a checkpoint file as the webui does, and make it the current model."""
    from modules import sd_hijack, sd_models

    info = sd_models.CheckpointInfo(str(path))
    info.register()
    model = sd_models.load_model(info)
    if sd_hijack.current_optimizer is None:
        sd_hijack.apply_optimizations()
    return model


def random_model(data: Path):
    """A model of SD1.5's size with random weights, the webui's current one from then on; always the same."""
    import torch
    from modules import sd_models, sd_models_config
    from omegaconf import OmegaConf

    clip = data / "models" / "Stable-diffusion" / "clip"
    clip.mkdir(parents=True)
    (clip / "config.json").write_text(json.dumps(SD15_CLIP))
    for name in ("vocab.json", "merges.txt"):
        (clip / name).write_bytes((ROOT / "assets" / "demo" / "clip" / name).read_bytes())
    config = OmegaConf.load(sd_models_config.config_default)
    config.model.params.cond_stage_config.params = {"version": str(clip)}
    checkpoint = data / "models" / "Stable-diffusion" / "random.safetensors"
    OmegaConf.save(config, checkpoint.with_suffix(".yaml"))
    header = b'{"__metadata__": {}}'
    checkpoint.write_bytes(len(header).to_bytes(8, "little") + header)  # an empty file: only its name is used
    # the key by which the webui sees that the text encoder is in the file and need not be downloaded
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    info = sd_models.CheckpointInfo(str(checkpoint))
    info.register()
    model = sd_models.load_model(info, already_loaded_state_dict={key: torch.zeros(49408, 768)})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                bound = weight[0].numel() ** -0.5
                weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
        # values that stay finite: a prediction below unit size, latents of about it; and a text encoder's output whose
        # mean is not 0, through which the webui's emphasis divides
        model.model.diffusion_model.out[2].weight.mul_(0.1)
        model.cond_stage_model.wrapped.transformer.text_model.final_layer_norm.bias.fill_(-0.1)
    return model
