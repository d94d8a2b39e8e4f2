"""Rotary positions know distances only; sinusoids, slopes and classes of distances are those of their papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from groundup.model.config import Decoder, Encoder
from groundup.model.positions import Buckets, angles, frequencies, rotate, sinusoids, slopes

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


def bucket(distance: int, count: int, farthest: int, ahead: bool, late: int = 0, strict: int = 0, near: int = 0) -> int:
    """Raffel et al. 2020, section 2.1, and the authors' code, by whole numbers.

    Of E classes for one direction half hold a distance each, and class E/2 + k begins where the distance reaches
    E/2 (farthest / (E/2))^(k / (E/2)).

    Args:
        distance: from the key forward to the query.
        count: classes.
        farthest: the distance from which all are alike.
        ahead: keys ahead have a half of the classes.
        late: mistake, added to the distance.
        strict: mistake, classes begin behind their first distance.
        near: mistake, added to the classes that hold a distance each.
    """
    first = 0
    if ahead:
        count //= 2
        first = count if distance < 0 else 0
        distance = abs(distance)
    distance = max(0, distance) + late
    exact = count // 2 + near
    if distance < exact:
        return first + distance
    shared = count - exact
    reached = (
        k
        for k in range(1, shared)
        if distance**shared * exact**k >= farthest**k * exact**shared + strict  # both sides to the power of E/2
    )
    return first + exact + sum(1 for _ in reached)


CLASSES = [(32, 128), (32, 20), (8, 12), (13, 50), (64, 512), (4, 3)]


@pytest.mark.parametrize(("count", "farthest"), CLASSES)
@pytest.mark.parametrize("ahead", [False, True])
def test_classes_of_distances_are_those_of_t5(count: int, farthest: int, ahead: bool) -> None:
    kind = Encoder if ahead else Decoder
    net = Buckets(kind(positions="t5", buckets=count, farthest=farthest))
    distances = torch.arange(-700, 701)
    expected = torch.tensor([bucket(int(distance), count, farthest, ahead) for distance in distances])
    assert torch.equal(net.classes(distances), expected)
    assert set(expected.tolist()) <= set(range(count))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("mistake", ["late", "strict", "near"])
def test_a_class_that_begins_a_distance_too_early_or_late_does_not_go_unseen(ahead: bool, mistake: str) -> None:
    count = 16 if ahead else 8  # four of a direction hold a distance each, and one more begins at 8 exactly
    net = Buckets((Encoder if ahead else Decoder)(positions="t5", buckets=count, farthest=16))
    distances = torch.arange(-40, 41)
    right, mistaken = (
        [bucket(int(distance), count, 16, ahead, **plant) for distance in distances] for plant in ({}, {mistake: 1})
    )
    assert net.classes(distances).tolist() == right != mistaken


def test_a_score_takes_the_number_of_its_head_for_the_distance_to_its_key() -> None:
    net = Buckets(Encoder(positions="t5", heads=6))
    with torch.no_grad():
        net.weight.normal_()
    places = torch.tensor([0, 3, 40, 200])
    bias = net(places[:, None] - places)
    for head in range(6):
        for t, query in enumerate(places.tolist()):
            for s, key in enumerate(places.tolist()):
                assert bias[0, head, t, s] == net.weight[bucket(query - key, 32, 128, True), head]
    rows = torch.stack((places, places + 7))
    assert torch.equal(net(rows[:, :, None] - rows[:, None, :]), bias.expand(2, -1, -1, -1))
