"""LN0: what the official one gets wrong, and gradients."""

import pytest
import torch

from causalrn.model.normalization import centre, normalize
from causalrn.model.readouts import naive


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_normalize_equals_definition(norm, scale):
    x = scale * torch.randn(50, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(normalize(x, norm), naive.ln0(x, norm), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e20])
def test_constant_vector_gives_zeros(dtype, value):
    x = torch.full((2, 192), value, dtype=dtype)
    assert torch.equal(normalize(x, "layer"), torch.zeros_like(x))
    assert torch.equal(centre(x), torch.zeros_like(x))


def test_zero_vector_gives_zeros_with_rms():
    assert torch.equal(normalize(torch.zeros(3, 8), "rms"), torch.zeros(3, 8))


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_overflow_gives_nan(norm):
    x = torch.tensor([[1e30, -1e30, 0.0]])
    assert normalize(x, norm).isnan().all()


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_gradient_is_right(norm):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda value: normalize(value, norm), x)


def test_gradient_of_constant_vector_is_finite():
    x = torch.ones(1, 6, requires_grad=True)
    normalize(x, "layer").sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
