"""sd-webui-negtrans: rendered-to-real fashion translation with negative embeddings (SD1.5)."""

__version__ = "0.1.0"
TITLE = "Realistic Translation"  # the script's, in img2img's list and in every picture's text
