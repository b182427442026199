"""One img2img job turned into a translation: what is put on its processing object, and taken off again.

Nothing of the host is changed but the object `p` of this job, and during `p.init` one method of the checkpoint.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from modules import shared

from lib_negtrans import TITLE
from lib_negtrans.options import ParamError
from lib_negtrans.translation.arguments import PanelValues, preset_of
from lib_negtrans.translation.concepts import CONCEPT_WORD, Steering, steering
from lib_negtrans.translation.infotext import translation_fields
from lib_negtrans.translation.negatives import with_triggers
from lib_negtrans.translation.params import TranslationParams

from . import embedding_list, sampling
from .host import host
from .infotext_fields import EMBEDDING_KEY, HASH_KEY, PRESET_KEY, STOOD_DOWN_KEY, WEIGHT_KEY
from .preserved import HANDED_OVER, Keeper, out_of_memory_refused
from .refusal import TranslationRefused, refuse_host, refuse_job
from .settings import MEAN_LATENT_KEY, option

SAMPLER = "DDIM"
_REPLACED = ("init", "setup_conds", "sample", "get_token_merging_ratio")
_CHANGED = (
    "sampler_name", "scheduler", "extra_generation_params", "cached_c", "cached_uc", *HANDED_OVER,
    "sample_before_CN_hack",  # ControlNet's: what it calls, for the next pictures of the same object too
)  # fmt: skip
# the host writes these three itself
_HOST_FIELDS = ("strength", "steps", "cfg_scale")


class TranslationJob:
    """The translation that a processing object does instead of plain img2img.

    values() is asked when the job begins: an XYZ grid sets its axes one after the other on the way there.
    """

    def __init__(self, p: Any, values: Callable[[], PanelValues]) -> None:
        self.p = p
        self._values = values
        self.enabled = True
        self._params: TranslationParams | None = None
        self._neutral_acts = False
        self._trigger: tuple[str, float] | None = None
        self._keeper: Keeper | None = None
        self._originals: dict[str, Any] = {}

    def check(self) -> tuple[PanelValues, TranslationParams]:
        """The panel's values and the parameters with the host's sliders. Raises TranslationRefused."""
        refuse_host()  # before the arguments are read: on another host they may be missing
        if not any(self.p.init_images or ()):
            raise TranslationRefused("There is no picture in img2img: drop a render there, then press Generate.")
        try:
            values = self._values()
            steps, strength = _grid(self.p)
            return values, values.params(steps, self.p.cfg_scale, strength)
        except ParamError as error:
            raise TranslationRefused(str(error)) from error

    def _prepare(self) -> None:
        """Parameters and embedding, checked against the checkpoint that is loaded by now, and into the infotext."""
        p = self.p
        values, params = self.check()
        refuse_job(p, params.inverts)
        self._neutral_acts = host().guided_by_others(p.all_prompts)
        for prompt, negative in zip(p.all_prompts, p.all_negative_prompts, strict=True):
            self._asked(params, prompt, negative)  # refused before anything is computed
        params, stood_down = self._stand_down(params)
        fields = {
            "Script": TITLE,
            **_own_fields(params),
            PRESET_KEY: preset_of(values.options),
            MEAN_LATENT_KEY: option("negtrans_mean_latent"),
            STOOD_DOWN_KEY: stood_down,
        }
        self._trigger = None
        if values.embedding is not None:
            fields |= {
                EMBEDDING_KEY: values.embedding,
                WEIGHT_KEY: f"{values.embedding_weight:g}",
                HASH_KEY: embedding_list.vectors_hash(values.embedding),
            }
            self._trigger = values.embedding, values.embedding_weight
        p.extra_generation_params.update(fields)
        self._params = params

    def _stand_down(self, params: TranslationParams) -> tuple[TranslationParams, str | None]:
        """Where neutral-prompt's keywords combine the predictions, plain guidance; and what that is instead of."""
        if not self._neutral_acts:
            return params, None
        params = replace(params, guidance_limit=0.0)
        negative = any(CONCEPT_WORD.search(text) for text in self.p.all_negative_prompts)
        parts = [
            params.guidance if params.guidance != "cfg" else "",
            f"CFG rescale {params.cfg_rescale:g}" if params.cfg_rescale else "",
            "concepts" if params.concepts or negative else "",
        ]
        asked = ", ".join(filter(None, parts))
        if not asked:
            return params, None
        self.p.comment(
            f"{TITLE}: the prompt has keywords of neutral-prompt, which guide this picture; {asked} was not used."
        )
        return replace(params, guidance="cfg", cfg_rescale=0.0, concepts=""), asked

    def _asked(self, params: TranslationParams, prompt: str, negative_prompt: str) -> Steering:
        """An image's prompts and concepts; neutral-prompt's keywords stay in the prompt where it acts."""
        try:
            if self._neutral_acts:
                return replace(steering("", negative_prompt, composes_and=True), prompt=prompt, concepts=())
            return steering(prompt, negative_prompt, params.concepts, composes_and=True)
        except ParamError as error:
            raise TranslationRefused(str(error)) from error

    def _batch(self) -> list[Steering]:
        """Those of the batch under way. Raises TranslationRefused where they cannot be computed together."""
        p = self.p
        asked = [self._asked(self._params, *prompts) for prompts in zip(p.prompts, p.negative_prompts, strict=True)]
        if any(one.concepts != asked[0].concepts for one in asked):
            raise TranslationRefused("The prompts of one batch have different concepts: set Batch size to 1.")
        return asked

    def attach(self) -> None:
        """Put the translation on the processing object. What was on it is kept for `detach`."""
        p = self.p
        self._originals = {name: vars(p)[name] for name in (*_REPLACED, *_CHANGED) if name in vars(p)}
        p.extra_generation_params = dict(p.extra_generation_params)  # a grid's cells share one
        # the host's own cache goes by the prompt's text and would give an embedding's former vectors (HOST.md fact 2)
        p.cached_c, p.cached_uc = [None, None], [None, None]
        for name in _REPLACED:
            setattr(p, name, functools.partial(getattr(self, f"_{name}"), getattr(p, name)))
        p._negtrans_job = self

    def detach(self) -> None:
        """Take it off: the Batch tab uses one object for all its pictures."""
        for name in (*_REPLACED, *_CHANGED):
            if name in self._originals:
                setattr(self.p, name, self._originals[name])
            else:
                vars(self.p).pop(name, None)
        vars(self.p).pop("_negtrans_job", None)

    @contextmanager
    def attached(self) -> Generator[None, None, None]:
        """`attach`, and `detach` whatever happens.

        The host's VAE draws from torch's global generators, which go on as if nothing had been drawn: the next picture
        must not depend on this one.
        """
        used = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        self.attach()
        try:
            with torch.random.fork_rng(devices=used):
                yield
        finally:
            self.detach()

    # What stands in for the methods of the processing object; each gets the one it stands for.

    def _init(self, original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if not self.enabled:
            return original(*args, **kwargs)
        p = self.p
        self._prepare()
        if p.sampler_name != SAMPLER:
            p.comment(f"{TITLE} samples with {SAMPLER} on its own grid; {p.sampler_name} was not used.")
            p.sampler_name = SAMPLER
        p.scheduler = None  # it has none, and the infotext must not depend on what was chosen
        if type(p).get_token_merging_ratio(p) > 0:
            p.comment(f"{TITLE} switched token merging off: attention control needs every token.")
        self._keeper = Keeper(p, self._params)
        self._keeper.find()
        with host().mean_encoding(p.sd_model) if option("negtrans_mean_latent") else nullcontext():
            original(*args, **kwargs)
        host().refuse_sampler(p)  # the host has made it in there

    def _setup_conds(self, original: Callable[[], None]) -> None:
        if not self.enabled:
            return original()
        p = self.p
        typed, typed_negative, scale = p.prompts, p.negative_prompts, p.cfg_scale
        asked, triggers = self._batch(), [] if self._trigger is None else [self._trigger]
        p.prompts = [one.prompt for one in asked]
        p.negative_prompts = [with_triggers(triggers, one.negative_prompt) for one in asked]
        if scale == 1:
            p.cfg_scale = 2.0  # at 1 Forge leaves the negative prompt out, to which the weights of AND are relative
        try:
            return original()
        finally:
            # the infotext has the embedding in its own keys
            p.prompts, p.negative_prompts, p.cfg_scale = typed, typed_negative, scale

    def _sample(
        self,
        original: Callable[..., Any],
        conditioning: Any,
        unconditional_conditioning: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not self.enabled:
            return original(conditioning, unconditional_conditioning, *args, **kwargs)
        p = self.p
        refuse_job(p, inverts=False)  # the SD Unet is chosen after `init`
        batch = conditioning, unconditional_conditioning, self._keeper, self._batch()
        return out_of_memory_refused(lambda: sampling.sample(p, self._params, *batch))

    def _get_token_merging_ratio(self, original: Callable[..., float], *args: Any, **kwargs: Any) -> float:
        return 0.0 if self.enabled else original(*args, **kwargs)


def _grid(p: Any) -> tuple[int, float]:
    """Grid points and strength from the host's sliders.

    With "do exactly the amount of steps the slider specifies" in the settings, these are the slider's
    steps; step share says how many of them are taken.
    """
    strength = p.denoising_strength
    if not shared.opts.img2img_fix_steps or not strength:
        return p.steps, strength
    return math.ceil(p.steps / strength - 1e-9), strength


def _own_fields(params: TranslationParams) -> dict[str, Any]:
    keys = {opt.infotext for name, opt in params.options().items() if name in _HOST_FIELDS}
    return {key: value for key, value in translation_fields(params).items() if key not in keys}
