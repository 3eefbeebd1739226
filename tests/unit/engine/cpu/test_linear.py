"""Linear layers in oneDNN's order and in int8, against PyTorch's own."""

import pytest
import torch
from internvl_server.engine.cpu.model import linear
from internvl_server.engine.cpu.model.linear import (
    Int8Linear,
    PackedLinear,
    can_compute_int8,
    can_pack,
)


@pytest.fixture
def weight():
    return torch.randn(200, 96, generator=torch.Generator().manual_seed(1)) / 10


@pytest.fixture
def x():
    """Rows of very different size, one with a single large value, one of zeros."""
    rows = torch.randn(7, 96, generator=torch.Generator().manual_seed(2))
    rows *= torch.tensor([1e-4, 1.0, 100.0, 1.0, 1.0, 1.0, 0.0])[:, None]
    rows[3, 5] = 300.0
    return rows


@pytest.mark.parametrize("bias", [None, torch.ones(200)])
def test_packed_weights_change_only_the_last_bits(weight, x, bias):
    expected = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(PackedLinear(weight, bias)(x), expected, rtol=1e-4, atol=1e-4)
    shared = PackedLinear(weight, bias, is_shared=True)
    assert shared.weight is weight
    torch.testing.assert_close(shared(x), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_packed_in_its_own_type(weight, x):
    layer = PackedLinear(weight.bfloat16(), None)
    output = layer(x.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(
        output, torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()), rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("bias", [None, torch.ones(200)])
def test_int8_deviates_only_by_the_rounding_of_the_weights(weight, x, bias):
    layer = Int8Linear(weight, bias)
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    rounded = (weight / scale).round() * scale
    exact = torch.nn.functional.linear(x, rounded, bias)
    # Of the activations, 14 bits are kept relative to the largest value of the row.
    bound = 2e-4 * x.abs().amax(dim=1, keepdim=True) * rounded.abs().sum(dim=1)
    assert ((layer(x) - exact).abs() <= bound + 1e-6).all()
    assert (rounded - weight).abs().max() > 0


def test_int8_rows_do_not_depend_on_each_other(weight, x):
    layer = Int8Linear(weight, None)
    together = layer(x)
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(together, alone)


def test_int8_sums_do_not_overflow(x):
    """On a processor without VNNI, sums of two products have 16 bits."""
    layer = Int8Linear(torch.ones(16, 96), None)
    ones = torch.ones(3, 96)
    torch.testing.assert_close(layer(ones), torch.full((3, 16), 96.0))
    torch.testing.assert_close(layer(-ones), torch.full((3, 16), -96.0))


def test_int8_keeps_the_type_of_its_input(weight, x):
    assert Int8Linear(weight, None)(x.bfloat16()).dtype == torch.bfloat16


def test_a_kernel_that_fails_or_computes_nonsense_is_not_used(monkeypatch):
    assert can_pack.__wrapped__(torch.float32)
    assert can_compute_int8.__wrapped__()

    def nonsense(self, x):
        return x.new_full((len(x), 64), 100.0)

    def fail(self, x):
        raise NotImplementedError

    for forward in (nonsense, fail):
        monkeypatch.setattr(linear.PackedLinear, "forward", forward)
        monkeypatch.setattr(linear.Int8Linear, "forward", forward)
        assert not can_pack.__wrapped__(torch.float32)
        assert not can_compute_int8.__wrapped__()
