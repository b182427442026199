"""What both trainings share: the optimizer, averaged weights, the clock, and checkpoints that survive."""

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn


def orthogonalise(m: Tensor, rounds: int = 3) -> Tensor:
    """m with its larger singular values brought near 1 (Muon's Newton-Schulz, worked on the smaller Gram matrix).

    Muon takes five rounds; three cost less.
    """
    wide = m if m.shape[0] <= m.shape[1] else m.T
    x = wide / (wide.norm() + 1e-12)
    gram, total = x @ x.T, None
    eye = torch.eye(len(x), device=x.device)
    for _ in range(rounds):
        step = 3.4445 * eye + gram @ (-4.775 * eye + 2.0315 * gram)
        total = step if total is None else step @ total
        gram = step @ gram @ step
    x = total @ x
    return x if wide is m else x.T


class Muon(torch.optim.Optimizer):
    """Muon for weights of convolutions and linear layers, Adam for everything else (`plain`), in one learning rate."""

    def __init__(self, params: list[nn.Parameter], plain: list[nn.Parameter], lr: float, decay: float = 0.02):
        groups = [{"params": params, "muon": True}, {"params": plain, "muon": False}]
        super().__init__(groups, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["first"] = torch.zeros_like(p)
                    if not group["muon"]:
                        state["second"], state["count"] = torch.zeros_like(p), 0
                first = state["first"]
                if group["muon"]:
                    first.mul_(0.95).add_(p.grad)
                    flat = (p.grad + 0.95 * first).flatten(1)
                    change = orthogonalise(flat).view_as(p) * (0.2 * max(flat.shape) ** 0.5)
                    p.mul_(1 - group["lr"] * group["decay"])
                else:
                    state["count"] += 1
                    first.lerp_(p.grad, 0.1)
                    state["second"].lerp_(p.grad.square(), 0.01)
                    second = state["second"] / (1 - 0.99 ** state["count"])
                    change = first / (1 - 0.9 ** state["count"]) / (second.sqrt() + 1e-8)
                p.sub_(change, alpha=group["lr"])


def muon(modules: list[nn.Module], lr: float, decay: float = 0.02) -> Muon:
    """Matrices of at least 16 rows and columns go to Muon; embeddings, norms, biases and thin ends to Adam."""
    matrices, plain = [], []
    for module in modules:
        for name, p in module.named_parameters():
            if p.requires_grad:
                big = p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and "embedding" not in name
                (matrices if big else plain).append(p)
    return Muon(matrices, plain, lr, decay)


class Average:
    """Exponential moving average of a module's state, with a warm-up of the decay."""

    def __init__(self, module: nn.Module, decay: float = 0.998):
        self.module, self.decay, self.count = module, decay, 0
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for key, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.shadow[key].lerp_(value, 1 - decay)


class Clock:
    """The share of the hours given that has been trained, over all runs; the learning rate follows it."""

    def __init__(self, hours: float, before: float = 0.0):
        self.hours, self.before, self.start = hours, before, time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def share(self) -> float:
        return self.seconds() / 3600 / self.hours

    def rate(self, flat: float = 0.25) -> float:
        """1, from the share `flat` on along half a cosine down to 0."""
        done = min(1.0, max(0.0, (self.share() - flat) / (1 - flat)))
        return 0.5 * (1 + math.cos(math.pi * done))


def save(state: dict, path: Path) -> None:
    """Written beside and renamed, so that a checkpoint is always whole."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
