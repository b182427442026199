"""The step of the host's CFG denoiser that combines its predictions, replaced for one sampler while a context is open.

The host computes cond and uncond rows as ever (AND, masks, callbacks, LoRA); only `combine_denoised` of this sampler's
own denoiser object is another, which is where neutral-prompt works too: what is found there goes on composing the AND.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from modules import sd_samplers, shared
from torch import Tensor, nn

from lib_negtrans.core.guidance import Guidance
from lib_negtrans.translation.concepts import CONCEPT_WORD


def neutral_prompt_acts(prompts: Sequence[str]) -> bool:
    """Whether the neutral-prompt extension is there, switched on, and has a keyword in one of the prompts."""
    installed = getattr(sd_samplers, "__neutral_prompt_hijacker", None) is not None
    enabled = installed and shared.opts.data.get("neutral_prompt_enabled", True)
    return enabled and any(CONCEPT_WORD.search(prompt) for prompt in prompts)


@contextmanager
def combined_by(
    cfg_denoiser: nn.Module,
    guidance: Guidance,
    step: int,
    unconditional: Callable[[], Tensor] | None,
    concepts: Callable[[], Mapping[str, Tensor]] = dict,
) -> Generator[None, None, None]:
    """Inside, guided predictions of this denoiser are made by `guidance`, at sampled step `step`.

    unconditional() gives the prediction (B, 4, h, w) for the empty prompt; None where the prompt is empty itself.
    concepts() gives those for the concepts' texts.
    """
    replaced = vars(cfg_denoiser).get("combine_denoised")
    original = cfg_denoiser.combine_denoised

    def combine(x_out: Tensor, conds_list: Any, uncond: Tensor, cond_scale: float) -> Tensor:
        # at scale 1 the host's own result is the prompt's prediction, AND composed: by it, or by who replaced it
        cond = original(x_out, conds_list, uncond, 1.0)
        empty = cond if unconditional is None or not guidance.reads_empty(cond_scale) else unconditional()
        return guidance(empty, cond, x_out[-uncond.shape[0] :], cond_scale, step, concepts())

    cfg_denoiser.combine_denoised = combine
    try:
        yield
    finally:
        if replaced is None:
            del cfg_denoiser.combine_denoised
        else:
            cfg_denoiser.combine_denoised = replaced
