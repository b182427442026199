"""One optimizer step on a training state, with the checks that keep a broken run from looking like a good one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.memory import reused_memory
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.batch import RowSource

from .common_params import CommonParams
from .errors import TrainingError
from .lr_schedule import LearningRate
from .objective import model_with
from .optimizers import LR_FACTOR, OptimizerPart, make_optimizer
from .parallel import ALONE, Workers
from .precision import FULL_PRECISION, LossScale
from .state import HistoryRow, Stateful, TrainingState
from .trainable import Trainable
from .weights import tensors


class Stepper:
    """Makes the steps of one run. Use inside `host.training()`.

    sources: draw rows for each of the trainable's terms. generator: of those that are not counted. parts: what else
    belongs to the state, by name.
    """

    def __init__(
        self,
        host: ModelHost,
        params: CommonParams,
        trainable: Trainable,
        rates: LearningRate,
        sources: Mapping[str, RowSource],
        generator: torch.Generator,
        parts: Mapping[str, Stateful],
        workers: Workers = ALONE,
    ):
        self.host, self.params, self.trainable, self.rates, self.workers = host, params, trainable, rates, workers
        self.scale = LossScale.of(params.precision, host)
        self.optimizer = make_optimizer(params, trainable.groups())
        self.average = trainable.average()
        self.terms = [(name, sources[name], loss, weight) for name, (loss, weight) in trainable.terms().items()]
        own: dict[str, Stateful] = {"optimizer": OptimizerPart(self.optimizer), "scale": self.scale, **sources}
        own |= {} if self.average is None else {"average": self.average}
        self.state = TrainingState(trainable.weights, generator, own | dict(parts), trainable.copied)
        self._tested = False
        # the host's own trainer leaves gradients on the UNet (HOST.md fact 7): those are not ours
        self._foreign = {id(p) for p in host.unet.parameters() if p.grad is not None}
        self._foreign |= {id(tensor) for tensor in tensors(trainable.weights)}

    def step(self, before: dict[str, Any]) -> HistoryRow:
        """One step on from the snapshot `before`, which is of the present state. After a TrainingError: restore it."""
        with reused_memory(self.host.device):
            return self._step(before)

    def _step(self, before: dict[str, Any]) -> HistoryRow:
        state, trainable = self.state, self.trainable
        # not inherited from the caller: a page may run this in another thread, a host under inference_mode
        with torch.inference_mode(False), torch.enable_grad():
            loss, grads = self._finite_gradient(before)
        norm = float(torch.stack([grad.norm() for grad in grads]).norm())
        limit = self.params.clip_grad_norm
        if limit and norm > limit:
            for grad in grads:
                grad.mul_(limit / norm)
        rate = self.rates.rate(state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group[LR_FACTOR]
        state.begin(before)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not all_finite(tensors(trainable.weights)):
            raise TrainingError(f"The {trainable.noun} became NaN: lower the learning rate.")
        trainable.constrain()
        if self.average is not None:
            self.average.update(trainable.weights)
        self.scale.succeeded()
        total, prior = loss.tolist()
        row = HistoryRow(state.step + 1, total, rate, norm, *trainable.measure(state.initial), prior)
        state.record(row)
        return row

    def _finite_gradient(self, before: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient, at a lower scale with the same data again where they overflow."""
        while True:
            loss, grads = self._gradient()
            if not torch.isfinite(loss).all():
                raise TrainingError(f"The loss became NaN: lower the learning rate, or {FULL_PRECISION}.")
            if all_finite(grads):
                self._self_test(grads)
                return loss, grads
            if not self.scale.reduce():
                raise TrainingError(f"The gradient became NaN: lower the learning rate, or {FULL_PRECISION}.")
            self.state.rewind_data(before)

    def _gradient(self) -> tuple[Tensor, list[Tensor]]:
        """The step's [mean loss, that of the prior without its weight], and the gradients by the weights, unscaled.

        Each term of the objective goes backward by itself: one term's activations at a time are in memory.
        """
        weights, params = self.trainable.weights, self.params
        losses, priors = [], [torch.zeros((), device=self.host.device)]
        count = params.rows_per_step * self.workers.count
        self.optimizer.zero_grad()
        with self.trainable.applied(weights) as embeddings:
            model = model_with(self.host, embeddings, lambda: self.trainable.applied(None))
            for name, source, objective, weight in self.terms:
                step = self.state.step
                for rows in source.batches(count, params.batch_size, self.host.device, self.workers, step):
                    loss = objective(model, rows).sum() * (weight / count)
                    if not loss.requires_grad:
                        raise self._no_gradient()
                    (loss * self.scale.value).backward()
                    losses.append(loss.detach())
                    if name == "prior":
                        priors.append(losses[-1] / weight)
        grads = [tensor.grad for tensor in tensors(weights) if tensor.grad is not None]
        if not grads:
            raise self._no_gradient()
        found = torch.stack([torch.stack(losses).sum(), torch.stack(priors).sum()])
        grads = [self.workers.sum(grad) for grad in grads]
        if self.scale.value != 1.0:  # of a whole model, dividing takes a noticeable time
            torch._foreach_div_(grads, self.scale.value)
        return self.workers.sum(found), grads

    def _self_test(self, grads: list[Tensor]) -> None:
        """At the first step of a process: the gradient reaches the weights and nothing but them."""
        if self._tested:
            return
        self._tested = True
        if not any(grad.any() for grad in grads):
            raise self._no_gradient()
        if any(p.grad is not None and id(p) not in self._foreign for p in self.host.unet.parameters()):
            raise TrainingError(
                "The UNet collects gradients although it should be frozen: please report this as a bug."
            )

    def _no_gradient(self) -> TrainingError:
        return TrainingError(
            f"No gradient reaches the {self.trainable.noun}, so nothing would be learnt: switch off xformers and other "
            f"cross-attention optimisations for training, or {FULL_PRECISION}."
        )


def all_finite(some: Sequence[Tensor]) -> bool:
    """Whether all numbers are. Sums tell it quicker than a mask does, which is made where a sum is too large."""
    if torch.isfinite(torch.stack([tensor.detach().sum() for tensor in some])).all():
        return True
    return all(torch.isfinite(tensor).all() for tensor in some)
