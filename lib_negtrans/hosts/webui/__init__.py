"""AUTOMATIC1111 stable-diffusion-webui: the only package that imports `modules.*`."""
