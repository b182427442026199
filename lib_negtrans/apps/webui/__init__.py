"""The extension inside a webui: what A1111 and Forge share, with a folder for what each has alone."""

UNEXPECTED_ROWS = (
    "another extension changes the prompts that the model is called with: switch it off, or set the TAC ratio to 0 and "
    "Guidance to cfg."
)
