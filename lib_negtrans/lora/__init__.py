"""LoRA files: which modules they change, how they are read and written, and how a model uses them."""
