"""Rotary positions know distances only; sinusoids and slopes are those of their papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from groundup.model.config import Decoder
from groundup.model.positions import angles, frequencies, rotate, sinusoids, slopes

CPU = torch.device("cpu")


def turned(x: Tensor, positions: Tensor, **options: Any) -> Tensor:
    config = Decoder(width=x.shape[-1], heads=1, **options)
    return rotate(x, *angles(positions, frequencies(config, CPU), torch.float64))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_rotated_product_depends_on_the_distance_alone(share: float) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 10, dtype=torch.float64).unbind()

    def product(at: int, other: int) -> Tensor:
        pair = [turned(x, torch.tensor([position]), rope_share=share) for x, position in ((query, at), (key, other))]
        return (pair[0] * pair[1]).sum()

    torch.testing.assert_close(product(7, 3), product(1007, 1003), rtol=0, atol=1e-10)
    assert (product(7, 3) - product(7, 4)).abs() > 1e-3


def test_a_pair_of_channels_turns_by_its_own_angle() -> None:
    x = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    x[..., 1] = 1.0  # with channel 3 the second pair of two, whose frequency is base^(-1/2)
    found = turned(x, torch.tensor([3]), rope_base=100.0)[0, 0, 0]
    angle = torch.tensor(3 * 100.0**-0.5, dtype=torch.float64)
    torch.testing.assert_close(found, torch.stack([angle * 0, angle.cos(), angle * 0, angle.sin()]))


def test_position_zero_is_not_turned_and_lengths_stay() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    found = turned(x, torch.arange(5))
    assert torch.equal(found[:, 0], x[:, 0])
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1))


def test_channels_beyond_the_share_stay() -> None:
    x = torch.randn(1, 4, 2, 10, dtype=torch.float64)
    found = turned(x, torch.arange(4), rope_share=0.4)
    assert torch.equal(found[..., 4:], x[..., 4:])
    assert not torch.equal(found[..., :4], x[..., :4])


def test_llama_3_stretches_long_wavelengths_in_full_and_short_ones_not_at_all() -> None:
    options: dict[str, Any] = {"width": 64, "heads": 1, "rope_base": 500_000.0}
    plain = frequencies(Decoder(**options), CPU)
    linear = frequencies(Decoder(**options, rope_scaling="linear", rope_factor=4.0), CPU)
    torch.testing.assert_close(linear, plain / 4)
    stretched = frequencies(Decoder(**options, rope_scaling="llama3", rope_factor=8.0, rope_original=8192), CPU)
    wavelengths = 2 * math.pi / plain
    torch.testing.assert_close(stretched[wavelengths < 8192 / 4], plain[wavelengths < 8192 / 4])
    torch.testing.assert_close(stretched[wavelengths > 8192], plain[wavelengths > 8192] / 8)
    assert (stretched.diff() < 0).all()


def test_sinusoids_are_those_of_the_paper() -> None:
    """Vaswani et al. 2017, section 3.5."""
    table = sinusoids(torch.arange(5), 6, torch.float64, interleaved=True)
    for position in range(5):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle))
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle))


def test_slopes_are_a_geometric_sequence() -> None:
    """Press et al. 2022, section 3: 8 heads have 1/2, 1/4, ..., 1/256."""
    assert slopes(8, CPU).tolist() == [2.0**-n for n in range(1, 9)]
    assert len(slopes(12, CPU)) == 12
    assert slopes(12, CPU)[:8].tolist() == slopes(8, CPU).tolist()
    assert slopes(12, CPU)[8:].tolist() == slopes(16, CPU)[[0, 2, 4, 6]].tolist()
