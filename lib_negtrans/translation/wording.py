"""What a translation will do, in plain words, from its parameters. No gradio in here."""

from __future__ import annotations

from lib_negtrans.options import ParamError

from .params import TranslationParams
from .plan import guidance_of, guided_rows, inversion_rows

# self-attention layers of SD1 by how many pixels a token stands for (METHOD.md 4)
_LAYERS_BY_AREA = {64: 5, 256: 5, 1024: 5, 4096: 1}
_LARGE_STRENGTH = 0.6


def controlled_layers(flag: int) -> int:
    """How many of SD1's 16 self-attention layers the option "TAC layers" reaches."""
    return sum(count for area, count in _LAYERS_BY_AREA.items() if area <= flag)


def cannot_work(error: ParamError) -> str:
    """What is wrong, where a description would be."""
    return f"This cannot work: {error}"


def describe_translation(params: TranslationParams, embedding: str | None = None, weight: float = 1.0) -> str:
    """One paragraph; what is wrong with the parameters, if anything is."""
    try:
        params.validate()
    except ParamError as error:
        return cannot_work(error)
    timesteps = params.timesteps
    used, tac_steps = len(timesteps), params.tac_steps
    rows_up = sum(inversion_rows(params))
    extra = rows_up - used if params.solver == "ddim" and params.fixed_point else 0
    sentences = []
    if params.start == "inversion":
        sentences.append(
            f"The render is inverted in {used} of {params.steps} steps, up to noise level {timesteps[-1]} of 1000"
            + (f", and {extra} more model calls make this exact" if extra else "")
            + ". The seed has no effect."
        )
    else:
        sentences.append(f"Noise from the seed is added to the render, up to level {timesteps[-1]} of 1000.")
    away = "the negative prompt"
    if embedding:
        away = f"{embedding}{'' if weight == 1 else f' (weight {weight:g})'} and {away}"
    kept = guidance_of(params).variant.kept()
    sentences.append(
        f"Then {used} steps lead away from {away}, with CFG scale {params.cfg_scale:g}{f', {kept}' if kept else ''}."
    )
    layers = _layers(params)
    if tac_steps and layers:
        hold = "hold" if params.tac_blend == 1 else f"hold {100 * params.tac_blend:g} % of"
        sentences.append(
            f"In the first {tac_steps} of them, {layers} of 16 attention layers {hold} the render's texture."
        )
    else:
        sentences.append("Attention control is off, so the texture may change.")
    source_calls = tac_steps if params.features_from == "recomputed" and layers else 0
    calls = used * guided_rows(params) + rows_up + source_calls
    sentences.append(f"This takes about {calls} model calls.")
    if params.colour != "off" and params.colour_strength:
        sentences.append("The render's colours are brought back.")
    if params.mask != "none":
        kept = "stays as it is in the render" if params.background == "keep" else "may change freely"
        sentences.append(f"Texture and colour are held on the garment only; the background {kept}.")
    if params.strength > _LARGE_STRENGTH:
        sentences.append(f"Strength {params.strength:g} changes the picture a lot: the presets use 0.3 to 0.5.")
    return " ".join(sentences)


def _layers(params: TranslationParams) -> int:
    if not params.depth_ratios():
        return controlled_layers(params.tac_layers)
    layers = enumerate(_LAYERS_BY_AREA.values())
    return sum(count for level, count in layers if params.tac_steps_at(level))
