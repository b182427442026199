"""Fixtures that all tests may use."""

from __future__ import annotations

import os

# before torch is imported: small models are fastest on one thread, and nothing may ask the network
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", "AUTO")  # as in lib_negtrans/__main__.py, for whoever asks for more threads
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"

import pytest

from tests import tiny_model


@pytest.fixture(scope="session")
def shared_tiny_host():
    """One StandaloneHost for tests that leave it as it is (building one takes a second)."""
    return tiny_model.tiny_host()


@pytest.fixture(scope="session")
def calm_tiny_host():
    """A tiny model with its output damped: a random UNet's large derivatives let no inversion converge."""
    host = tiny_model.tiny_host()
    host.unet.conv_out.weight.data.mul_(0.1)
    return host


@pytest.fixture
def tiny_host():
    """A StandaloneHost of one's own: seed 0, CPU, float32, embedding width 64."""
    return tiny_model.tiny_host()
