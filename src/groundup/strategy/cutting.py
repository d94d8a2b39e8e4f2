"""Which networks can be shared layer by layer over ranks; how that is done is said elsewhere, and needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groundup.core.errors import ConfigError

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config

KINDS = ("decoder", "encoder", "encoder_decoder")
"""Networks whose parameters have the names that the plan knows."""


def check(config: Config, ranks: int) -> None:
    """Find what cannot be cut over so many ranks.

    Where there are fewer groups of keys and values than ranks, each rank has the one that its heads read, and its
    matrices stand on all.

    Raises:
        ConfigError: with the number that does not divide, or the option without a plan.
    """
    if ranks == 1:
        return
    where = f"strategy.tensor={ranks}"
    kind = getattr(config, "kind", None)  # a plugin's network need not have one
    if kind not in KINDS:
        raise ConfigError(where, f"has no plan for model={kind}", f"choose from {', '.join(KINDS)}")
    dropped = config.dropout if config.attention_dropout is None else config.attention_dropout
    if dropped:
        raise ConfigError(
            where,
            f"has no plan for model.attention_dropout={dropped}: kernels draw for the heads of a rank alone",
            "set model.attention_dropout=0; other dropout may stay",
        )
    if config.norm == "batch":
        raise ConfigError(where, "has no plan for model.norm=batch", "set model.norm=layer or rms")
    for name, value in (("heads", config.heads), ("hidden", config.feedforward)):
        if value % ranks:
            raise ConfigError(where, f"does not divide model.{name}={value}", "choose numbers that divide")
    if config.groups % ranks and ranks % config.groups:
        raise ConfigError(
            where,
            f"neither divides model.kv_heads={config.groups} nor is a multiple of it",
            "choose numbers of which one divides the other",
        )
    if config.vocabulary is not None and -(-config.vocabulary // ranks) * (ranks - 1) >= config.vocabulary:
        raise ConfigError(
            where, f"leaves a rank without ids of model.vocabulary={config.vocabulary}", "use fewer tensor ranks"
        )
