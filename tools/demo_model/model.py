"""The UNet and the text encoder of the demonstration model in SD1's layout, and the real CLIP tokenizer's files."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CLIP = Path(__file__).parents[2] / "assets/demo/clip"  # tokenizer files, no weights; written anew if absent
UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 2,  # as in SD1's configuration files: the number of heads
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 64,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(**UNET)


def make_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(**TEXT))


def alphas_cumprod() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def write_clip_folder(folder: Path) -> None:
    """config.json and the tokenizer's files, from the merges that PyPI's open_clip_torch carries (MIT)."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(find_spec("open_clip").origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    with gzip.open(source) as f:
        merges = f.read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    hidden = [b for b in range(256) if b not in visible]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]
    vocab = letters + [c + "</w>" for c in letters] + ["".join(m.split()) for m in merges]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    numbered = json.dumps({v: i for i, v in enumerate(vocab)}, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(numbered, encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = "<|endoftext|>"
    token = dict(tokenizer_class="CLIPTokenizer", model_max_length=77, do_lower_case=True, errors="replace", **special)
    token["add_prefix_space"] = False
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(token, indent=2) + "\n")
    config = dict(architectures=["CLIPTextModel"], model_type="clip_text_model", layer_norm_eps=1e-5, **TEXT)
    config.update(attention_dropout=0.0, dropout=0.0, initializer_factor=1.0, initializer_range=0.02)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    if not (folder / "vocab.json").exists():
        write_clip_folder(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    return tokenizer


class Tokens:
    """Caption -> 77 token ids, remembered."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}

    def __call__(self, captions: list[str]) -> torch.Tensor:
        for text in captions:
            if text not in self.known:
                ids = self.tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
                self.known[text] = ids
        return torch.tensor([self.known[text] for text in captions])
