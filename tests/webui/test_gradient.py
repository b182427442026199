"""The webui's model code passes the vectors' exact gradient on, for both objectives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.webui.server import QUIET, make_data_folder


def test_gradient_equals_finite_differences(webui_installation, demo_model, tmp_path):
    webui, python = webui_installation
    make_data_folder(tmp_path, demo_model)
    checkpoint = tmp_path / "models" / "Stable-diffusion" / demo_model.name
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("gradient.py")), str(webui), str(checkpoint), str(tmp_path)],
        capture_output=True, text=True, env=os.environ | QUIET, timeout=600,
    )  # fmt: skip
    line = next((text for text in done.stdout.splitlines() if text.startswith("GRADIENT ")), None)
    assert line, done.stderr[-3000:]
    for name, found in json.loads(line.removeprefix("GRADIENT ")).items():
        assert found["dtype"] == "torch.float64" and found["largest"] > 1e-9, name
        assert max(found["errors"]) < 1e-3, (name, found)
