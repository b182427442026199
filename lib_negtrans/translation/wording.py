"""What a translation will do, in plain words, from its parameters. No gradio in here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

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


@dataclass(frozen=True)
class Sentence:
    """A sentence with places for values, such as {steps}, so that a page can say it in another language."""

    template: str
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.template.format(**self.values)


def cannot_work(error: ParamError) -> Sentence:
    """What is wrong, where a description would be."""
    return Sentence("This cannot work: {reason}", {"reason": str(error)})


def describe_translation(params: TranslationParams, embedding: str | None = None, weight: float = 1.0) -> str:
    """`translation_sentences` as one paragraph."""
    return " ".join(map(str, translation_sentences(params, embedding, weight)))


def translation_sentences(
    params: TranslationParams, embedding: str | None = None, weight: float = 1.0
) -> list[Sentence]:
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
        Sentence("This takes about {calls} model calls.", {"calls": calls}),
    ]
    if params.colour != "off" and params.colour_strength:
        sentences.append(Sentence("The render's colours are brought back."))
    if params.mask != "none":
        kept = "stays as it is in the render" if params.background == "keep" else "may change freely"
        sentences.append(Sentence(f"Texture and colour are held on the garment only; the background {kept}."))
    if params.strength > _LARGE_STRENGTH:
        large = "Strength {strength} changes the picture a lot: the presets use 0.3 to 0.5."
        sentences.append(Sentence(large, {"strength": f"{params.strength:g}"}))
    return sentences


def _way_up(params: TranslationParams, rows_up: int) -> Sentence:
    timesteps = params.timesteps
    values = {"used": len(timesteps), "steps": params.steps, "level": timesteps[-1]}
    if params.start != "inversion":
        return Sentence("Noise from the seed is added to the render, up to level {level} of 1000.", values)
    extra = rows_up - len(timesteps) if params.solver == "ddim" and params.fixed_point else 0
    inverted = "The render is inverted in {used} of {steps} steps, up to noise level {level} of 1000"
    exact = ", and {extra} more model calls make this exact" if extra else ""
    return Sentence(f"{inverted}{exact}. The seed has no effect.", values | {"extra": extra})


def _way_down(params: TranslationParams, embedding: str | None, weight: float) -> Sentence:
    values = {"used": len(params.timesteps), "scale": f"{params.cfg_scale:g}"}
    typed = bool(params.steering.negative_prompt.strip())
    if not embedding and not typed and params.steering.concepts:
        return Sentence("Then {used} steps follow, with CFG scale {scale}.", values)
    if not embedding and not typed:
        return Sentence(
            "Then {used} steps follow, with CFG scale {scale}. There is nothing to lead away from: choose a negative "
            "embedding.", values
        )  # fmt: skip
    away = "{embedding} and the negative prompt" if embedding and typed else "{embedding}"
    weighted = embedding if weight == 1 else f"({embedding}:{weight:g})"  # as prompts have it
    name = weighted if embedding else "the negative prompt"
    kept = guidance_of(params).variant.kept()
    template = f"Then {{used}} steps lead away from {away}, with CFG scale {{scale}}{', {kept}' if kept else ''}."
    return Sentence(template, values | {"embedding": name, "kept": kept})


def _attention(params: TranslationParams, tac_steps: int, layers: int) -> Sentence:
    if not tac_steps or not layers:
        return Sentence("Attention control is off, so the texture may change.")
    hold = "hold" if params.tac_blend == 1 else "hold {share} % of"
    return Sentence(
        f"In the first {{steps}} of them, {{layers}} of 16 attention layers {hold} the render's texture.",
        {"steps": tac_steps, "layers": layers, "share": f"{100 * params.tac_blend:g}"},
    )


def _concepts(params: TranslationParams) -> list[Sentence]:
    """Which concepts there are, and what they cost."""
    concepts = params.steering.concepts
    if not concepts:
        return []
    without = replace(params, concepts="", prompt=params.steering.prompt, negative_prompt="")
    template = "Concepts: {names}. They add {rows} to the model calls of each step."
    rows = guided_rows(params) - guided_rows(without)
    return [Sentence(template, {"names": "; ".join(map(written, concepts)), "rows": rows})]


def _layers(params: TranslationParams) -> int:
    if not params.depth_ratios():
        return controlled_layers(params.tac_layers)
    layers = enumerate(_LAYERS_BY_AREA.values())
    return sum(count for level, count in layers if params.tac_steps_at(level))
