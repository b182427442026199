"""A picture from a prompt alone: for class pictures and previews of a training."""

from __future__ import annotations

import torch
from torch import Tensor

from lib_negtrans.core.schedule import Schedule
from lib_negtrans.models.protocol import ModelHost


@torch.no_grad()
def sample_picture(
    host: ModelHost,
    prompt: str,
    negative_prompt: str = "",
    seed: int = 0,
    size: tuple[int, int] = (512, 512),
    steps: int = 30,
    cfg_scale: float = 7.5,
) -> Tensor:
    """A picture (3, H, W) in [0, 1] of size (width, height), multiples of 8: DDIM from noise of the CPU's generator.

    steps in 1..999; cfg_scale 1 leaves the negative prompt out. Raises PromptError.
    """
    schedule = Schedule.from_strength(host.alphas_cumprod, steps, 1.0, host.prediction_type)
    width, height = size
    noise = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    latent = noise.to(host.device)
    context = host.encode_prompts([negative_prompt, prompt] if cfg_scale != 1.0 else [prompt])
    for position in range(len(schedule), 0, -1):
        rows = latent.expand(len(context), -1, -1, -1)
        output = host.predict_noise(rows, schedule.timestep(position), context)
        guided = output[:1] + cfg_scale * (output[-1:] - output[:1])
        epsilon = schedule.epsilon(latent, guided, position)
        latent = schedule.move(latent, epsilon, position, position - 1)
    return host.decode_latent(latent)[0].float().cpu()
