"""Captured features within a memory budget."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans import memory
from lib_negtrans.core import features
from lib_negtrans.core.features import FeatureBudget, FeatureStore, features_bytes

MEGABYTE = 2**20


def captured(seed: int = 0, elements: int = 64):
    generator = torch.Generator().manual_seed(seed)
    return {name: tuple(torch.randn(1, elements, 2, generator=generator) for _ in "qk") for name in ("IN01", "OUT11")}


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(a, b) and a.device == b.device
        for name in first
        for a, b in zip(first[name], second[name], strict=True)
    )


def test_without_a_budget_everything_stays():
    store = FeatureStore()
    for position in (3, 4):
        store[position] = captured(position)
    assert sorted(store) == [3, 4] and equal(store[3], captured(3)) and not store.dropped
    assert store.device_bytes == 2 * features_bytes(captured()) and store.host_bytes == 0


def test_a_tensor_that_stands_twice_is_kept_once():
    tensor = torch.randn(1, 64, 2)
    store = FeatureStore(FeatureBudget(device=MEGABYTE, host=0, half=True))
    store[1] = {"IN01": (tensor, tensor)}
    first, second = store[1]["IN01"]
    assert first is second and first.dtype == torch.float16 and store.device_bytes == 64 * 2 * 2


def test_what_does_not_fit_is_dropped():
    size = features_bytes(captured())
    assert size == 4 * 64 * 2 * 4
    store = FeatureStore(FeatureBudget(device=2 * size, host=10 * size))
    for position in range(1, 5):
        store[position] = captured(position)
    # on the CPU the device's memory is the host's: nothing is moved
    assert sorted(store) == [1, 2] and store.dropped == {3, 4} and store.host_bytes == 0
    assert 3 not in store and "2 steps as captured" in str(store) and "2 computed again" in str(store)
    with pytest.raises(KeyError):
        store[3]
    del store[1]
    store[3] = captured(3)
    assert sorted(store) == [2, 3] and store.dropped == {4}


def test_moved_features_come_back_bit_for_bit(monkeypatch):
    """A device that is not the CPU is played by one: moving is a copy, whatever the devices are."""
    size = features_bytes(captured())
    store = FeatureStore(FeatureBudget(device=size, host=size))
    other = torch.device("cuda")
    real = features.device_of
    monkeypatch.setattr(features, "device_of", lambda found: other if found else real(found))
    monkeypatch.setattr(features, "PIN", False)
    moved = []

    def to_device(tensor, device, non_blocking):
        assert device == other
        moved.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(features, "_to_device", to_device)
    for position in (1, 2, 3):
        store[position] = captured(position)
    assert sorted(store) == [1, 2] and store.dropped == {3}
    assert (store.device_bytes, store.host_bytes) == (size, size)
    assert equal(store[1], captured(1)) and not moved
    assert equal(store[2], captured(2)) and len(moved) == 4
    store.park()
    assert (store.device_bytes, store.host_bytes) == (0, 2 * size) and equal(store[1], captured(1))
    assert "2 steps in host memory" in str(store)


def test_half_precision_is_for_float32_only():
    store = FeatureStore(FeatureBudget(device=MEGABYTE, host=0, half=True))
    wide = {"IN01": (torch.randn(1, 4, 2), torch.randn(1, 4, 2, dtype=torch.float64))}
    store[1] = wide
    query, key = store[1]["IN01"]
    assert torch.equal(query, wide["IN01"][0].half()) and torch.equal(key, wide["IN01"][1])
    assert store.device_bytes == 8 * 2 + 8 * 8


def test_the_automatic_budget_is_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "available_host_memory", lambda: 1000 * MEGABYTE)
    assert memory.feature_budget(torch.device("cpu")) == FeatureBudget(500 * MEGABYTE, 0, half=True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300 * MEGABYTE, 8000 * MEGABYTE))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 150 * MEGABYTE)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50 * MEGABYTE)
    cuda = torch.device("cuda")
    assert memory.feature_budget(cuda) == FeatureBudget(200 * MEGABYTE, 500 * MEGABYTE, half=True)
    # an override is for both together, as far as the device has room
    assert memory.feature_budget(cuda, 64) == FeatureBudget(64 * MEGABYTE, 0, half=True)
    assert memory.feature_budget(cuda, 640) == FeatureBudget(200 * MEGABYTE, 440 * MEGABYTE, half=True)
    assert memory.feature_budget(torch.device("cpu"), 64).device == 64 * MEGABYTE


def test_some_memory_is_always_found():
    assert memory.available_host_memory() > 64 * MEGABYTE
