"""Pictures: files, sizes, masks, contact sheets."""
