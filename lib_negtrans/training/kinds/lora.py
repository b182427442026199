"""A LoRA: small matrices beside the model's own (`lora.live`); the model is frozen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.files import atomic_write
from lib_negtrans.lora.files import LoraPair, read_lora, write_lora
from lib_negtrans.lora.live import DOWN, UP, Layer, LiveLora, LoraWeights
from lib_negtrans.lora.names import is_text, lora_targets
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.batch import counted_generator
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.events import Notice
from lib_negtrans.training.optimizers import MovingAverage
from lib_negtrans.training.positive_params import SHALLOW, LoraParams

from .positive import FILE_DTYPES, PositiveKind, total_norm


class Lora(PositiveKind[LoraParams]):
    """A `Trainable`; its weights are float32 by their kohya names, in every precision of the model."""

    options = LoraParams
    kind, noun = "LoRA", "LoRA weights"

    def __init__(self, host: ModelHost, params: LoraParams, name: str):
        super().__init__(host, params, name)
        self.targets = trained_targets(host, params)
        self.scale = params.alpha / params.rank
        self.dtype = torch.promote_types(host.dtype, torch.float32)
        self.live = LiveLora(self.targets, self.rank_of, self.scale)
        with torch.inference_mode(False), torch.no_grad():
            self.weights: LoraWeights = self.live.initial(
                lambda name: counted_generator(params.seed, name), host.device, self.dtype
            )

    def rank_of(self, module: Layer) -> int:
        """Of a 3x3 convolution the conv rank, of all else the rank."""
        return self.params.conv_rank if max(module.weight.shape[2:], default=1) > 1 else self.params.rank

    is_text = staticmethod(is_text)

    def average(self) -> MovingAverage | None:
        return MovingAverage(self.weights, self.params.ema)

    def notices(self) -> Iterator[Notice]:
        yield from super().notices()
        count = sum(tensor.numel() for tensor in self.weights.values())
        yield Notice(f"The LoRA has {count:,} parameters in {len(self.targets)} layers.")

    @contextmanager
    def applied(self, weights: LoraWeights | None) -> Iterator[Mapping[str, Tensor]]:
        with ExitStack() as undo:
            if not self.live.active and weights is not None:
                undo.enter_context(self.differentiable_input())
            undo.enter_context(self.live.applied(weights))
            yield {}

    @torch.no_grad()
    def measure(self, initial: LoraWeights) -> tuple[float, float]:
        """The L2 norm of all weights, and how far they are from where they began."""
        now = [tensor.detach() for tensor in self.weights.values()]
        moved = torch._foreach_sub(now, list(initial.values()))
        return total_norm(now), total_norm(moved)

    def save(self, path: Path, weights: LoraWeights, step: int, facts: dict[str, Any], overwrite: bool) -> None:
        """In kohya's names and layout. Raises TrainingError if the file, read back, is not the live model."""
        pairs = {
            name: LoraPair(weights[name + DOWN], weights[name + UP], None, self.scale * self.rank_of(module))
            for name, module in self.targets.items()
        }
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(path, overwrite))
            # readers go by a file's ending, and what a kill leaves must end in .tmp
            folder = stack.enter_context(TemporaryDirectory(".tmp", f".{path.name}.", path.parent))
            file = Path(folder, path.name)
            write_lora(file, pairs, self._metadata(step, facts), FILE_DTYPES[self.params.file_precision])
            self.check_file(file, path, weights)
            file.replace(temporary)

    def read_file(self, file: Path) -> LoraWeights:
        """The weights of a file that holds this LoRA's modules. Raises LoraError, TrainingError for another file."""
        pairs = read_lora(file).pairs
        scales = [pair.alpha / pair.rank for pair in pairs.values()]
        if pairs.keys() != self.targets.keys() or any(abs(scale - self.scale) > 1e-6 * self.scale for scale in scales):
            raise TrainingError(f"{file.name} has other layers than this LoRA, or another alpha.")
        found = {name + DOWN: pair.down for name, pair in pairs.items()}
        found |= {name + UP: pair.up for name, pair in pairs.items()}
        return {name: found[name].to(self.host.device, self.dtype) for name in self.weights}

    def _metadata(self, step: int, facts: dict[str, Any]) -> dict[str, str]:
        """What the webui's browser and other trainers read (all text), and under "negtrans" all that is known.

        No date, so that a resumed run writes the same file.
        """
        params, host, report = self.params, self.host, self.data.main.report
        words: dict[str, int] = {}
        for entry in report.entries:
            for tag in filter(None, map(str.strip, entry.words.split(","))):
                words[tag] = words.get(tag, 0) + 1
        folder = report.folder.name
        buckets = {
            str(number): {"resolution": list(size), "count": count}
            for number, (size, count) in enumerate(report.buckets.items())
        }
        kohya: dict[str, Any] = {
            "output_name": self.name, "sd_model_name": host.checkpoint_name, "new_sd_model_hash": host.checkpoint_hash,
            "clip_skip": getattr(host, "clip_skip", 1), "network_module": "networks.lora", "network_dim": params.rank,
            "network_alpha": params.alpha, "base_model_version": "sd_v1", "v2": False,
            "v_parameterization": host.prediction_type == "v_prediction", "steps": step,
            "learning_rate": params.lr, "optimizer": params.optimizer, "lr_scheduler": params.scheduler,
            "lr_warmup_steps": params.warmup, "num_train_images": len(report.entries), "seed": params.seed,
            "batch_size_per_device": params.batch_size, "gradient_accumulation_steps": params.accumulation,
            "resolution": f"({params.size}, {params.size})", "min_snr_gamma": params.min_snr_gamma or None,
            "bucket_info": {"buckets": buckets}, "tag_frequency": {folder: words},
            "dataset_dirs": {folder: {"n_repeats": 1, "img_count": len(report.entries)}},
        }  # fmt: skip
        if params.conv_rank:
            args = {"conv_dim": str(params.conv_rank), "conv_alpha": str(self.scale * params.conv_rank)}
            kohya["network_args"] = args
        told = {
            f"ss_{key}": json.dumps(value) if isinstance(value, dict) else str(value) for key, value in kohya.items()
        }
        return told | {"negtrans": json.dumps(facts | {"step": step})}


def trained_targets(host: ModelHost, params: LoraParams) -> dict[str, Layer]:
    """The modules that get a LoRA, by their kohya names. Raises TrainingError for none."""
    found = lora_targets(host, convolutions=params.conv_rank > 0, text=params.text_encoder)
    chosen = {name: module for name, module in found.items() if is_text(name) or level(name) < SHALLOW[params.layers]}
    if not chosen:
        raise TrainingError("The model has no layers of those that were chosen: set Layers to all.")
    return chosen


def level(name: str) -> int:
    """Of which level of SD1's UNet a target is, 0 the finest (kohya's name of it)."""
    found = re.match(r"lora_unet_(down|up)_blocks_(\d)_", name)
    if found is None:
        return 3  # the middle block
    return int(found[2]) if found[1] == "down" else 3 - int(found[2])
