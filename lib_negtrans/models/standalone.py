"""Stable Diffusion 1.x from a checkpoint file or a diffusers folder, without the webui and without the network."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from lib_negtrans.core.features import FeatureBudget
from lib_negtrans.files import fetched, place, sha256_of
from lib_negtrans.memory import feature_budget

from . import single_file
from .diffusers_folder import load_folder
from .prompts import Chunk, PromptTokenizer, apply_emphasis
from .protocol import HostError, UsedLora, hash_with_loras
from .single_file import Networks
from .vae_tiles import CELL, in_pieces

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "demo"
MODEL_VARIABLE = "NEGTRANS_MODEL"


def default_model_path() -> Path:
    """The model when none is named: $NEGTRANS_MODEL, or the demonstration model. Raises HostError if it is missing."""
    named = os.environ.get(MODEL_VARIABLE)
    path = Path(named).expanduser() if named else ASSETS / "negtrans-demo.safetensors"
    if not path.exists():
        what = f"The model {path} that {MODEL_VARIABLE} names" if named else f"The demonstration model {path}"
        raise HostError(f"{what} is missing: give a checkpoint with --model PATH.")
    return path


@dataclass(frozen=True)
class ModelChoice:
    """Which model to load, and how; picklable, so that other processes can load the same.

    path: a .safetensors/.ckpt file or a diffusers folder. device: by default cuda where there is one, else the CPU.
    dtype: of UNet and VAE, by default float16 on cuda, else float32; the text encoder stays in float32 (float64 with
    float64), so that gradients to embeddings are exact. clip_skip: 1 = the last layer, as the webui counts.
    feature_memory: MB for a picture's captured features; by default half of what is free. adapt: what changes the
    loaded model's weights, such as `lora.merge.Loras`. sha256: the `file_hash` that the file must have, None for any.
    """

    path: str | Path
    device: str | torch.device | None = None
    dtype: torch.dtype | None = None
    clip_skip: int = 1
    feature_memory: float | None = None
    adapt: Callable[[StandaloneHost], None] | None = None
    sha256: str | None = None


def file_hash(path: Path) -> str:
    """sha256 of a checkpoint file, or of a folder's weight files in order of paths. Raises OSError."""
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in (".safetensors", ".bin") and f.is_file())
    return sha256_of(files)


def model_file(path: str | Path) -> Path:
    """A checkpoint's file or folder here; of a store's, its local copy. Raises HostError for a missing one."""
    try:
        found = fetched(place(path)).expanduser()
    except OSError as error:
        raise HostError(f"{path} cannot be fetched: {error}") from error
    if not found.exists():
        raise HostError(f"There is no {path}: give a Stable Diffusion 1.x checkpoint file or diffusers folder.")
    return found


def load_model(
    model: ModelChoice | str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    clip_skip: int = 1,
) -> StandaloneHost:
    """A host of a choice, or of a path with a choice's other values beside it; never asks the network.

    Raises HostError for a missing file, another one than was meant, anything but SD1.x, and what `adapt` raises.
    """
    choice = model if isinstance(model, ModelChoice) else ModelChoice(model, device, dtype, clip_skip)
    path = model_file(choice.path)
    if choice.sha256 is not None and file_hash(path) != choice.sha256:
        raise HostError(f"{choice.path} is another file here than where the run was started: copy the same one here.")
    if path.is_dir():
        networks = load_folder(path)
    elif path.suffix.lower() in single_file.SUFFIXES:
        networks = single_file.load_single_file(path)
    else:
        raise HostError(f"{path} is neither a .safetensors or .ckpt file nor a diffusers folder.")
    tokenizer = load_tokenizer(networks.tokenizer_folders)
    host = StandaloneHost(networks, tokenizer, path, choice.device, choice.dtype, choice.clip_skip)
    if choice.feature_memory is not None:
        host.feature_budget = feature_budget(host.device, choice.feature_memory)
    if choice.adapt is not None:
        choice.adapt(host)
    return host


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; by default cuda where there is one, else the CPU. Raises HostError."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise HostError(f"The device {device} cannot be used here: give cpu, or leave the choice out.") from error
    return found


def load_tokenizer(folders: Sequence[Path] = ()):
    """CLIP's tokenizer from the first folder that has its files, else from the package. Raises HostError for none."""
    from transformers import CLIPTokenizer

    for folder in (*folders, ASSETS / "clip"):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    raise HostError(
        f"No tokenizer: put CLIP's vocab.json and merges.txt into 'clip' beside the model or into {ASSETS / 'clip'}."
    )


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """For float64 only: transformers makes its causal mask in the default dtype, which float64's minimum overflows."""
    before = torch.get_default_dtype()
    if dtype == torch.float64:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        if dtype == torch.float64:
            torch.set_default_dtype(before)


class StandaloneHost:
    """A ModelHost on diffusers' modules. Weights are frozen from the start; shapes are those of the protocol.

    path: what the name and the hash come from; None for a model made in memory.
    """

    name = "standalone"

    def __init__(
        self,
        networks: Networks,
        tokenizer,
        path: Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        clip_skip: int = 1,
    ):
        layers = networks.text_encoder.config.num_hidden_layers
        if not 1 <= clip_skip <= layers:
            raise HostError(f"clip skip must lie between 1 and {layers} for this model, not {clip_skip}.")
        self.device = usable_device(device)
        self.dtype = dtype or (torch.float16 if self.device.type == "cuda" else torch.float32)
        self.path = path
        self.checkpoint_name = path.stem if path else "in-memory"
        self.clip_skip = clip_skip
        self.loras: tuple[UsedLora, ...] = ()  # what `lora.apply` has put into the weights
        self.embeddings: Mapping[str, Tensor] = {}  # those that LoRAs bring
        self.feature_budget: FeatureBudget | None = None  # memory for captured features; None: what is free
        self.scaling_factor = networks.scaling_factor
        self.alphas_cumprod = networks.alphas_cumprod
        self.prediction_type = networks.prediction_type
        # nn.Module's own `to`: diffusers' warns of modules to keep in float32, of which SD1 has none
        self.unet: Any = nn.Module.to(networks.unet, self.device, self.dtype).eval().requires_grad_(False)
        self.vae: Any = nn.Module.to(networks.vae, self.device, self.dtype).eval().requires_grad_(False)
        if self.device.type == "cpu":  # at 512x512 a fifth faster and 150 MB less at the peak; not so the UNet
            self.vae.to(memory_format=torch.channels_last)
        # 70 MB less at the decoder's peak at 512x512. Modules of its own: before 0.33 diffusers gives one SiLU to every
        # network, and the UNet's must leave its input as it is
        for module in list(self.vae.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.SiLU):
                    setattr(module, name, nn.SiLU(inplace=True))
        text_dtype = torch.promote_types(self.dtype, torch.float32)
        self.text_encoder = networks.text_encoder.to(self.device, text_dtype).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._encoding = threading.Lock()
        self._autocast: torch.dtype | None = None
        self.prompt_tokenizer = PromptTokenizer.from_clip(tokenizer)
        self.embedding_width: int = self._token_table.weight.shape[1]
        width = self.unet.config.cross_attention_dim
        if width != self.embedding_width:
            raise HostError(
                f"The text encoder has width {self.embedding_width}, the UNet takes {width}: they do not fit together."
            )

    @property
    def _token_table(self) -> Any:
        return self.text_encoder.get_input_embeddings()

    @cached_property
    def checkpoint_hash(self) -> str:
        """sha256 of the file; of a folder's weight files in order of paths; of the UNet's tensors if made in memory."""
        if self.path is None:
            digest = hashlib.sha256()
            for tensor in self.unet.state_dict().values():
                digest.update(tensor.detach().cpu().float().numpy().tobytes())
            return digest.hexdigest()
        return file_hash(self.path)

    @property
    def model_hash(self) -> str:
        """`checkpoint_hash`, or with LoRAs in the weights what tells both from all others."""
        return hash_with_loras(self.checkpoint_hash, self.loras)

    def encode_image(self, image: Tensor) -> Tensor:
        return self.encode_image_distribution(image)[0]

    @torch.no_grad()
    def encode_image_distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See ModelHost. Raises ValueError for another shape."""
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % 8 or image.shape[3] % 8:
            raise ValueError(f"An image must be (B, 3, H, W) with H and W multiples of 8, not {tuple(image.shape)}.")
        moments = self._vae(lambda x: self.vae.encode(x).latent_dist.parameters, image * 2 - 1, CELL, 1)
        posterior = DiagonalGaussianDistribution(moments)
        return posterior.mean.float() * self.scaling_factor, posterior.std.float() * self.scaling_factor

    @torch.no_grad()
    def decode_latent(self, latent: Tensor) -> Tensor:
        image = self._vae(lambda z: self.vae.decode(z).sample, latent / self.scaling_factor, 1, CELL)
        return (image.float() / 2 + 0.5).clamp(0, 1)

    def _vae(self, run, value: Tensor, cell_in: int, cell_out: int) -> Tensor:
        """Runs the VAE; half precision that overflows is done again in float32, from then on, as the webui does."""
        out = in_pieces(run, value.to(self.device, self.vae.dtype), cell_in, cell_out)
        if self.vae.dtype in (torch.float16, torch.bfloat16) and not torch.isfinite(out).all():
            self.vae.float()
            out = in_pieces(run, value.to(self.device, torch.float32), cell_in, cell_out)
        # a latent that kept the VAE's channels-last strides would make the UNet a tenth slower
        return out.contiguous()

    def encode_prompts(self, prompts: Sequence[str], embeddings: Mapping[str, Tensor] | None = None) -> Tensor:
        """See ModelHost; weights and chunks follow the webui (models/prompts.py).

        Raises ValueError for embeddings of another shape, PromptError for a prompt that only the webui can read.
        """
        embeddings = {**self.embeddings, **(embeddings or {})}
        for name, vectors in embeddings.items():
            if vectors.ndim != 2 or vectors.shape[1] != self.embedding_width:
                wanted, shape = f"(vectors, {self.embedding_width})", tuple(vectors.shape)
                raise ValueError(f"The embedding {name} is {shape}, but this model takes {wanted}.")
        rows = self.prompt_tokenizer.batch(prompts, {name: len(vectors) for name, vectors in embeddings.items()})
        if not rows:
            raise ValueError("encode_prompts needs at least one prompt.")
        chunks = [chunk for row in rows for chunk in row]
        z = self._encode_chunks(chunks, embeddings)
        z = apply_emphasis(z, torch.tensor([chunk.multipliers for chunk in chunks], device=self.device))
        return z.reshape(len(rows), -1, z.shape[-1])

    def _encode_chunks(self, chunks: Sequence[Chunk], embeddings: Mapping[str, Tensor]) -> Tensor:
        def splice(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
            rows = list(output)
            for number, chunk in enumerate(chunks):
                for at, name in chunk.splices:
                    vectors, row = embeddings[name].to(output), rows[number]
                    rows[number] = torch.cat([row[:at], vectors, row[at + len(vectors) :]])
            return torch.stack(rows)

        ids = torch.tensor([chunk.tokens for chunk in chunks], device=self.device)
        # one at a time: another thread's call would run this one's hook
        with self._encoding, _default_dtype(self.text_encoder.dtype):
            handle = self._token_table.register_forward_hook(splice)
            try:
                result = self.text_encoder(input_ids=ids, output_hidden_states=self.clip_skip > 1)
            finally:
                handle.remove()
        if self.clip_skip == 1:
            return result.last_hidden_state
        model = getattr(self.text_encoder, "text_model", self.text_encoder)
        return model.final_layer_norm(result.hidden_states[-self.clip_skip])

    def token_vectors(self, text: str) -> Tensor:
        ids = torch.tensor(self.prompt_tokenizer.tokenize([text])[0], dtype=torch.long, device=self.device)
        return self._token_table.weight[ids].detach().float().clone()

    def token_table(self) -> tuple[Tensor, list[str]]:
        return self._token_table.weight.detach(), self._token_texts

    @cached_property
    def _token_texts(self) -> list[str]:
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        # as people write them: a token is spelt in stand-ins for bytes
        return [self.tokenizer.convert_tokens_to_string([token]).strip() for token in tokens]

    def predict_noise(self, latent: Tensor, timestep: int | Tensor, context: Tensor) -> Tensor:
        """See ModelHost; in the host's dtype without autocast, but for one that `training` set."""
        timestep = torch.as_tensor(timestep, device=self.device)
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            latent, context = latent.to(self.device, self.dtype), context.to(self.device, self.dtype)
            out = self.unet(latent, timestep, encoder_hidden_states=context).sample
        return out.to(torch.promote_types(out.dtype, torch.float32))

    @contextlib.contextmanager
    def training(self, gradient_checkpointing: bool = False, autocast: torch.dtype | None = None) -> Iterator[None]:
        """See ModelHost; every flag is put back, also after an error."""
        networks = (self.unet, self.vae, self.text_encoder)
        grads = [(p, p.requires_grad) for network in networks for p in network.parameters()]
        modes = [(m, m.training) for network in networks for m in network.modules()]
        # what enabling gradient checkpointing sets on modules: their attributes of these names, those absent included
        names = ("gradient_checkpointing", "_gradient_checkpointing_func")
        flags = [(m, {n: vars(m)[n] for n in names if n in vars(m)}) for m in self.unet.modules()]
        try:
            for network in networks:
                network.requires_grad_(False).eval()
            if gradient_checkpointing:
                self.unet.enable_gradient_checkpointing()
                self.unet.train()  # older diffusers checkpoint in training mode only; SD1's UNet has no active dropout
            self._autocast = autocast
            with torch.enable_grad():
                yield
        finally:
            self._autocast = None
            for parameter, flag in grads:
                parameter.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode
            for module, values in flags:
                for name in names:
                    vars(module).pop(name, None)
                vars(module).update(values)
