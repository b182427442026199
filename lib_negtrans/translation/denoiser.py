"""What a translation asks of a model: predictions for the source, and guided ones. `pipeline.py` does all the rest.

Each host has a `GuidedDenoiser`. The standalone one is here: its guided prediction is one batch of negative and
conditional rows. The webui's asks the host's own CFG denoiser (apps/webui/sampling.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lib_negtrans.core import guidance
from lib_negtrans.core.attention import AttentionControl, Features
from lib_negtrans.core.colour import to_latent_size
from lib_negtrans.core.guidance import Concept
from lib_negtrans.core.inversion import Trajectory
from lib_negtrans.core.schedule import Schedule
from lib_negtrans.core.translate import Source
from lib_negtrans.memory import reused_memory
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.pictures.flat import free_cells

from .cache import host_state, inversion_key
from .params import TranslationParams
from .plan import guidance_of, tac_plan_of
from .preservation import controlled_region

_CONCEPT = "concept: "  # before its text, the name of its row
LARGE = 2 * 64 * 64  # latent pixels; on the CPU the prompts of a larger picture are computed one after the other


class GuidedDenoiser(ABC):
    """One translation of S distinct sources to B pictures, as one model computes it.

    concepts: of the host's own prompts, by default the parameters'.
    latent: clean sources (S, 4, h, w), float32. of_image: the source of each picture, by default there is one for each.
    region (1 or S, 1, h, w) in [0, 1]: where attention control acts, everywhere by default. Predictions are the UNet's
    raw output, float32. A subclass has `noise` (B, 4, h, w) where the translation starts from noise, `source_context`
    (1, tokens, width), and `share` where a background is kept or held.
    """

    noise: Tensor
    share: Tensor | None = None  # (B or 1, 1, h, w): 1 is translated, 0 is put back at every step
    source_context: Tensor

    def __init__(
        self,
        params: TranslationParams,
        unet: nn.Module,
        latent: Tensor,
        schedule: Schedule,
        *,
        of_image: Sequence[int] | None = None,
        region: Tensor | None = None,
        concepts: Sequence[Concept] | None = None,
    ) -> None:
        self.params, self.unet, self.latent, self.schedule = params, unet, latent, schedule
        self.of_image = of_image
        self.tac = tac_plan_of(params, unet, (latent.shape[-2], latent.shape[-1]))
        self.control = AttentionControl(self.tac.layers, region)
        self.guide = guidance_of(params, concepts)
        self.trajectory: Trajectory | None = None  # of the sources, as soon as it is known
        self.features = ""  # where its captured features were kept at first, in words

    @abstractmethod
    def state(self) -> Hashable | None:
        """What of the model an inversion depends on, while nothing of ours is hooked; None: keep no inversion."""

    @abstractmethod
    def inversion(self, z: Tensor, timestep: int) -> Tensor:
        """The prediction that the inversion follows, for sources (S, 4, h, w)."""

    @abstractmethod
    def source(self, z: Tensor, timestep: int) -> Tensor:
        """The prediction for the source prompt alone, for sources (S, 4, h, w)."""

    @abstractmethod
    def guided(self, z: Tensor, position: int, source: Source) -> Tensor:
        """The guided prediction for pictures (B, 4, h, w) at a position of the grid.

        source: features to inject, or the sources' latents (S, 4, h, w), whose features are to be computed again.
        """

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Around all predictions: what the model needs of hooks and the like. Afterwards none is left."""
        with self.control:
            yield

    def noised(self) -> Tensor:
        """The start (B, 4, h, w) of a translation that starts from noise."""
        return self.schedule.add_noise(self.per_image(self.latent), self.noise, len(self.schedule))

    def key(self) -> Hashable | None:
        """What the inversion goes by in a cache; None where it is not to be kept. Ask while nothing is hooked."""
        state = self.state()
        if state is None or not self.params.inverts:
            return None
        captured = self.control if self.params.captures else None
        return inversion_key(state, self.latent, self.params, self.schedule, self.source_context, captured)

    def per_image(self, values: Tensor) -> Tensor:
        """(S, ...) -> (B, ...)."""
        return values if self.of_image is None else values[list(self.of_image)]

    def kept(self, position: int) -> Tensor:
        """The source (B, 4, h, w) at a position's noise level: the inversion's, else with the start's noise on it."""
        if self.trajectory is not None:
            return self.per_image(self.trajectory.latents[position])
        clean = self.per_image(self.latent)
        return self.schedule.add_noise(clean, self.noise, position) if position else clean

    def blend(self, latent: Tensor, position: int) -> Tensor:
        """The latent reached at a position with the background that is kept, as inpainting does."""
        return latent if self.share is None else self.share * latent + (1 - self.share) * self.kept(position)

    def recomputed(self, sources: Tensor, timestep: int) -> Features | None:
        """Features of a source call that ends after the last controlled layer; None where no layer is controlled."""
        if not self.control.layers:
            return None
        with self.control.capture(stop_early=True) as features:
            self.source(sources, timestep)
        return features


class StandaloneDenoiser(GuidedDenoiser):
    """A translation on a host of our own: no row is computed whose result cannot matter or is known already.

    latent (B, 4, h, w); mask (B or 1, 1, 8h, 8w) or None; free (B or 1, 1, 8h, 8w): what may change at
    all, or None; embeddings: trigger word -> vectors (n, width). `counts` are the UNet's rows so far, by the names in
    `pipeline.Forwards`. Predictions raise HostError for NaN.
    """

    def __init__(
        self,
        host: ModelHost,
        latent: Tensor,
        params: TranslationParams,
        embeddings: Mapping[str, Tensor],
        mask: Tensor | None = None,
        free: Tensor | None = None,
    ) -> None:
        size = (latent.shape[-2], latent.shape[-1])
        schedule = Schedule(host.alphas_cumprod, params.timesteps, host.prediction_type)
        super().__init__(params, host.unet, latent, schedule, region=controlled_region(params, mask, size))
        self.host = host
        # contexts (1, 77*k, width): of one length where they are rows of one call
        asked = params.steering
        empty = self.guide.reads_empty(params.cfg_scale)
        self._text = asked.prompt.strip()  # a concept of this text is the conditional row itself
        texts = [text for text in self.guide.concepts.texts if text != self._text]
        prompts = [asked.prompt, asked.negative_prompt, *([""] if empty else []), *texts]
        self._cond, self._negative, *others = host.encode_prompts(prompts, embeddings).split(1)
        self._empty = others.pop(0) if empty else None
        if self._empty is not None and torch.equal(self._empty, self._cond):
            self._empty = None
        self._concepts = dict(zip(texts, others, strict=True))
        self.source_context = host.encode_prompts([params.source_prompt], embeddings)
        self._unconditional = host.encode_prompts([""]) if params.inverts_guided else None
        if params.start != "inversion":
            generator = torch.Generator().manual_seed(params.seed)
            self.noise = torch.randn(latent.shape, generator=generator).to(latent)
        if mask is not None and params.background == "keep":
            self.share = to_latent_size(mask, size).to(latent)
        elif free is not None:
            self.share = free_cells(free).to(latent)
        # a call's memory grows with its rows, and the CPU's speed does not where one row is large
        self._together = latent.device.type != "cpu" or size[0] * size[1] <= LARGE
        # under TAC the two branches differ even for equal prompts, unless it controls both
        self._same_prompts = torch.equal(self._cond, self._negative)
        controlled = self.tac.both_halves or self._empty is not None or bool(self._concepts)  # rows beside it
        self._source_is_cond = params.source_prompt == asked.prompt and not controlled
        # once more captured rather than recomputed: the source's output is then the conditional one
        self._first_known = params.features_from == "captured" and torch.equal(self.source_context, self._cond)
        self.counts = dict.fromkeys(("inversion", "guided", "source", "beside"), 0)

    def state(self) -> Hashable:
        return host_state(self.host)

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        with self.control, reused_memory(self.latent.device):
            yield

    def inversion(self, z: Tensor, timestep: int) -> Tensor:
        if self._unconditional is None:
            return self._evaluate("inversion", z, timestep, self.source_context)[0]
        uncond, cond = self._evaluate("inversion", z, timestep, self._unconditional, self.source_context)
        return guidance.cfg(uncond, cond, self.params.cfg_scale)

    def source(self, z: Tensor, timestep: int) -> Tensor:
        return self._evaluate("source", z, timestep, self.source_context)[0]

    def guided(self, z: Tensor, position: int, source: Source) -> Tensor:
        timestep = self.schedule.timestep(position)
        known: Tensor | None = None
        beside: Tensor | None = None
        if self._is_the_source(z, position):
            source = None if isinstance(source, Tensor) else source
            known = self.trajectory.outputs.get(position) if self.trajectory and self._first_known else None
        if isinstance(source, Tensor):
            if self._together and self.params.features_from == "recomputed" and self.control.layers:
                beside = source
            else:
                source = self.recomputed(source, timestep)
        contexts, rows = self._rows(source, known)
        if known is not None and not contexts:
            return known
        step = len(self.schedule) - position
        found: dict[str, Tensor] = {}
        apart = [-1] * (0 if beside is None else len(beside))
        for group in [list(contexts)] if self._together else [[name] for name in contexts]:
            taken = apart + [row for name in group for row in rows[name]]
            with ExitStack() as stack:
                if source is not None:
                    features = None if isinstance(source, Tensor) else source
                    stack.enter_context(self.control.inject(features, taken, self.tac.strengths(step)))
                outputs = self._evaluate("guided", z, timestep, *(contexts[name] for name in group), beside=beside)
            found |= zip(group, outputs, strict=True)
        cond = found.pop("cond") if known is None else known
        if not found:
            return cond
        empty, negative = found.pop("empty", cond), found.pop("negative", cond)
        concepts = {self._text: cond} | {text: found[_CONCEPT + text] for text in self._concepts}
        return self.guide(empty, cond, negative, self.params.cfg_scale, step, concepts)

    def _is_the_source(self, z: Tensor, position: int) -> bool:
        """Whether the conditional branch is still the source's: at the start, from the inversion's own end."""
        if not self._source_is_cond or position != len(self.schedule) or self.trajectory is None:
            return False
        return torch.equal(z, self.trajectory.latents[position])

    def _rows(self, source: Source, known: Tensor | None) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """The contexts that a guided call needs, and for each the source that each row takes its attention from."""
        every = list(range(len(self.latent)))
        contexts: dict[str, Tensor] = {}
        rows: dict[str, list[int]] = {}
        same = self._same_prompts and (source is None or self.tac.both_halves)
        if self.guide.reads_negative(self.params.cfg_scale) and not same:
            contexts["negative"] = self._negative
            rows["negative"] = every if self.tac.both_halves else [-1] * len(every)
        controlled = {} if self._empty is None else {"empty": self._empty}
        controlled |= {_CONCEPT + text: context for text, context in self._concepts.items()}
        for name, context in controlled.items():
            contexts[name], rows[name] = context, every
        if known is None:
            contexts["cond"], rows["cond"] = self._cond, every
        return contexts, rows

    def _evaluate(
        self, kind: str, z: Tensor, timestep: int, *contexts: Tensor, beside: Tensor | None = None
    ) -> list[Tensor]:
        """beside: a source's latents, run in the same call before the others."""
        batch = len(z)
        self.counts[kind] += batch * len(contexts)
        latents = [z] * len(contexts)
        if beside is not None:
            self.counts["source"] += batch
            self.counts["beside"] += batch
            latents, contexts = [beside, *latents], (self.source_context, *contexts)
        context = torch.cat([c.expand(batch, -1, -1) for c in contexts])
        output = self.host.predict_noise(torch.cat(latents), timestep, context)
        if not torch.isfinite(output).all():
            raise HostError(f"the model gave NaN at timestep {timestep}: use --dtype float32 (in the webui --no-half).")
        return list(output.chunk(len(contexts)))[beside is not None :]
