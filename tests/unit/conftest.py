"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from tests.tiny_model import ldm_state, tiny_networks


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The file of a tiny checkpoint, to train on."""
    path = tmp_path_factory.mktemp("model") / "base.safetensors"
    save_file(ldm_state(tiny_networks()), path)
    return path
