"""One optimizer step on a training state, with the checks that keep a broken run from looking like a good one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hosts.protocol import ModelHost
from ..params import TrainingParams
from .dataset import RowSource
from .errors import TrainingError
from .lr_schedule import LearningRate
from .objective import OBJECTIVES, Model, encode_once
from .state import HistoryRow, LossScale, OptimizerPart, TrainingState

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


class Stepper:
    """Makes the steps of one run. Use inside `host.training()`."""

    def __init__(
        self,
        host: ModelHost,
        params: TrainingParams,
        rates: LearningRate,
        name: str,
        source: RowSource,
        vectors: Tensor,
    ):
        self.host, self.params, self.rates, self.source = host, params, rates, source
        self.scale = LossScale(enabled=host.dtype == torch.float16)
        self.optimizer = torch.optim.AdamW([vectors], lr=1.0, weight_decay=params.weight_decay, foreach=False)
        parts = {"optimizer": OptimizerPart(self.optimizer), "renders": source, "scale": self.scale}
        self.state = TrainingState(vectors, source.generator, parts)
        self.model = Model(
            host.predict_noise,
            lambda captions: encode_once(lambda texts: host.encode_prompts(texts, {name: vectors}), captions),
            host.alphas_cumprod,
            host.prediction_type,
        )
        self.objective = OBJECTIVES[params.objective]
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
        self.scale.succeeded()
        with torch.no_grad():
            length, change = vectors.norm(dim=1).mean(), (vectors - state.initial).norm(dim=1).mean()
        row = HistoryRow(state.step + 1, float(loss), rate, norm, float(length), float(change))
        state.record(row)
        return row

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """The mean loss over the accumulated passes and its gradient (n, width), unscaled."""
        vectors, passes = self.state.vectors, self.params.accumulation
        vectors.grad = None
        losses = []
        for _ in range(passes):
            rows = self.source.draw(self.params.batch_size, self.host.device)
            loss = self.objective(self.model, rows).mean()
            if not loss.requires_grad:
                raise self._no_gradient()
            (loss * (self.scale.value / passes)).backward()
            losses.append(loss.detach())
        grad = vectors.grad
        if grad is None:
            raise self._no_gradient()
        return torch.stack(losses).mean(), grad.div_(self.scale.value)

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
