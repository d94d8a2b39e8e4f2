"""Options of DeepSpeed's ZeRO, and what it cannot do; neither torch nor deepspeed is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groundup.core.config import option, schema
from groundup.core.errors import ConfigError, require
from groundup.strategy.config import Layout, devices_here

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

REQUIREMENTS = "requirements-deepspeed.txt"
ELEMENTWISE = ("adamw", "lion", "sgd")
"""Optimizers that move every number by itself: ZeRO shows them rows of numbers, not matrices."""


@schema("strategy", "deepspeed")
class DeepSpeed(Layout):
    """Optimizer state, gradients and weights cut by DeepSpeed (ZeRO: Rajbhandari et al. 2020); started by torchrun."""

    stage: int = option(
        2,
        "what is cut over the processes: optimizer state (1), gradients too (2), weights too (3)",
        at_least=1,
        at_most=3,
        identity=False,
    )
    offload: str = option(
        "none",
        "what stands in the host's memory: optimizer state, which is updated there (Ren et al. 2021, ZeRO-Offload), or "
        "weights too, with stage=3 (Rajbhandari et al. 2021, ZeRO-Infinity)",
        choices=("none", "optimizer", "weights"),
        identity=False,
    )
    bucket_megabytes: float = option(
        200.0, "gradients and gathered weights travel in parcels of this size", above=0, identity=False
    )
    whole_below: int = option(
        100_000, "with stage=3, parameters of at most so many numbers stay whole", at_least=0, identity=False
    )
    timeout_minutes: float = option(
        30.0, "a collective that waits longer than this ends the run", above=0, identity=False
    )

    takes_over = False
    steerable = False  # DeepSpeed keeps gradients of its own, and may not step where it finds them not finite

    def __post_init__(self) -> None:
        if self.offload == "weights" and self.stage < 3:
            raise ConfigError("offload=weights", f"does not go with stage={self.stage}", "set stage=3")

    @property
    def answers(self) -> bool:  # type: ignore[override]
        """Whether each rank can ask a net as a whole."""
        return self.stage < 3

    @property
    def needs_rows(self) -> str | None:
        """Why `data.micro_batch` must be a number."""
        return "DeepSpeed cannot go on where memory ran out"

    @property
    def keeps_parameters(self) -> bool:
        """Whether parameters are tensors that others can read between steps."""
        return self.stage < 3

    @property
    def compiles(self) -> bool:
        """Whether nets can be compiled: not where weights come and go with each module's turn."""
        return self.stage < 3

    def check_optimizer(self, kind: str) -> None:
        """ZeRO joins all parameters of a group to one row and cuts that, wherever a matrix ends.

        Raises:
            ConfigError: the optimizer moves matrices as a whole.
        """
        if kind not in ELEMENTWISE:
            raise ConfigError(
                f"optimizer={kind}",
                "moves whole matrices, which strategy=deepspeed joins to a row and cuts anywhere",
                f"choose {', '.join(ELEMENTWISE)}, or strategy=fsdp",
            )

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy of this process among those torchrun started.

        Args:
            accelerator: "cpu" (gloo) or "cuda" (NCCL).
            devices: processes on this machine.

        Raises:
            ConfigError: DeepSpeed is not installed, or as `devices_here`.
        """
        require("deepspeed", "strategy=deepspeed", REQUIREMENTS)
        here = devices_here("deepspeed", accelerator, devices)
        from groundup.strategy import zero

        made = zero.Zero(
            here,
            stage=self.stage,
            offload=self.offload,
            bucket=int(self.bucket_megabytes * 1e6 / 4),
            whole_below=self.whole_below,
            timeout_minutes=self.timeout_minutes,
        )
        made.recompute = self.recompute
        return made
