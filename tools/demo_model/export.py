"""Writes the demonstration model as ONE half-precision file in SD1's naming, with its config and clip folder.

`python export.py --unet unet.pt --autoencoder autoencoder.pt --out ../../assets/demo`; of several checkpoints the mean
of their averaged weights is taken. What is left out is taken from the exported model --start. `--check FOLDER` reloads
a folder through diffusers' own converter.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from autoencoder import CONFIG as VAE
from autoencoder import fold, make_autoencoder
from model import UNET, alphas_cumprod, load_tokenizer, make_text_encoder, make_unet
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2]))
from lib_negtrans.models.ldm_names import to_ldm

NAME = "negtrans-demo"
CLIP_PATH = "models/Stable-diffusion/clip"  # the webui resolves it from its working directory, not from the yaml

VAE_TABLE = [
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"encoder.down.{m[1]}.block.{m[2]}"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", lambda m: f"encoder.down.{m[1]}.downsample"),
    (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"decoder.up.{3 - int(m[1])}.block.{m[2]}"),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{3 - int(m[1])}.upsample"),
    (r"(encoder|decoder)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}"),
    (r"(encoder|decoder)\.mid_block\.attentions\.0", lambda m: f"{m[1]}.mid.attn_1"),
    (r"(encoder|decoder)\.conv_norm_out", lambda m: f"{m[1]}.norm_out"),
]
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _rename(key: str, table: list, inner: dict) -> str:
    for pattern, new in table:
        match = re.match(pattern + r"\.", key)
        if match:
            rest = key[match.end() :]
            for old, name in inner.items():
                if rest.startswith(old + "."):
                    rest = name + rest[len(old) :]
                    break
            return f"{new(match)}.{rest}"
    return key


def unet_to_ldm(state: dict) -> dict:
    """diffusers' UNet2DConditionModel -> model.diffusion_model.*"""
    return {f"model.diffusion_model.{to_ldm(k)}": v for k, v in state.items()}


def vae_to_ldm(state: dict) -> dict:
    """diffusers' AutoencoderKL -> first_stage_model.*; the attention's projections become 1x1 convolutions."""
    out = {}
    for key, value in state.items():
        attention = ".attentions." in key
        name = _rename(key, VAE_TABLE, VAE_ATTENTION if attention else {"conv_shortcut": "nin_shortcut"})
        if attention and value.ndim == 2:
            value = value[:, :, None, None]
        out[f"first_stage_model.{name}"] = value
    return out


def text_to_ldm(state: dict) -> dict:
    out = {f"cond_stage_model.transformer.{k}": v for k, v in state.items()}
    out["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return out


@torch.no_grad()
def move_context_mean(unet, text, tokenizer, mean: float) -> None:
    """Gives the text encoder's output the wanted mean without changing what the UNet computes.

    A1111 divides by the mean of every prompt's encoding (its "Original" emphasis), SD1's is about -0.1; ours is near
    0 by training and would give NaN. A constant added to the whole context adds the same vector to every key, which a
    softmax does not see, and the same vector to every value, which the bias of the output projection takes away.
    """
    prompts = ["", "a photo of clothes", "a 3d render of clothes", "a photo of a striped blue shirt", "a cat"]
    ids = tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    shift = mean - text(ids)[0].mean()
    text.text_model.final_layer_norm.bias += shift
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            added = module.to_v.weight.sum(1) * shift
            module.to_out[0].bias -= module.to_out[0].weight @ added
    means = text(ids)[0].mean((1, 2)).tolist()
    print("context means after the move:", " ".join(f"{m:.3f}" for m in means))


def schedule_buffers() -> dict:
    """The buffers a checkpoint of LatentDiffusion has; single precision."""
    bars = alphas_cumprod().double()
    prev = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    out = {
        "betas": 1 - bars / prev,
        "alphas_cumprod": bars,
        "alphas_cumprod_prev": prev,
        "sqrt_alphas_cumprod": bars.sqrt(),
    }
    out.update(sqrt_one_minus_alphas_cumprod=(1 - bars).sqrt(), log_one_minus_alphas_cumprod=(1 - bars).log())
    out.update(sqrt_recip_alphas_cumprod=bars.rsqrt(), sqrt_recipm1_alphas_cumprod=(1 / bars - 1).sqrt())
    return {k: v.float() for k, v in out.items()}


def yaml_text(clip_folder: str) -> str:
    """The config that goes beside the checkpoint, in the form of SD1's v1-inference.yaml."""
    widths = UNET["block_out_channels"]
    mult = [w // widths[0] for w in widths]
    vae_mult = [w // VAE["block_out_channels"][0] for w in VAE["block_out_channels"]]
    return f"""# The negtrans demonstration model: Stable Diffusion 1 with smaller widths.
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: {UNET["sample_size"]}
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: {VAE["scaling_factor"]}
    use_ema: False

    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {UNET["sample_size"]}
        in_channels: 4
        out_channels: 4
        model_channels: {widths[0]}
        attention_resolutions: [ 4, 2, 1 ]
        num_res_blocks: {UNET["layers_per_block"]}
        channel_mult: {mult}
        num_heads: {UNET["attention_head_dim"]}
        use_spatial_transformer: True
        transformer_depth: 1
        context_dim: {UNET["cross_attention_dim"]}
        use_checkpoint: False
        legacy: False

    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: {VAE["sample_size"]}
          in_channels: 3
          out_ch: 3
          ch: {VAE["block_out_channels"][0]}
          ch_mult: {vae_mult}
          num_res_blocks: {VAE["layers_per_block"]}
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity

    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {clip_folder}
"""


def load_networks(path: Path) -> tuple:
    """(unet, text encoder) of a single-file checkpoint, in single precision, by diffusers' own converter."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    unet, text = make_unet(), make_text_encoder()
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(state), dict(unet.config)))
    prefix = "cond_stage_model.transformer."
    own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix) and "position_ids" not in k}
    missing, unexpected = text.load_state_dict(own, strict=False)
    assert not unexpected and all("position_ids" in k for k in missing)
    return unet.eval().requires_grad_(False), text.eval().requires_grad_(False)


def load_autoencoder(path: Path, **changes):
    """The autoencoder of a single-file checkpoint, likewise; `changes` to its configuration for other models'."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    vae = make_autoencoder(**changes)
    state = {k: v.float() for k, v in load_file(path).items() if k.startswith("first_stage_model.")}
    vae.load_state_dict(convert_ldm_vae_checkpoint(state, dict(vae.config)))
    return vae.eval().requires_grad_(False)


def check(folder: Path) -> None:
    """The reloaded networks, named again by our mapping, must be the file; and what they give must be finite."""
    path = folder / f"{NAME}.safetensors"
    (unet, text), vae, tokenizer = load_networks(path), load_autoencoder(path), load_tokenizer(folder / "clip")
    state = load_file(path)
    again = unet_to_ldm(unet.state_dict()) | vae_to_ldm(vae.state_dict()) | text_to_ldm(text.state_dict())
    assert again.keys() | schedule_buffers().keys() == state.keys(), "the file has other tensors than the networks"
    assert all(torch.equal(again[k].to(state[k].dtype), state[k]) for k in again), "our mapping differs from diffusers'"
    ids = tokenizer(["a 3d render of clothes"], padding="max_length", return_tensors="pt").input_ids
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        context = text(ids)[0]
        noise = unet(torch.randn(1, 4, 16, 16, generator=gen), 200, context).sample
        image = vae.decode(torch.randn(1, 4, 8, 8, generator=gen)).sample
    assert all(x.isfinite().all() for x in (context, noise, image))
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder}: {len(state)} tensors, {size / 1e6:.2f} MB in all")


def mean_weights(paths: list[Path]) -> dict:
    """The mean over training checkpoints of their averaged weights."""
    states = [torch.load(path, map_location="cpu", weights_only=True)["average"] for path in paths]
    return {name: sum(state[name] for state in states) / len(states) for name in states[0]}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--unet", type=Path, nargs="+", help="checkpoints of train_unet.py")
    ap.add_argument("--start", type=Path, help="an exported model, for the networks that are not named")
    ap.add_argument("--autoencoder", type=Path, nargs="+", help="checkpoints of train_autoencoder.py")
    ap.add_argument("--out", type=Path, default=Path("assets/demo"))
    ap.add_argument("--clip-path", default=CLIP_PATH, help="the text encoder's folder, seen from the webui's root")
    ap.add_argument("--check", type=Path, help="only check this folder")
    args = ap.parse_args()
    if args.check:
        check(args.check)
        return
    if args.autoencoder:
        vae = make_autoencoder(soft=True)
        vae.load_state_dict(mean_weights(args.autoencoder))
        vae = fold(vae)
    else:
        vae = load_autoencoder(args.start)
    unet, text = load_networks(args.start) if args.start else (make_unet(), make_text_encoder())
    if args.unet:
        nets = torch.nn.ModuleDict({"unet": unet, "text": text})
        nets.load_state_dict(mean_weights(args.unet))
    tokenizer = load_tokenizer(args.out / "clip")
    move_context_mean(unet, text, tokenizer, -0.2)
    state = unet_to_ldm(unet.state_dict()) | vae_to_ldm(vae.state_dict()) | text_to_ldm(text.state_dict())
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()} | schedule_buffers()
    target = args.out / f"{NAME}.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, target.with_suffix(".tmp"), metadata={"format": "pt"})
    target.with_suffix(".tmp").chmod(0o644)
    target.with_suffix(".tmp").replace(target)
    (args.out / f"{NAME}.yaml").write_text(yaml_text(args.clip_path))
    check(args.out)


if __name__ == "__main__":
    main()
