"""Where torch's random numbers go on from, on the devices that are used and on no others."""

from __future__ import annotations

from typing import Any

import torch


def seed_noise(seed: int, device: torch.device) -> None:
    """Seed torch's generator of the CPU and that of a device: what follows is a function of the seed.

    `torch.manual_seed` gives the seed to every kind of accelerator as well. Where there is none it is kept, with a
    trace of who gave it, for the day that one appears: about a millisecond and some kilobytes, which are never freed.

    Args:
        seed: in [0, 2**64).
        device: where numbers are drawn.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        accelerator: Any = getattr(torch, device.type)
        accelerator.manual_seed(seed)
