"""A Forge extension of the tests: its own loader takes the demonstration model, which is smaller than any SD1.5.

Forge tells a model by the exact width of its contexts and its channels. From here on every class is Forge's own.
"""

import json
from pathlib import Path

import huggingface_guess.model_list as model_list
from modules import script_callbacks

CONFIG = Path(__file__).resolve().parents[1] / "config"
MODEL = json.loads((CONFIG / "negtrans.json").read_text())


# the engine's class asks for a subclass of it
NegtransDemo = type("NegtransDemo", (model_list.SD15,), {})
NegtransDemo.huggingface_repo = str(CONFIG)
NegtransDemo.unet_config = {
    **model_list.SD15.unet_config, "context_dim": MODEL["width"], "model_channels": MODEL["channels"],
}  # fmt: skip
NegtransDemo.unet_extra_config = {"num_heads": MODEL["heads"], "num_head_channels": -1}

if not any(model.__name__ == NegtransDemo.__name__ for model in model_list.models):  # Reload UI runs this again
    model_list.models.append(NegtransDemo)


def _loaded(model):  # the width of an embedding is a literal in the engine's class
    database = model.text_processing_engine.embeddings
    database.expected_shape = MODEL["width"]
    database.load_textual_inversion_embeddings()


script_callbacks.on_model_loaded(_loaded)
