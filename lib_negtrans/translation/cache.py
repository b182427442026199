"""Inversions that were done already: the same picture translated again with other settings does not invert again.

An inversion depends on the UNet with everything that is loaded into it, the latent, the source prompt as it was
encoded, the grid and how it was walked, and which layers were captured: all that is in the key. What comes after it
(negative embedding, weight, CFG, prompt, seed) is not, and the result is the same to the byte with and without cache.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from lib_negtrans.core.attention import AttentionControl
from lib_negtrans.core.features import tensor_bytes
from lib_negtrans.core.inversion import Trajectory
from lib_negtrans.core.schedule import Schedule
from lib_negtrans.memory import MIB, available_host_memory
from lib_negtrans.models.protocol import ModelHost

from .params import TranslationParams

LARGEST_AUTOMATIC = 4096 * MIB
ENCODED_PICTURES = 8


def tensor_digest(tensor: Tensor) -> str:
    """A digest of shape, dtype and every byte."""
    content = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(content.shape)} {content.dtype}".encode())
    digest.update(content.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def network_state(module: nn.Module) -> Hashable:
    """Changes with a network's weights (a few of each tensor are looked at) and with what is hooked into it.

    A LoRA that is merged in, in whatever way, changes every element of what it touches. Milliseconds.
    """
    probes = [tensor.detach().reshape(-1)[:4].to("cpu", torch.float32) for tensor in module.parameters()]
    patched = tuple(
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
        for name, m in module.named_modules()
        if m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)
    )
    return id(module), tensor_digest(torch.cat(probes)) if probes else "", patched


def inversion_key(
    state: Hashable,
    latent: Tensor,
    params: TranslationParams,
    schedule: Schedule,
    context: Tensor,
    capture: AttentionControl | None,
) -> Hashable:
    """The key of an inversion by a network in `state`, for latents (B, 4, h, w) and a source context (1, T, width)."""
    return (
        state,
        tensor_digest(latent),
        tensor_digest(context),
        schedule.timesteps,
        schedule.prediction_type,
        tensor_digest(schedule.alphas_cumprod),
        params.solver,
        params.fixed_point if params.solver == "ddim" else 0,
        params.order,
        params.cfg_scale if params.inverts_guided else None,
        None if capture is None else (tuple(layer.name for layer in capture.layers), params.tac_steps),
    )


def host_state(host: ModelHost) -> Hashable:
    """What of a host of our own an inversion depends on; to be asked while no hook of one's own is on the UNet."""
    return host.checkpoint_name, host.loras, str(host.device), host.dtype, network_state(host.unet)


class TrajectoryCache:
    """Trajectories by key, the least recently used out first when they take more than `limit` bytes of main memory.

    limit None: a quarter of what is free when a trajectory is put, 4 GB at most; 0 keeps none. What is kept lies in
    host memory, so that a GPU's is free between two jobs. Every method may be called from any thread.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Trajectory] = OrderedDict()
        self._encoded: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Trajectory | None:
        """The trajectory, or None."""
        with self._lock:
            trajectory = self._kept.get(key)
            if trajectory is not None:
                self._kept.move_to_end(key)
            return trajectory

    def put(self, key: Hashable, trajectory: Trajectory) -> bool:
        """Keep a trajectory; False when it alone is larger than the limit.

        Parts of one are never kept: with features computed again the result would differ in its last digits.
        """
        size = trajectory_bytes(trajectory)
        with self._lock:
            self._kept.pop(key, None)
            limit = self._limit()
            if size > limit:
                return False
            while self._kept and self._bytes() + size > limit:
                self._kept.popitem(last=False)
            self._kept[key] = trajectory
        return True

    def encoded(self, host: ModelHost, image: Tensor) -> Tensor:
        """`host.encode_image`, or what it gave for the same image (B, 3, H, W) before."""
        return self._through_vae(host, host.encode_image, image)

    def decoded(self, host: ModelHost, latent: Tensor) -> Tensor:
        """`host.decode_latent`, or what it gave for the same latent (B, 4, h, w) before."""
        return self._through_vae(host, host.decode_latent, latent)

    def _through_vae(self, host: ModelHost, make: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        vae = getattr(host, "vae", None)
        if not isinstance(vae, nn.Module):
            return make(given)
        # a picture has three channels and a latent four: the same digest never stands for both
        key = network_state(vae), tensor_digest(given)
        with self._lock:
            found = self._encoded.get(key)
            if found is not None:
                self._encoded.move_to_end(key)
                return found
        found = make(given)
        with self._lock:
            self._encoded[key] = found
            while len(self._encoded) > ENCODED_PICTURES:
                self._encoded.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget everything: another model was loaded, or memory is wanted."""
        with self._lock:
            self._kept.clear()
            self._encoded.clear()

    def _bytes(self) -> int:
        return sum(trajectory_bytes(trajectory) for trajectory in self._kept.values())

    def _limit(self) -> int:
        if self.limit is not None:
            return self.limit
        # what is kept now counts as free: it may be replaced
        return min(LARGEST_AUTOMATIC, (available_host_memory() + self._bytes()) // 4)


def trajectory_bytes(trajectory: Trajectory) -> int:
    """Bytes of its latents, outputs and features."""
    own = tensor_bytes([*trajectory.latents, *trajectory.outputs.values()])
    return own + trajectory.features.device_bytes + trajectory.features.host_bytes
