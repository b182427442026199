"""One optimizer step on a training state, with the checks that keep a broken run from looking like a good one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.batch import RowSource

from .errors import TrainingError
from .lr_schedule import LearningRate
from .objective import Model, encode_once, objective_terms
from .optimizers import MovingAverage, OptimizerPart, make_optimizer, shorten
from .parallel import ALONE, Workers
from .params import TrainingParams
from .precision import computes_in_half
from .state import HistoryRow, LossScale, Stateful, TrainingState

FULL_PRECISION = "use full precision (the webui: start it with --no-half; the command line: --dtype float32)"


def initial_vectors(host: ModelHost, text: str, count: int) -> Tensor:
    """(count, width) float32 on the host's device: the text's token vectors spread over the rows, else zeros.

    Row i is token floor(i*m/count) of m, as in the webui's create_embedding.
    """
    vectors = torch.zeros(count, host.embedding_width, device=host.device)
    tokens = host.token_vectors(text).to(vectors) if text.strip() else vectors[:0]
    if len(tokens):
        vectors = tokens[[i * len(tokens) // count for i in range(count)]]
    return vectors.clone()


@torch.no_grad()
def usual_norm(table: Tensor) -> float:
    """The median L2 norm of a model's token vectors (n, width): about .39 in SD1.5."""
    return float(table.float().norm(dim=1).median())


class Stepper:
    """Makes the steps of one run. Use inside `host.training()`.

    photos: draws the rows of real photos, for an objective that has such a term. extra_parts: what else belongs to the
    state, by name.
    """

    def __init__(
        self,
        host: ModelHost,
        params: TrainingParams,
        rates: LearningRate,
        name: str,
        source: RowSource,
        vectors: Tensor,
        photos: RowSource | None = None,
        extra_parts: Mapping[str, Stateful] | None = None,
        workers: Workers = ALONE,
    ):
        self.host, self.params, self.rates, self.source, self.workers = host, params, rates, source, workers
        self.scale = LossScale(enabled=computes_in_half(params.precision, host))
        self.optimizer = make_optimizer(params, vectors)
        parts = {"optimizer": OptimizerPart(self.optimizer), "renders": source, "scale": self.scale}
        terms = objective_terms(params)
        if "photos" in terms:
            parts["photos"] = photos
        sources = {"renders": source, "photos": photos}
        self.terms = [(sources[kind], loss, weight) for kind, (loss, weight) in terms.items()]
        self.average = MovingAverage(vectors, params.ema) if params.ema else None
        if self.average is not None:
            parts["average"] = self.average
        self.state = TrainingState(vectors, source.generator, parts | dict(extra_parts or {}))
        self.token_norm = usual_norm(host.token_table()[0]) if params.norm_decay else 0.0
        self.model = Model(
            host.predict_noise,
            lambda captions: encode_once(lambda texts: host.encode_prompts(texts, {name: vectors}), captions),
            host.alphas_cumprod,
            host.prediction_type,
        )
        self._tested = False
        # the host's own trainer leaves gradients on the UNet (HOST.md fact 7): those are not ours
        self._foreign = {id(p) for p in host.unet.parameters() if p.grad is not None}

    def step(self, before: dict) -> HistoryRow:
        """One step on from the snapshot `before`, which is of the present state. After a TrainingError: restore it."""
        state, vectors = self.state, self.state.vectors
        # not inherited from the caller: a page may run this in another thread, a host under inference_mode
        with torch.inference_mode(False), torch.enable_grad():
            while True:
                loss, grad = self._gradient()
                if not torch.isfinite(loss):
                    raise TrainingError(f"The loss became NaN: lower the learning rate, or {FULL_PRECISION}.")
                if torch.isfinite(grad).all():
                    break
                if not self.scale.reduce():
                    raise TrainingError(f"The gradient became NaN: lower the learning rate, or {FULL_PRECISION}.")
                scale = self.scale.state_dict()
                state.restore(before)
                self.scale.load_state_dict(scale)
            self._self_test(grad)
        norm = float(grad.norm())
        limit = self.params.clip_grad_norm
        if limit and norm > limit:
            grad.mul_(limit / norm)
        rate = self.rates.rate(state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        vectors.grad = None
        if not torch.isfinite(vectors).all():
            raise TrainingError("The vectors became NaN: lower the learning rate.")
        if self.params.norm_decay:
            shorten(vectors, self.token_norm, self.params.norm_decay)
        if self.average is not None:
            self.average.update(vectors)
        self.scale.succeeded()
        with torch.no_grad():
            length, change = vectors.norm(dim=1).mean(), (vectors - state.initial).norm(dim=1).mean()
        row = HistoryRow(state.step + 1, float(loss), rate, norm, float(length), float(change))
        state.record(row)
        return row

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """The mean loss over all rows of the step and its gradient (n, width), unscaled.

        Each term of the objective goes backward by itself: one term's activations at a time are in memory.
        """
        vectors, params = self.state.vectors, self.params
        count = params.rows_per_step * self.workers.count
        vectors.grad = None
        losses = []
        for source, objective, weight in self.terms:
            for rows in source.batches(count, params.batch_size, self.host.device, self.workers):
                loss = objective(self.model, rows).sum() * (weight / count)
                if not loss.requires_grad:
                    raise self._no_gradient()
                (loss * self.scale.value).backward()
                losses.append(loss.detach())
        grad = vectors.grad
        if grad is None:
            raise self._no_gradient()
        return self.workers.sum(torch.stack(losses).sum()), self.workers.sum(grad).div_(self.scale.value)

    def _self_test(self, grad: Tensor) -> None:
        """At the first step of a process: the gradient reaches the vectors and nothing but them."""
        if self._tested:
            return
        self._tested = True
        if not grad.any():
            raise self._no_gradient()
        kept = [p for p in self.host.unet.parameters() if p.grad is not None and id(p) not in self._foreign]
        if kept:
            raise TrainingError(
                "The UNet collects gradients although it should be frozen: please report this as a bug."
            )

    def _no_gradient(self) -> TrainingError:
        return TrainingError(
            "No gradient reaches the embedding, so nothing would be learnt: switch off xformers and other "
            f"cross-attention optimisations for training, or {FULL_PRECISION}."
        )
