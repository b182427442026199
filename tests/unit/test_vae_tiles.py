"""The VAE in tiles: nearly what it gives in one piece, and only where it must."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_negtrans.models import vae_tiles
from lib_negtrans.models.protocol import HostError
from lib_negtrans.models.standalone import ASSETS, default_model_path, load_model
from lib_negtrans.pictures.images import fit_within, load_picture


@pytest.fixture
def small(monkeypatch):
    """Tiles of 128 pixels above 160x160, as the real ones of 512 above 768x768."""
    monkeypatch.setattr(vae_tiles, "WHOLE", 20 * 20)
    monkeypatch.setattr(vae_tiles.spans, "__defaults__", (16, 4))
    monkeypatch.setattr(vae_tiles, "OVERLAP", 4)


@pytest.fixture
def calls(shared_tiny_host):
    """Shapes of what the encoder and decoder themselves are given."""
    seen: list[tuple[int, ...]] = []
    networks = (shared_tiny_host.vae.encoder, shared_tiny_host.vae.decoder)
    handles = [n.register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape))) for n in networks]
    yield seen
    for handle in handles:
        handle.remove()


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_small_pictures_go_through_whole(shared_tiny_host, small, calls):
    latent = shared_tiny_host.encode_image(noise(1, 3, 160, 160))
    shared_tiny_host.decode_latent(latent)
    assert calls == [(1, 3, 160, 160), (1, 4, 20, 20)]


def test_large_ones_in_tiles_of_one_size(shared_tiny_host, small, calls):
    latent = shared_tiny_host.encode_image(noise(1, 3, 264, 200))
    assert latent.shape == (1, 4, 33, 25)
    assert shared_tiny_host.decode_latent(latent).shape == (1, 3, 264, 200)
    assert set(calls) == {(1, 3, 112, 120), (1, 4, 14, 15)} and len(calls) == 2 * 3 * 2


def test_batches_one_by_one_where_together_they_are_too_many(shared_tiny_host, small, calls):
    latent = shared_tiny_host.encode_image(noise(1, 3, 128, 128).expand(3, -1, -1, -1))
    assert latent.shape == (3, 4, 16, 16) and [shape[0] for shape in calls] == [1, 1, 1]


def test_half_precision_takes_twice_the_pixels(small):
    runs = []
    for dtype in (torch.float32, torch.float16):
        vae_tiles.in_pieces(lambda x: runs.append(x.dtype) or x, torch.zeros(1, 4, 25, 25, dtype=dtype), 1, 1)
    assert runs.count(torch.float32) > 1 and runs.count(torch.float16) == 1


@given(size=st.integers(1, 400), most=st.integers(20, 80))
def test_spans_cover_everything_and_overlap(size, most):
    found = vae_tiles.spans(size, most, 8)
    assert found[0][0] == 0 and found[-1][1] == size
    assert len({stop - start for start, stop in found}) == 1 and found[0][1] <= max(size if size <= most else 0, most)
    assert all(next_start <= stop - 8 + 1 for (_, stop), (next_start, _) in pairwise(found))


def test_blending_tiles_of_a_local_function_is_exact(small):
    """What needs no neighbours comes out as from one piece: weights and places are right."""
    value = noise(2, 3, 40 * 8, 33 * 8)
    pooled = vae_tiles.in_pieces(lambda x: torch.nn.functional.avg_pool2d(x, 8), value, 8, 1)
    assert torch.allclose(pooled, torch.nn.functional.avg_pool2d(value, 8), atol=1e-6)
    latent = noise(1, 4, 40, 33)
    grown = vae_tiles.in_pieces(lambda x: x.repeat_interleave(8, 2).repeat_interleave(8, 3), latent, 1, 8)
    assert torch.allclose(grown, latent.repeat_interleave(8, 2).repeat_interleave(8, 3), atol=1e-6)


def test_tiles_give_nearly_the_whole_pictures_result(monkeypatch):
    """On a trained VAE: each tile's own normalisation and the seams stay small."""
    try:
        host = load_model(default_model_path(), device="cpu", dtype=torch.float32)
    except HostError as error:
        pytest.skip(str(error))
    file = min((ASSETS.parent / "renders" / "eval").glob("fl_*.jpg"))
    image = fit_within(load_picture(file).rgb, (256, 256))[None]
    whole = host.encode_image(image)
    whole_image = host.decode_latent(whole)
    monkeypatch.setattr(vae_tiles, "WHOLE", 1)
    monkeypatch.setattr(vae_tiles.spans, "__defaults__", (20, 6))
    monkeypatch.setattr(vae_tiles, "OVERLAP", 6)
    error = (host.encode_image(image) - whole).square().mean().sqrt() / whole.std()
    image_error = (host.decode_latent(whole) - whole_image).abs()
    assert 0 < error < 0.1
    assert image_error.mean() < 0.015 and image_error.max() < 0.2
