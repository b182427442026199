"""The extension inside a webui: what A1111 and Forge share, with a folder for what each has alone."""
