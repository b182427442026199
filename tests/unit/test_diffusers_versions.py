"""Old and new diffusers give the same numbers: `make versions`, or NEGTRANS_OLD_DIFFUSERS=folder with another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_negtrans.models.standalone import StandaloneHost, default_model_path, load_model, load_tokenizer
from tests.tiny_model import tiny_host, tiny_networks

ROOT = Path(__file__).resolve().parents[2]
OLD = os.environ.get("NEGTRANS_OLD_DIFFUSERS")


def predictions(host) -> torch.Tensor:
    """Of the UNet at three timesteps, and of the VAE in both directions, in one row."""
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    context = host.encode_prompts(["a red coat"])
    with torch.no_grad():
        found = [host.predict_noise(latent, t, context) for t in (1, 301, 901)]
        image = host.decode_latent(latent)
        return torch.cat([value.flatten() for value in (*found, image, host.encode_image(image))])


def test_one_silu_for_all_networks_does_not_reach_the_unet():
    """As diffusers before 0.33 makes them."""
    networks, shared = tiny_networks(), nn.SiLU()
    for network in (networks.unet, networks.vae):
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.SiLU):
                    setattr(module, name, shared)
    host = StandaloneHost(networks, load_tokenizer(), device="cpu")
    assert not any(module.inplace for module in host.unet.modules() if isinstance(module, nn.SiLU))
    assert torch.equal(predictions(host), predictions(tiny_host()))


@pytest.mark.skipif(not OLD, reason="NEGTRANS_OLD_DIFFUSERS names no folder with an older diffusers: make versions")
def test_an_older_diffusers_gives_the_same(tmp_path):
    code = (
        "import sys, torch, diffusers\n"
        "from lib_negtrans.models.standalone import default_model_path, load_model\n"
        "from tests.unit.test_diffusers_versions import predictions\n"
        "torch.save((diffusers.__version__, predictions(load_model(default_model_path(), 'cpu'))), sys.argv[1])\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(OLD).resolve()), str(ROOT)])}
    subprocess.run([sys.executable, "-c", code, tmp_path / "old.pt"], env=env, check=True)
    version, old = torch.load(tmp_path / "old.pt", weights_only=True)
    assert tuple(map(int, version.split(".")[:2])) < (0, 33), "else this shows nothing"
    new = predictions(load_model(default_model_path(), "cpu"))
    assert torch.allclose(old, new, rtol=0, atol=1e-5), (old - new).abs().max()
