"""The tiled sum over pairs: values, gradients, tiles of every shape, and nothing read that was not written."""

import pytest
import torch

from causalrn.model.readouts import naive, pair_sum


def _inputs(time, heads=2, width=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, time, heads, width, dtype=dtype, generator=generator, requires_grad=True) for _ in range(2))


def _definition(q, k, activation, norm):
    pairs = q[:, :, None] + k[:, None]
    pairs = naive.ln0(pairs, norm) if norm else pairs
    past = torch.tril(torch.ones(q.shape[1], q.shape[1], dtype=torch.bool))[None, :, :, None, None]
    return torch.where(past, naive.activate(pairs, activation), 0.0).sum(2)


@pytest.mark.parametrize(("norm", "eps"), [("layer", 0.0), ("rms", 0.0), (None, 0.0), ("layer", 0.3), ("rms", 1e-3)])
@pytest.mark.parametrize("activation", ["exp", "elu", "relu", "gelu"])
def test_gradient_is_right(activation, norm, eps):
    q, k = _inputs(4)

    def summed(a, b):
        return pair_sum.pair_sum(a, b, activation=activation, norm=norm, eps=eps)

    assert torch.autograd.gradcheck(summed, (q, k))


@pytest.mark.parametrize("tile_bytes", [1, 2000, 9000, 1 << 20])
@pytest.mark.parametrize("time", [1, 7, 23])
def test_tiles_of_every_size_give_the_same(monkeypatch, tile_bytes, time):
    monkeypatch.setattr(pair_sum, "_CPU_TILE_BYTES", tile_bytes)
    q, k = _inputs(time)
    value = pair_sum.pair_sum(q, k, activation="exp", norm="layer")
    expected = _definition(q, k, "exp", "layer")
    assert torch.allclose(value, expected, rtol=1e-12)
    gradients = [torch.autograd.grad(out.square().sum(), (q, k)) for out in (value, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


def test_poisoned_scratch_is_never_read(monkeypatch):
    """Buffers come unwritten: with NaN in them the result must be the same."""
    clean = pair_sum.pair_sum(*_inputs(23), activation="exp", norm="layer")
    make = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape: make(self, *shape).fill_(torch.nan))
    monkeypatch.setattr(pair_sum, "_CPU_TILE_BYTES", 5000)
    assert torch.allclose(pair_sum.pair_sum(*_inputs(23), activation="exp", norm="layer"), clean, rtol=1e-12)


def test_pairs_that_nearly_cancel_keep_their_precision():
    """b_j near -a: the expansion |a|^2 + |b|^2 + 2ab has an error of 1e-2 here (docs/numerics.md)."""
    q, _ = _inputs(12, heads=1, width=64, dtype=torch.float32)
    q = 100 * q.detach()
    noise = torch.randn(q.shape, generator=torch.Generator().manual_seed(3))
    k = -q + noise * 2.0**-6
    exact = pair_sum.pair_sum(q.double(), k.double(), activation="exp", norm="rms")
    assert torch.allclose(pair_sum.pair_sum(q, k, activation="exp", norm="rms").double(), exact, rtol=1e-5)
