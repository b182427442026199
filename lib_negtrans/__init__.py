"""sd-webui-negtrans: rendered-to-real fashion translation with negative embeddings (SD1.5).

What Python scripts need can be imported from here: `from lib_negtrans import load_model, translate, TranslationParams`.
"""

from importlib import import_module

__version__ = "0.1.0"
TITLE = "Realistic Translation"  # the script's, in img2img's list and in every picture's text

_PUBLIC = {
    "Embedding": "embeddings.files",
    "Picture": "pictures.images",
    "Translation": "translation.pipeline",
    "TranslationParams": "translation.params",
    "load_model": "models.standalone",
    "load_picture": "pictures.images",
    "read_embedding": "embeddings.files",
    "to_pil": "pictures.images",
    "translate": "translation.pipeline",
    "translate_image": "translation.pipeline",
    "translation_preset": "translation.params",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> object:
    """A public name, from its module on first use: the webui must not import diffusers for the version's sake."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
