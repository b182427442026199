"""Textual inversion embeddings: their files, their cards, folders of them, and new ones from old."""

NO_EMBEDDING = "None"  # the first choice of every list of embeddings


def chosen_embedding(choice: str | None) -> str | None:
    """The name that was chosen from such a list, if one was."""
    return None if choice in (None, "", NO_EMBEDDING) else choice
