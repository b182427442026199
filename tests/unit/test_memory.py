"""Memory that was freed goes back to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_negtrans import memory
from lib_negtrans.memory import reused_memory, trim_memory
from tests.tiny_model import tiny_host, tiny_networks


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")
def test_holes_between_what_is_kept_go_back():
    freed, kept = [], []
    for _ in range(100):
        block = torch.zeros(2048, 512)  # 4 MB: then of those that glibc keeps
        freed.append(block.half())
        kept.append(torch.zeros(1000))
    before = resident()
    freed.clear()
    trim_memory(torch.device("cuda"))  # main memory is not that device's
    assert resident() > before - 100
    trim_memory(torch.device("cpu"))
    assert resident() < before - 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")
def test_freed_blocks_are_used_again(monkeypatch):
    import resource

    monkeypatch.setattr(memory, "_reuse_allowed", True)

    def new_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            torch.ones(64 * 2**18)  # 64 MB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    whole = 4 * 64 * 2**20 // resource.getpagesize()
    assert new_pages() > 0.25 * whole, "else this shows nothing"
    with reused_memory(torch.device("cpu")):
        new_pages()
        assert new_pages() < 0.1 * whole


def test_main_memory_is_not_a_gpus(monkeypatch):
    monkeypatch.setattr(memory, "_reuse_allowed", True)
    monkeypatch.setattr(memory, "_c_library", lambda name: pytest.fail(f"{name} was asked for"))
    with reused_memory(torch.device("cuda")):
        trim_memory(torch.device("cuda"))


def test_the_allocator_of_another_program_is_left_alone(monkeypatch):
    """The webui's process, where previews of a training translate too."""
    monkeypatch.setattr(memory, "_reuse_allowed", False)  # as it is before a command line has begun
    monkeypatch.setattr(memory, "_c_library", lambda name: pytest.fail(f"{name} was asked for"))
    with reused_memory(torch.device("cpu")):
        pass


def test_memory_is_left_to_the_system_elsewhere(monkeypatch):
    monkeypatch.setattr(memory, "_reuse_allowed", True)
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("a C library was loaded"))
    trim_memory(torch.device("cpu"))
    with reused_memory(torch.device("cpu")):
        pass


def test_the_vaes_activations_in_place_change_no_number():
    networks, host = tiny_networks(), tiny_host()
    assert all(module.inplace for module in host.vae.modules() if isinstance(module, nn.SiLU))
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    networks.vae.to(memory_format=torch.channels_last)  # as the host's
    with torch.no_grad():
        expected = networks.vae.decode(latent / host.scaling_factor).sample
    assert torch.equal(host.decode_latent(latent), (expected / 2 + 0.5).clamp(0, 1))
