"""Options of the trainer: device, precision, pace of looking; nothing here changes what is learned."""

from __future__ import annotations

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError, nearest

FIELDS = ("code", "packages", "python", "driver", "hardware")
"""Of the environment a run is computed in."""

group("trainer", "where a run computes and how often it looks at itself")


@schema("trainer", "standard")
class Trainer:
    """The typed face of lightning.Trainer."""

    accelerator: str = option(
        "auto", "device to compute on; auto takes cuda, then mps, then cpu", choices=("auto", "cuda", "mps", "cpu")
    )
    precision: str = option(
        "auto",
        "of forward passes; auto is bf16 where the device computes in it, else fp32; fp64 to compare layouts",
        choices=("auto", "bf16", "fp32", "fp64"),
    )
    compile: bool = option(True, "compile the model (about half a minute once; worth it from a few minutes on)")
    threads: int | None = option(None, "CPU threads per process; off leaves torch's choice", at_least=1)
    deterministic: bool | None = option(
        None, "sum in the same order each time, for the same bits again; null: on a CPU, where it costs about 3%"
    )
    log_every: int = option(10, "optimizer steps between rows of the log", at_least=1)
    validate_every: int | None = option(
        250, "optimizer steps between looks at held-out text; off: only at the end", at_least=1
    )
    validate_first: bool = option(False, "look at held-out text before the first step too, to see what is forgotten")
    batches: int | None = option(None, "train on no more than so many different steps, over and over", at_least=1)
    environment: dict[str, str] = option(
        {},
        f"what to do if a run goes on with other {', '.join(FIELDS)} than it had: warn (where nothing is said), "
        "refuse or ignore, e.g. {code: refuse}",
    )
    profile: bool = option(False, "write a trace of the first steps to the run folder's profile/")

    def __post_init__(self) -> None:
        for field, rule in self.environment.items():
            if field not in FIELDS:
                raise ConfigError(f"environment.{field}", "is no part of an environment", nearest(field, FIELDS))
            if rule not in ("warn", "refuse", "ignore"):
                raise ConfigError(f"environment.{field}={rule}", "is no rule", "choose warn, refuse or ignore")
