"""sd-webui-negtrans: rendered-to-real fashion translation with negative embeddings (SD1.5).

What Python scripts need can be imported from here: `from lib_negtrans import load_model, translate, TranslationParams`.
"""

from importlib import import_module

__version__ = "0.1.0"
TITLE = "Realistic Translation"  # the script's, in img2img's list and in every picture's text

_MODULES = {
    "embeddings.files": ("Embedding", "read_embedding"),
    "lora.apply": ("load_model",),
    "models.standalone": ("ModelChoice",),
    "pictures.images": ("Picture", "load_picture", "to_pil"),
    "translation.params": ("TranslationParams", "translation_preset"),
    "translation.pipeline": ("Translation", "translate", "translate_image"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name: str) -> object:
    """A public name, from its module on first use: the webui must not import diffusers for the version's sake."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
