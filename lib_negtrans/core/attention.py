"""Texture-preserving attention control (TAC): which layers, and the hooks that capture and inject Q and K.

In the shallow self-attention layers the generated branch uses the source branch's queries and keys and its own values:
softmax(Q_src K_src^T / sqrt(d)) V_gen (FashionR2R, arXiv 2410.14429). Hooks before `attn1.to_q` and `attn1.to_k` do
that for ldm, Forge and diffusers modules alike and leave the attention implementation to the host. They hand over what
the source branch gave these projections: the same queries and keys come out, and one tensor is kept for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.hooks import RemovableHandle

# What one UNet call gave each controlled layer's to_q and to_k, by layer name: each (S, tokens, channels), S = number
# of distinct sources. One tensor, twice, unless something comes between the two (a hypernetwork of the webui does).
Features = dict[str, tuple[Tensor, Tensor]]
Captured = dict[str, list[Tensor | None]]  # the same while the call runs


class AttentionShapeError(RuntimeError):
    """A controlled layer saw other shapes than the captured ones: token merging, tiling, another batch."""


class _CaptureComplete(Exception):
    """Ends a source forward once the last layer that is needed has been captured."""


@dataclass(frozen=True)
class SelfAttentionLayer:
    """One self-attention of the UNet. level: how often its input was halved (0 = full latent resolution)."""

    name: str  # IN01, M00, OUT11, in the webui's block numbering
    level: int
    module: Any = field(repr=False, compare=False)

    def tokens(self, latent_height: int, latent_width: int) -> int:
        """Token count for a latent of this size: ceil-halved per level, as the stride-2 convolutions do."""
        scale = 2**self.level
        return math.ceil(latent_height / scale) * math.ceil(latent_width / scale)


def _is_downsample(module: nn.Module) -> bool:
    return type(module).__name__ in ("Downsample", "Downsample2D")


def _ldm_levels(blocks: Iterable[nn.Module]) -> list[int]:
    levels, level = [], 0
    for block in blocks:
        level += any(_is_downsample(m) for m in block.modules())
        levels.append(level)
    return levels


def _locate(path: str, unet: Any) -> tuple[str, int]:
    """Block name and level of a module path, in ldm (`input_blocks`) or diffusers (`down_blocks`) naming."""
    if hasattr(unet, "input_blocks"):
        levels = _ldm_levels(unet.input_blocks)
        if path.startswith("middle_block."):
            return "M00", levels[-1]
        kind, index = path.split(".")[0], int(path.split(".")[1])
        if kind == "input_blocks":
            return f"IN{index:02}", levels[index]
        # the output blocks mirror the input blocks: block k works at the level of input block -1-k
        return f"OUT{index:02}", levels[-1 - index]
    if path.startswith("mid_block."):
        return "M00", len(unet.down_blocks) - 1
    block, index = (int(number) for number in path.split(".")[1:4:2])  # down_blocks.0.attentions.1.
    if path.startswith("down_blocks."):  # ldm counts conv_in as block 0 and each downsampler as a block of its own
        return f"IN{1 + block * (len(unet.down_blocks[0].resnets) + 1) + index:02}", block
    return f"OUT{block * len(unet.up_blocks[0].resnets) + index:02}", len(unet.up_blocks) - 1 - block


def self_attention_layers(unet: nn.Module) -> list[SelfAttentionLayer]:
    """Every self-attention of an ldm or diffusers SD1 UNet, in the order of the forward pass (16 on SD1.5)."""
    layers = []
    for path, module in unet.named_modules():
        if not path.endswith(".attn1"):
            continue
        name, level = _locate(path, unet)
        depth = int(path.split(".")[-2])  # .transformer_blocks.0.attn1
        layers.append(SelfAttentionLayer(name if depth == 0 else f"{name}.{depth}", level, module))
    order = {"I": 0, "M": 1, "O": 2}
    # by block only: within one, the modules' own order is the forward order (".10" would sort before ".2")
    return sorted(layers, key=lambda layer: (order[layer.name[0]], layer.name.split(".")[0]))


def shallow_layers(unet: nn.Module, latent_size: tuple[int, int], flag: int) -> list[SelfAttentionLayer]:
    """The layers with at least H*W/flag tokens, H and W in pixels: flag 64 gives 5 of 16, 256 10, 1024 15, 4096 all.

    The published code's `attn_replace_layers`. latent_size is (height, width) of the latent.
    """
    height, width = latent_size
    return [
        layer
        for layer in self_attention_layers(unet)
        if layer.tokens(height, width) >= (8 * height) * (8 * width) / flag
    ]


def _index(rows: list[int]) -> slice | list[int]:
    """A slice where the rows are consecutive: indexing with a list makes the GPU wait for a copy."""
    return slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else rows


class AttentionControl:
    """Owns the hooks on the chosen layers while its context is open; afterwards no hook is left, whatever happened.

    Between calls it does nothing. `with control.capture() as features:` records what Q and K of the UNet call inside
    are made of; `with control.inject(features, rows):` makes those of the rows named of that.
    region (1 or S, 1, h, w) in [0, 1] at the latent's size: only its tokens take the source's Q and K, by this share;
    the others ask and answer for themselves, so what lies outside is free. It costs a multiplication, nothing N x N.
    """

    def __init__(self, layers: Sequence[SelfAttentionLayer], region: Tensor | None = None) -> None:
        self.layers = list(layers)
        self.region = region
        self._region_tokens: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._capturing: Captured | None = None
        self._former: Tensor | None = None  # what the projection before this one was given
        self._stop_early = False
        self._captured_rows: slice | None = None
        self._injecting: tuple[Features | None, Sequence[int]] | None = None
        self._strengths: Mapping[str, float] = {}

    def __enter__(self) -> AttentionControl:
        if self._handles:
            raise RuntimeError("this attention control is already active.")
        try:
            for layer in self.layers:
                for which, projection in enumerate((layer.module.to_q, layer.module.to_k)):
                    self._handles.append(projection.register_forward_pre_hook(self._hook(layer.name, which)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._capturing = self._injecting = self._former = None
        self._strengths = {}

    def _hook(self, name: str, which: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self._capturing is not None:
                self._record(self._capturing, name, which, args[0])
            elif self._injecting is not None and self._strength(name):
                return (self._replaced(*self._injecting, name, which, args[0]), *args[1:])
            return None

        return hook

    def _record(self, captured: Captured, name: str, which: int, given: Tensor) -> None:
        pair = captured.setdefault(name, [None, None])
        if given is self._former and pair[1 - which] is not None:
            pair[which] = pair[1 - which]
        else:
            rows = given if self._captured_rows is None else given[self._captured_rows]
            pair[which] = rows.detach().clone()  # not the caller's tensor, whose memory it may use again
        self._former = given
        if self._stop_early and len(captured) == len(self.layers) and None not in pair:
            raise _CaptureComplete

    def _strength(self, name: str) -> float:
        return self._strengths.get(name, 1.0)

    def _replaced(self, features: Features | None, rows: Sequence[int], name: str, which: int, given: Tensor) -> Tensor:
        """What a projection is given instead: the source's rows in place of those named, or a blend of the two.

        The projections are linear, so that blending what they are given blends queries and keys.
        """
        if len(rows) != given.shape[0]:
            raise AttentionShapeError(f"layer {name} was called with {len(given)} rows, {len(rows)} were announced.")
        sources = given if features is None else features[name][which]
        if sources.shape[1:] != given.shape[1:]:
            raise AttentionShapeError(
                f"layer {name} has {tuple(given.shape[1:])} here but {tuple(sources.shape[1:])} in the source: "
                "turn off whatever changes the token count (token merging, Hypertile)."
            )
        targets = [i for i, row in enumerate(rows) if row >= 0]
        if not targets:
            return given
        named = [rows[i] for i in targets]
        theirs = sources[_index(named)].to(given)
        strength = self._strength(name)
        share = strength if self.region is None else strength * self._share(self.region, name, named, given)
        if self.region is not None or strength < 1:
            theirs = (1 - share) * given[_index(targets)] + share * theirs
        result = given.clone()
        result[_index(targets)] = theirs
        return result

    def _share(self, region: Tensor, name: str, sources: list[int], given: Tensor) -> Tensor:
        """The region's share of each of a layer's tokens: (targets, tokens, 1)."""
        if name not in self._region_tokens:
            scale = 2 ** next(layer.level for layer in self.layers if layer.name == name)
            size = (math.ceil(region.shape[-2] / scale), math.ceil(region.shape[-1] / scale))
            self._region_tokens[name] = adaptive_avg_pool2d(region, size).flatten(2).transpose(1, 2).to(given)
        tokens = self._region_tokens[name]
        return tokens if len(tokens) == 1 else tokens[_index(sources)]

    def _check_ready(self) -> None:
        if not self._handles and self.layers:
            raise RuntimeError("attention control is used outside its context.")
        if self._capturing is not None or self._injecting is not None:
            raise RuntimeError("attention control is already capturing or injecting.")

    @contextmanager
    def capture(self, rows: slice | None = None, stop_early: bool = False) -> Generator[Features, None, None]:
        """Record what the one UNet call inside makes Q and K of, for the batch rows of a slice (all by default).

        With stop_early the call is cut off after the last chosen layer: its result is lost, the block ends quietly.
        The mapping is filled when the block ends. Raises RuntimeError when the hooks are not active or already in use.
        """
        self._check_ready()
        features: Features = {}
        self._capturing, self._stop_early, self._captured_rows = {}, stop_early, rows
        try:
            yield features
        except _CaptureComplete:
            pass  # what was wanted has been captured
        finally:
            captured, self._capturing = self._capturing or {}, None
            self._stop_early, self._captured_rows, self._former = False, None, None
            features.update({name: (q, k) for name, (q, k) in captured.items() if q is not None and k is not None})

    @contextmanager
    def inject(
        self, features: Features | None, rows: Sequence[int], strengths: Mapping[str, float] | None = None
    ) -> Generator[None, None, None]:
        """Replace Q and K in the UNet call inside: rows[i] is batch row i's source index, or -1 to leave it alone.

        features None: the sources run in the same call, as its first rows, which rows[i] then names.
        strengths: layer name -> l in [0, 1], 1 where not named: Q and K become (1 - l) own + l source's, and a layer at
        0 is not touched at all. Replaced rows' own Q and K are not computed.
        Raises AttentionShapeError (from the call) when the batch or the token count is another, RuntimeError when the
        hooks are not active or already in use, ValueError when a layer's features are missing or a row that is to be a
        source is itself replaced.
        """
        self._check_ready()
        wanted = strengths or {}
        if features is None and any(row >= 0 and rows[row] >= 0 for row in rows):
            raise ValueError("a row whose queries and keys are replaced cannot be another one's source.")
        given = {layer.name for layer in self.layers} if features is None else features
        missing = [layer.name for layer in self.layers if wanted.get(layer.name, 1.0) and layer.name not in given]
        if missing:
            raise ValueError(f"the captured features lack the layers {', '.join(missing)}.")
        self._injecting, self._strengths = (features, list(rows)), wanted
        try:
            yield
        finally:
            self._injecting, self._strengths = None, {}
