"""What a translation will do, in plain words, from its parameters. No gradio in here."""

from __future__ import annotations

from dataclasses import replace

from lib_negtrans.options import ParamError

from .concepts import written
from .params import TranslationParams
from .plan import guidance_of, guided_rows, inversion_rows

# self-attention layers of SD1 by how many pixels a token stands for (METHOD.md 4)
_LAYERS_BY_AREA = {64: 5, 256: 5, 1024: 5, 4096: 1}
_LARGE_STRENGTH = 0.6


def controlled_layers(flag: int) -> int:
    """How many of SD1's 16 self-attention layers the option "TAC layers" reaches."""
    return sum(count for area, count in _LAYERS_BY_AREA.items() if area <= flag)


def cannot_work(reason: ParamError) -> str:
    """What is wrong, where a description would be."""
    return f"This cannot work: {reason}"


def translation_sentences(params: TranslationParams, embedding: str | None = None, weight: float = 1.0) -> list[str]:
    """What a translation will do; what is wrong with the parameters, if anything is."""
    try:
        params.validate()
    except ParamError as error:
        return [cannot_work(error)]
    used, tac_steps, layers = len(params.timesteps), params.tac_steps, _layers(params)
    rows_up = sum(inversion_rows(params))
    source_calls = tac_steps if params.features_from == "recomputed" and layers else 0
    calls = used * guided_rows(params) + rows_up + source_calls
    sentences = [
        _way_up(params, rows_up),
        _way_down(params, embedding, weight),
        _attention(params, tac_steps, layers),
        *_concepts(params),
        f"This takes about {calls} model calls.",
    ]
    if params.colour != "off" and params.colour_strength:
        sentences.append("The render's colours are brought back.")
    if params.mask != "none" and params.background == "keep":
        sentences.append(
            "Texture and colour are held on the garment only; the background stays as it is in the render."
        )
    elif params.mask != "none":
        sentences.append("Texture and colour are held on the garment only; the background may change freely.")
    if params.strength > _LARGE_STRENGTH:
        sentences.append(f"Strength {params.strength:g} changes the picture a lot: the presets use at most 0.5.")
    return sentences


def _way_up(params: TranslationParams, rows_up: int) -> str:
    used, level = len(params.timesteps), params.timesteps[-1]
    if params.start != "inversion":
        return f"Noise from the seed is added to the render, up to level {level} of 1000."
    extra = rows_up - used if params.solver == "ddim" and params.fixed_point else 0
    inverted = f"The render is inverted in {used} of {params.steps} steps, up to noise level {level} of 1000"
    if not extra:
        return f"{inverted}. The seed has no effect."
    return f"{inverted}, and {extra} more model calls make this exact. The seed has no effect."


def _way_down(params: TranslationParams, embedding: str | None, weight: float) -> str:
    used, scale = len(params.timesteps), f"{params.cfg_scale:g}"
    typed = bool(params.steering.negative_prompt.strip())
    if not embedding and not typed and params.steering.concepts:
        return f"Then {used} steps follow, with CFG scale {scale}."
    if not embedding and not typed:
        nothing = "There is nothing to lead away from: choose a negative embedding."
        return f"Then {used} steps follow, with CFG scale {scale}. {nothing}"
    away = "the negative prompt"
    if embedding:
        weighted = embedding if weight == 1 else f"({embedding}:{weight:g})"  # as prompts have it
        away = f"{weighted} and the negative prompt" if typed else weighted
    kept = guidance_of(params).variant.kept()
    return f"Then {used} steps lead away from {away}, with CFG scale {scale}{f', {kept}' if kept else ''}."


def _attention(params: TranslationParams, tac_steps: int, layers: int) -> str:
    if not tac_steps or not layers:
        return "Attention control is off, so the texture may change."
    hold = "hold" if params.tac_blend == 1 else f"hold {100 * params.tac_blend:g} % of"
    return f"In the first {tac_steps} of them, {layers} of 16 attention layers {hold} the render's texture."


def _concepts(params: TranslationParams) -> list[str]:
    """Which concepts there are, and what they cost."""
    concepts = params.steering.concepts
    if not concepts:
        return []
    without = replace(params, concepts="", prompt=params.steering.prompt, negative_prompt="")
    names, rows = "; ".join(map(written, concepts)), guided_rows(params) - guided_rows(without)
    return [f"Concepts: {names}. They add {rows} to the model calls of each step."]


def _layers(params: TranslationParams) -> int:
    if not params.depth_ratios():
        return controlled_layers(params.tac_layers)
    layers = enumerate(_LAYERS_BY_AREA.values())
    return sum(count for level, count in layers if params.tac_steps_at(level))
