"""The webui's loaded checkpoint as a `ModelHost`: its own text encoder, UNet and VAE, in the precision they run in."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from modules import (
    devices,
    extra_networks,
    sd_hijack,
    sd_hijack_checkpoint,
    sd_hijack_optimizations,
    sd_models,
    sd_unet,
    shared,
)
from modules.textual_inversion.textual_inversion import Embedding as HostEmbedding
from torch import Tensor, nn

from lib_negtrans.files import sha256_of

from .protocol import HostError, UsedLora, hash_with_loras

_PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction"}
_SPLICE_ATTEMPTS = 3
_hashes: dict[tuple[str, float], str] = {}  # (file, mtime) -> sha256, for a webui started with --no-hashing


def current_host() -> WebuiHost:
    """The loaded checkpoint; loads the chosen one if there is none yet. Raises HostError for what is not supported."""
    model = shared.sd_model
    if model is None:
        raise HostError("No checkpoint is loaded: choose a Stable Diffusion 1.x checkpoint at the top left.")
    return WebuiHost(model)


def loaded_host() -> WebuiHost | None:
    """The checkpoint that is in memory now, or None: never loads one, never raises for an unsupported one."""
    model = getattr(sd_models.model_data, "sd_model", None)
    with contextlib.suppress(HostError):
        return None if model is None else WebuiHost(model)
    return None


class WebuiHost:
    """A ModelHost on `shared.sd_model`; shapes are those of the protocol.

    Made anew for every job: it is bound to one checkpoint and says so when another takes its place. What belongs to
    the sampling of a picture and not to the text encoder (AND, `[a:b:0.5]`, `<lora:...>`) is text to `encode_prompts`.
    """

    name = "webui"
    # what `lora.apply` has put into the weights; those of a prompt come and go with each picture
    loras: tuple[UsedLora, ...] = ()
    embeddings: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, model: Any):
        info = model.sd_checkpoint_info
        family = next((f for f in ("sdxl", "sd2", "sd3", "ssd") if getattr(model, f"is_{f}", False)), None)
        if family or not getattr(model, "is_sd1", False):
            kind = (family or "another family").upper()
            raise HostError(f"{info.model_name} is {kind}: choose a Stable Diffusion 1.x checkpoint.")
        if model.model.conditioning_key != "crossattn":
            raise HostError(f"{info.model_name} is an inpainting or editing checkpoint: choose the ordinary one.")
        if model.parameterization not in _PREDICTION_TYPES:
            raise HostError(f"{info.model_name} predicts {model.parameterization!r}, not noise or v: choose another.")
        self.model = model
        self._file = info.filename
        self._parks_vae = False
        self._autocast: torch.dtype | None = None

    @property
    def checkpoint_name(self) -> str:
        return Path(self.model.sd_checkpoint_info.filename).stem

    @property
    def checkpoint_hash(self) -> str:
        """sha256 of the file that is loaded now, which during a job tells whether it was exchanged."""
        info = self.model.sd_checkpoint_info
        return info.sha256 or _sha256(info.filename)

    @property
    def model_hash(self) -> str:
        return hash_with_loras(self.checkpoint_hash, self.loras)

    @property
    def device(self) -> torch.device:
        return torch.device(devices.device)

    @property
    def dtype(self) -> torch.dtype:
        return devices.dtype_unet

    @property
    def unet(self) -> nn.Module:
        return self.model.model.diffusion_model

    @property
    def path(self) -> Path:
        return Path(self.model.sd_checkpoint_info.filename)

    @property
    def text_encoder(self) -> Any:
        """transformers' CLIPTextModel under the webui's wrappers."""
        return self.model.cond_stage_model.wrapped.transformer

    @property
    def alphas_cumprod(self) -> Tensor:
        """(1000,) float64: the checkpoint's own, also after a picture with the option "zero terminal SNR"."""
        original = getattr(self.model, "alphas_cumprod_original", None)
        return (self.model.alphas_cumprod if original is None else original).detach().double().cpu()

    @property
    def prediction_type(self) -> str:
        return _PREDICTION_TYPES[self.model.parameterization]

    @property
    def embedding_width(self) -> int:
        return self._token_table.weight.shape[1]

    @property
    def _token_table(self) -> nn.Embedding:
        table: Any = self.text_encoder.text_model.embeddings.token_embedding
        return getattr(table, "wrapped", table)

    def tokenize(self, text: str) -> list[int]:
        """CLIP's token ids of a text, without start and end."""
        return self.model.cond_stage_model.tokenize([text])[0]

    def token_vectors(self, text: str) -> Tensor:
        """The token embeddings (m, width) float32 of a text, without start and end; (0, width) for an empty text."""
        weight = self._token_table.weight
        ids = torch.tensor(self.tokenize(text), dtype=torch.long, device=weight.device)
        return weight[ids].detach().float().to(self.device).clone()

    def token_table(self) -> tuple[Tensor, list[str]]:
        """All token embeddings (vocabulary, width) and their texts."""
        tokenizer = self.model.cond_stage_model.tokenizer
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        # as people write them: a token is spelt in stand-ins for bytes
        texts = [tokenizer.convert_tokens_to_string([token]).strip() for token in tokens]
        return self._token_table.weight.detach(), texts

    def encode_image(self, image: Tensor) -> Tensor:
        """The posterior's mean, scaled: image (B,3,H,W) in [0,1] -> latent (B,4,H/8,W/8) float32."""
        return self.encode_image_distribution(image)[0]

    @torch.no_grad()
    def encode_image_distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, both scaled: two (B,4,H/8,W/8) float32."""
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % 8 or image.shape[3] % 8:
            raise ValueError(f"An image must be (B, 3, H, W) with H and W multiples of 8, not {tuple(image.shape)}.")
        means, deviations = [], []
        for row in image.split(1):  # one at a time, as the webui does
            posterior = self._vae(self.model.encode_first_stage, row * 2 - 1, lambda d: d.mean)
            means.append(posterior.mean.float())
            deviations.append(posterior.std.float())
        scale = self.model.scale_factor
        return torch.cat(means) * scale, torch.cat(deviations) * scale

    @torch.no_grad()
    def decode_latent(self, latent: Tensor) -> Tensor:
        """latent (B,4,h,w) -> image (B,3,8h,8w) float32 in [0,1]."""
        rows = [self._vae(self.model.decode_first_stage, row, lambda x: x) for row in latent.split(1)]
        return (torch.cat(rows).float() / 2 + 0.5).clamp(0, 1)

    def _vae(self, run, value: Tensor, result):
        """Runs the VAE; one that overflows in half precision goes to float32 for good, as the webui does."""
        first_stage = self.model.first_stage_model
        first_stage.to(devices.device)  # from the CPU, if it was put aside for training
        with devices.without_autocast():
            out = run(value.to(devices.device, devices.dtype_vae))
        if torch.isfinite(result(out)).all() or devices.dtype_vae == torch.float32:
            return out
        if not shared.opts.auto_vae_precision:
            raise HostError("The VAE gave NaN: start the webui with --no-half-vae.")
        devices.dtype_vae = torch.float32
        first_stage.to(torch.float32)
        return self._vae(run, value, result)

    def encode_prompts(self, prompts: Sequence[str], embeddings: Mapping[str, Tensor] | None = None) -> Tensor:
        """Prompts -> context (B, 77*k, width) float32; see ModelHost.

        The host's clip skip, emphasis and loaded embeddings apply; those given here win over loaded ones of their name.
        One prompt at a time, because the host's emphasis takes the mean over a whole batch.
        """
        if not prompts:
            raise ValueError("encode_prompts needs at least one prompt.")
        self._refuse_another_checkpoint()
        embeddings = {**self.embeddings, **(embeddings or {})}
        for name, vectors in embeddings.items():
            if vectors.ndim != 2 or vectors.shape[1] != self.embedding_width or not 1 <= len(vectors) <= 75:
                shape = tuple(vectors.shape)
                raise ValueError(f"The embedding {name} is {shape}; this model takes (1..75, {self.embedding_width}).")
        encode = self.model.cond_stage_model
        with devices.autocast():
            rows = [self._encode_one(encode, prompt, embeddings) for prompt in prompts]
            longest = max(row.shape[1] for row in rows)
            if any(row.shape[1] < longest for row in rows):
                empty = encode([""])
                rows = [torch.cat([row] + [empty] * ((longest - row.shape[1]) // 77), dim=1) for row in rows]
        return _single(torch.cat(rows))

    @staticmethod
    def _encode_one(encode: nn.Module, prompt: str, embeddings: Mapping[str, Tensor]) -> Tensor:
        """One prompt with our vectors in the host's database; again if a refresh in another tab took them out."""
        for _ in range(_SPLICE_ATTEMPTS):
            with registered(embeddings) as still_there:
                context = encode([prompt])
                if still_there():
                    return context
        raise HostError(
            "The embeddings are being refreshed again and again: leave the Textual Inversion tab for a moment."
        )

    def predict_noise(self, latent: Tensor, timestep: int | Tensor, context: Tensor) -> Tensor:
        """The UNet's raw output (eps or v) for latent (B,4,h,w), timestep int or (B,), context (B,T,width): float32.

        As the host samples: its apply_model in its precision, LoRA and other changes to the UNet included.
        """
        self._refuse_another_checkpoint()
        if self._parks_vae and torch.is_grad_enabled():
            self.model.first_stage_model.to(devices.cpu)
        timestep = torch.as_tensor(timestep, device=devices.device).reshape(-1).expand(len(latent))
        latent, context = latent.to(devices.device), context.to(devices.device)
        if devices.force_fp16:  # --precision half: nothing is cast on the way
            latent, context = latent.half(), context.half()
        precision = devices.without_autocast() if devices.unet_needs_upcast else devices.autocast()
        if self._autocast is not None:
            precision = torch.autocast(self.device.type, dtype=self._autocast)
        with precision:
            return _single(self.model.apply_model(latent, timestep, {"c_crossattn": [context], "c_concat": []}))

    def _refuse_another_checkpoint(self) -> None:
        if not self._is_in_place():
            raise HostError(
                f"The checkpoint was changed during the training: choose {Path(self._file).stem} again and resume."
            )

    def _is_in_place(self) -> bool:
        same = sd_models.model_data.sd_model is self.model and self.model.sd_checkpoint_info.filename == self._file
        # while it is being exchanged, the host takes its wrapper off the text encoder and the weights away
        wrapped = hasattr(self.model.cond_stage_model, "wrapped")
        return same and wrapped and not next(self.model.parameters()).is_meta

    def refuse_training(self) -> None:
        """Raises HostError when the webui runs in a way that training cannot go through."""
        if getattr(self.model, "lowvram", False):
            raise HostError(
                "Training needs text encoder and UNet in memory together: start the webui without --medvram, --lowvram."
            )
        if devices.fp8:
            raise HostError("The weights are stored in 8 bits: set Settings > Optimizations > FP8 weight to Disable.")
        if sd_unet.current_unet is not None:
            raise HostError("Another UNet engine is active: set Settings > Stable Diffusion > SD Unet to None.")
        if getattr(shared.opts, "hypertile_enable_unet", False):
            raise HostError("Hypertile is on for the UNet: switch it off in Settings > Hypertile for the training.")
        # both let go of the model behind a picture that was finished, or before the next one
        by_controlnet, by_tiles = "_original_forward" in vars(self.unet), is_replaced(self.model, "apply_model")
        if by_controlnet or by_tiles:
            holder = "ControlNet" if by_controlnet else "Tiled Diffusion"
            raise HostError(
                f"{holder} still holds the model of a picture that failed: make a picture without {holder}, then train."
            )

    @contextlib.contextmanager
    def training(self, gradient_checkpointing: bool = False, autocast: torch.dtype | None = None) -> Iterator[None]:
        """Frozen weights, fit for a backward pass to the embeddings; every flag, module and optimisation is put back.

        autocast: what the UNet computes in meanwhile, weights as they are; None: as the webui is set up.
        The host's cross-attention optimizations are off meanwhile, unless its option "Use cross attention optimizations
        while training" is on: instead of them torch's own attention runs, whose gradient is exact. The VAE waits on the
        CPU under "Move VAE and CLIP to RAM when training".
        """
        self.refuse_training()
        self._refuse_another_checkpoint()
        with contextlib.ExitStack() as undo:
            undo.enter_context(plain_networks())
            undo.enter_context(_frozen(self.model))
            undo.enter_context(_without_ldm_checkpoints(self.unet))
            if not shared.opts.training_xattention_optimizations:
                sd_hijack.undo_optimizations()
                undo.callback(sd_hijack.apply_optimizations)
                _use_torch_attention()
            if gradient_checkpointing:
                sd_hijack_checkpoint.add()
                undo.callback(sd_hijack_checkpoint.remove)
                undo.enter_context(warnings.catch_warnings())
                # layers before the first cross-attention have nothing to differentiate, and torch says so at every step
                warnings.filterwarnings("ignore", message=".*requires_grad=True. Gradients will be None")
                warnings.filterwarnings("ignore", message=".*use_reentrant parameter")
            if shared.opts.unload_models_when_training:
                undo.callback(setattr, shared, "parallel_processing_allowed", shared.parallel_processing_allowed)
                undo.callback(self._return_vae)
                shared.parallel_processing_allowed = False  # live previews would ask for the VAE
                self._parks_vae = True
            devices.torch_gc()
            undo.callback(devices.torch_gc)
            self._autocast = autocast
            undo.callback(setattr, self, "_autocast", None)
            with torch.inference_mode(False), torch.enable_grad():
                try:
                    yield
                except Exception:
                    self._refuse_another_checkpoint()  # then whatever went wrong comes from that
                    raise

    def _return_vae(self) -> None:
        self._parks_vae = False
        if self._is_in_place():
            self.model.first_stage_model.to(devices.device)


def is_replaced(owner: Any, method: str) -> bool:
    """Whether an object has another method than its class; who puts one back may leave the class's own on it."""
    found = vars(owner).get(method)
    return found is not None and getattr(found, "__func__", None) is not getattr(type(owner), method)


def _single(tensor: Tensor) -> Tensor:
    """At least float32; a model in float64, for checks of its gradient, stays so."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@contextlib.contextmanager
def registered(embeddings: Mapping[str, Tensor]) -> Iterator[Any]:
    """Vectors (n, width) in the host's embedding database under their names; what they stood before is put back.

    Gives a function that tells whether they are still in it. The tensors themselves are registered, so that gradients
    reach them.
    """
    database = sd_hijack.model_hijack.embedding_db
    model = shared.sd_model
    ours: dict[str, HostEmbedding] = {}
    former: dict[str, HostEmbedding | None] = {}

    def still_there() -> bool:
        return all(database.word_embeddings.get(name) is embedding for name, embedding in ours.items())

    try:
        for name, vectors in embeddings.items():
            embedding = HostEmbedding(vectors, name)
            embedding.vectors, embedding.shape = vectors.shape
            former[name] = database.word_embeddings.get(name)
            database.register_embedding(embedding, model)
            ours[name] = embedding
            # the search takes the first of those with equally many ids: a loaded "Neg" must not hide our "neg"
            for matches in database.ids_lookup.values():
                matches.sort(key=lambda match: (-len(match[0]), match[1] is not embedding))
        yield still_there
    finally:
        for name, embedding in ours.items():
            if database.word_embeddings.get(name) is embedding:
                database.register_embedding_by_name(former[name], model, name)


@contextlib.contextmanager
def plain_networks() -> Iterator[None]:
    """LoRAs and hypernetworks of the last picture out of the model (HOST.md fact 8); back in their lists afterwards.

    The host's LoRA extension would rewrite a layer's weights at its next forward only, into whatever tensor is in
    their place by then: so it does it here.
    """
    lists = [shared.loaded_hypernetworks]
    lora = sys.modules.get("networks")
    if lora is not None and isinstance(getattr(lora, "loaded_networks", None), list):
        lists.append(lora.loaded_networks)
    former = [list(networks) for networks in lists]
    # other extensions' networks are told by the public way; only what such calls read of a picture's job is in here
    job = SimpleNamespace(
        scripts=None, all_prompts=[], prompts=[], extra_generation_params={}, iteration=0, comment=lambda text: None
    )
    extra_networks.activate(job, {})
    for networks in lists:
        networks.clear()  # "Add network to prompt" in the settings would have put one back
    if lora is not None and hasattr(lora, "network_apply_weights") and sd_models.model_data.sd_model is not None:
        with torch.no_grad():
            for module in sd_models.model_data.sd_model.modules():
                if getattr(module, "network_current_names", ()):
                    lora.network_apply_weights(module)
    try:
        yield
    finally:
        for networks, names in zip(lists, former, strict=True):
            networks[:] = names


def _use_torch_attention() -> None:
    """torch's attention in the UNet, where this torch has it; `undo_optimizations` and `apply_optimizations` end it.

    ldm's own keeps every attention map for the backward pass. The kind without the memory-efficient kernel, as the
    host names it: that one gave wrong gradients on some cards.
    """
    optimization = sd_hijack_optimizations.SdOptimizationSdpNoMem()
    if optimization.is_available():
        optimization.apply()


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient, no layer is in training mode (HOST.md fact 7)."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _without_ldm_checkpoints(unet: nn.Module) -> Iterator[None]:
    """ldm's own gradient checkpointing off: it asks for the gradient of frozen weights and fails.

    Checkpoints with the original v1-inference.yaml beside them have it on.
    """
    names = ("checkpoint", "use_checkpoint")
    flags = [(m, name, vars(m)[name]) for m in unet.modules() for name in names if isinstance(vars(m).get(name), bool)]
    try:
        for module, name, _ in flags:
            setattr(module, name, False)
        yield
    finally:
        for module, name, value in flags:
            setattr(module, name, value)


def _sha256(filename: str) -> str:
    key = (filename, Path(filename).stat().st_mtime)
    if key not in _hashes:
        _hashes[key] = sha256_of([filename])
    return _hashes[key]
