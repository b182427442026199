"""How far a translation has come: KID to photographs, SSIM and CIEDE2000 to the render, cost. See `run.evaluate`."""
