"""The method itself: tensors in, tensors out. Imports torch only; knows no host, no user interface and no files."""
