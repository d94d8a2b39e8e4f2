"""Laws of the noise's seeds."""

from __future__ import annotations

import torch

from groundup.model.noise import seed_noise


def test_a_seed_means_what_it_means_to_torch() -> None:
    torch.manual_seed(2**63 + 5)
    wanted = torch.rand(4)
    seed_noise(2**63 + 5, torch.device("cpu"))
    assert torch.equal(torch.rand(4), wanted)
    assert torch.initial_seed() == 2**63 + 5


def test_nothing_is_kept_for_accelerators_that_are_not_there() -> None:
    kept = [len(torch.cuda._queued_calls), len(torch.xpu._queued_calls), len(torch.mtia._queued_calls)]
    for number in range(3):
        seed_noise(number, torch.device("cpu"))
    assert [len(torch.cuda._queued_calls), len(torch.xpu._queued_calls), len(torch.mtia._queued_calls)] == kept
