"""Gradio panels, built by the same functions in the webui and on the standalone page."""
