"""Textual inversion embeddings: their files, their cards, folders of them, and new ones from old."""
