"""Rotary positions know distances only."""

from __future__ import annotations

import torch

from groundup.model.positions import angles, rotate


def test_a_rotated_product_depends_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 10, dtype=torch.float64).unbind()

    def product(at: int, other: int) -> torch.Tensor:
        turned = [
            rotate(x, *angles(torch.tensor([position]), 10, 10_000.0, torch.float64))
            for x, position in ((query, at), (key, other))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(7, 3), product(1007, 1003), rtol=0, atol=1e-10)
    assert (product(7, 3) - product(7, 4)).abs() > 1e-3


def test_a_pair_of_channels_turns_by_its_own_angle() -> None:
    x = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    x[..., 1] = 1.0  # with channel 3 the second pair of two, whose frequency is base^(-1/2)
    turned = rotate(x, *angles(torch.tensor([3]), 4, 100.0, torch.float64))[0, 0, 0]
    angle = torch.tensor(3 * 100.0**-0.5, dtype=torch.float64)
    torch.testing.assert_close(turned, torch.stack([angle * 0, angle.cos(), angle * 0, angle.sin()]))


def test_position_zero_is_not_turned_and_lengths_stay() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    turned = rotate(x, *angles(torch.arange(5), 8, 10_000.0, torch.float64))
    assert torch.equal(turned[:, 0], x[:, 0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
