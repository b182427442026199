"""What is AUTOMATIC1111's webui's alone."""
