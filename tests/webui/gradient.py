"""The gradient of the vectors through the webui's own model code, beside finite differences; run by the webui's Python.

    python gradient.py WEBUI CHECKPOINT DATA_FOLDER

Everything in float64: at less, rounding hides what is to be seen. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[2] / "tools")]
import webui_process  # noqa: E402

STEP = 1e-4


def main(webui: Path, checkpoint: Path, data: Path) -> None:
    webui_process.boot(webui, data)
    model = webui_process.load_checkpoint(checkpoint)
    import torch
    from ldm.modules.diffusionmodules.util import GroupNorm32
    from modules import devices

    from lib_negtrans.models.a1111 import current_host
    from lib_negtrans.training.objective import Model, Rows, contrast, encode_once, reconstruct

    model.double()
    # the places where ldm casts to float32 whatever the model is in
    model.model.diffusion_model.dtype = torch.float64
    GroupNorm32.forward = torch.nn.GroupNorm.forward
    devices.dtype = devices.dtype_unet = torch.float64
    torch.set_default_dtype(torch.float64)  # the webui makes its prompt weights in the default one
    host = current_host()
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)

    rows = Rows(noise(), noise(), torch.tensor([40, 250]), ("coat, neg-x", "neg-x"))
    start = host.token_vectors("style coat").double()
    report = {}
    for name, objective in (("reconstruct", reconstruct), ("contrast", lambda m, r: contrast(m, r, 3.0))):

        def loss(vectors: torch.Tensor, objective=objective) -> torch.Tensor:
            def encode(captions) -> torch.Tensor:
                return encode_once(lambda texts: host.encode_prompts(texts, {"neg-x": vectors}), captions)

            return objective(Model(host.predict_noise, encode, host.alphas_cumprod, host.prediction_type), rows).mean()

        with host.training():
            vectors = start.clone().requires_grad_()
            value = loss(vectors)
            (gradient,) = torch.autograd.grad(value, vectors)
            errors = []
            for _ in range(3):
                direction = torch.randn(start.shape, generator=generator, dtype=torch.float64)
                with torch.no_grad():
                    up, down = loss(start + STEP * direction), loss(start - STEP * direction)
                measured, computed = float((up - down) / (2 * STEP)), float((gradient * direction).sum())
                errors.append(abs(measured - computed) / max(abs(computed), 1e-12))
        report[name] = {"dtype": str(value.dtype), "errors": errors, "largest": float(gradient.abs().max())}
    print("GRADIENT " + json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
