"""What a training learns from: folders, captions, latents, and the rows of a step."""
