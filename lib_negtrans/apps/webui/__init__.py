"""The extension inside AUTOMATIC1111 stable-diffusion-webui; only this folder and models/a1111.py import `modules`."""
