"""Weights that are mapped from a file: the same numbers, in no file that anybody sees, and no longer in memory."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_negtrans.memory import trim_memory
from lib_negtrans.models.mapped import ALIGNMENT, map_from_file


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_numbers_stay(tmp_path, dtype):
    parameters = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((3, 5), (7,), (2, 3, 1, 1))]
    parameters.append(nn.Parameter(torch.randn(6, 4).to(dtype).t()))  # not contiguous
    before = [parameter.detach().clone() for parameter in parameters]
    map_from_file(parameters, tmp_path)
    gc.collect()
    for parameter, former in zip(parameters, before, strict=True):
        assert torch.equal(parameter, former) and parameter.requires_grad and parameter.data_ptr() % ALIGNMENT == 0
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        parameters[0].add_(1)
    assert torch.equal(parameters[0], before[0] + 1) and torch.equal(parameters[1], before[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the resident memory is Linux's")
def test_memory_is_given_back(tmp_path):
    def resident():
        gc.collect()
        trim_memory(torch.device("cpu"))
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

    parameter = nn.Parameter(torch.randn(16 * 2**20))  # 64 MiB
    before = resident()
    map_from_file([parameter], tmp_path)
    assert resident() < before - 60
    assert float(parameter.detach().sum()) == pytest.approx(float(parameter.detach().double().sum()), abs=10)
