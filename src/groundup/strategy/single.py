"""One process on one device; it knows no others."""

from __future__ import annotations

from lightning.pytorch.strategies import SingleDeviceStrategy

from groundup.strategy.stepping import Stepping


class Single(Stepping, SingleDeviceStrategy):
    """Lightning's single-device strategy with groundup's steps."""
