"""The real webui's prompt code, loaded from a checkout without starting it: what models/prompts.py is compared with.

`NEGTRANS_WEBUI_DIR=/path/to/webui python -m tests.unit.webui_prompts` writes the recorded expectations anew, for
machines that have no webui.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from unittest import mock

import torch

RECORDED = Path(__file__).parent / "data" / "webui_prompts.json"
WEBUI_COMMIT = "82a973c0 (v1.10.1)"
EMBEDDINGS = {"neg-render": 3, "neg-render-2": 2, "x-20": 1, "rendered-look": 75, "style_a": 8}
LONG = "an elegant evening gown of pleated silk with a fitted bodice and a long train, worn by a model on a runway"
PROMPTS = [
    "",
    "a photo of a cat",
    "a (photo) of a ((cat)) in [snow] and [[rain]]",
    "a (photo:1.3) of (a (red:1.2) dress:0.8), (linen: 1.15 )",
    r"a \(literal\) \[bracket\] and \\ a back\slash",
    "(unbalanced and [open",
    "closing) only] here:1.2)",
    "(:1.2) colon: here (x:-0.5) (y:+1.5) (z:.5)",
    "a BREAK b BREAK BREAK c",
    "BREAK",
    "BREAKFAST is no break",
    "a cat, neg-render",
    "Neg-Render and (neg-render:1.4), neg-render-2, neg-render-20",
    "x-20 x-200 x-2 x - 20",
    "a rendered-look b",
    "style_a style_a style_a style_a style_a style_a style_a style_a style_a (style_a:1.1)",
    f"{LONG}, {LONG}, {LONG}, {LONG}",
    f"{LONG}, {LONG}, {LONG}, (cotton:1.3) and wool, {LONG}",
    LONG.replace(",", "") + " " + LONG.replace(",", "") + " " + LONG.replace(",", "") + " " + LONG.replace(",", ""),
    "word " * 74 + "neg-render tail",
    "word, " * 37 + "end end",
    ("word " * 70 + ", ") + "one two three four five six seven",
    "word " * 55 + "," + " tail" * 25,
    "word " * 54 + "," + " tail" * 25,
    "word " * 75,
    "word " * 76,
    "word " * 75 + ",",
    "emoji 👗 und Umlaute äöü, 日本語 <b>html</b> 100% #5",
    "(" * 10 + "deep" + ")" * 10,
]


def load_webui(folder: Path) -> tuple[type, type]:
    """(FrozenCLIPEmbedderWithCustomWords, EmphasisOriginal) from a checkout."""
    opts = types.SimpleNamespace(
        emphasis="Original",
        comma_padding_backtrack=20,
        use_old_emphasis_implementation=False,
        textual_inversion_add_hashes_to_infotext=False,
        CLIP_stop_at_last_layers=1,
    )
    devices = types.SimpleNamespace(device=torch.device("cpu"), torch_npu_set_device=lambda: None)
    package = types.ModuleType("modules")
    package.shared = types.ModuleType("modules.shared")
    package.shared.opts = opts
    package.devices = devices
    package.sd_hijack = types.SimpleNamespace(model_hijack=None)
    lark = types.ModuleType("lark")
    lark.Lark = mock.MagicMock()  # the grammar of prompt editing is not what is compared
    lark.Transformer = lark.Visitor = object
    fakes = {"modules": package, "modules.shared": package.shared, "lark": lark}
    with mock.patch.dict(sys.modules, fakes):
        for name in ("prompt_parser", "sd_emphasis", "sd_hijack_clip"):
            spec = importlib.util.spec_from_file_location(f"modules.{name}", folder / "modules" / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            setattr(package, name, module)
            spec.loader.exec_module(module)
    return package.sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords, package.sd_emphasis.EmphasisOriginal


def _search(folder: Path):
    """Two functions of EmbeddingDatabase, cut out of a file whose imports need a running webui."""
    tree = ast.parse((folder / "modules/textual_inversion/textual_inversion.py").read_text(encoding="utf-8"))
    database = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EmbeddingDatabase")
    wanted = ("register_embedding_by_name", "find_embedding_at_position")
    functions = [node for node in database.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    space: dict = {}
    exec(compile(ast.Module(functions, []), "textual_inversion.py", "exec"), space)
    return space


class WebuiPrompts:
    """The webui's own classes around a tokenizer, with EMBEDDINGS registered."""

    def __init__(self, folder: Path, tokenizer):
        embedder, self.emphasis = load_webui(folder)
        search = _search(folder)
        database = types.SimpleNamespace(ids_lookup={}, word_embeddings={})
        database.find_embedding_at_position = lambda tokens, at: search["find_embedding_at_position"](
            database, tokens, at
        )
        wrapped = types.SimpleNamespace(tokenizer=tokenizer)
        self.embedder = embedder(wrapped, types.SimpleNamespace(embedding_db=database))
        model = types.SimpleNamespace(cond_stage_model=self.embedder)
        for name, vectors in EMBEDDINGS.items():
            embedding = types.SimpleNamespace(name=name, vectors=vectors)
            search["register_embedding_by_name"](database, embedding, model, name)

    def chunks(self, prompt: str) -> list[dict]:
        """Each chunk as {"tokens", "multipliers", "splices"}, positions counted in the 77 ids."""
        chunks, _count = self.embedder.tokenize_line(prompt)
        return [
            {
                "tokens": list(chunk.tokens),
                "multipliers": [round(value, 6) for value in chunk.multipliers],
                "splices": [[fix.offset + 1, fix.embedding.name] for fix in chunk.fixes],
            }
            for chunk in chunks
        ]

    def apply_emphasis(self, z: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
        emphasis = self.emphasis()
        emphasis.z, emphasis.multipliers = z, multipliers
        emphasis.after_transformers()
        return emphasis.z


def main() -> None:
    from lib_negtrans.models.standalone import load_tokenizer

    webui = WebuiPrompts(Path(os.environ["NEGTRANS_WEBUI_DIR"]), load_tokenizer())
    recorded = {"webui": WEBUI_COMMIT, "prompts": {prompt: webui.chunks(prompt) for prompt in PROMPTS}}
    lines = json.dumps(recorded, ensure_ascii=False, separators=(",", ":")).replace("}],", "}],\n")
    RECORDED.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
