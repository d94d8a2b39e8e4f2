"""Which networks can be shared over ranks, by layers or by positions; how is said elsewhere, and needs torch."""

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


def check_context(config: Config, ranks: int, length: int | None = None) -> None:
    """Find what cannot compute the positions of a window on so many ranks.

    Args:
        config: the network.
        ranks: how many.
        length: positions of a window; None: not known yet.

    Raises:
        ConfigError: with the length that does not divide, or the option without a plan.
    """
    if ranks == 1:
        return
    where = f"strategy.context={ranks}"
    kind = getattr(config, "kind", None)
    if kind != "decoder":
        raise ConfigError(where, f"has no plan for model={kind}", "use model=decoder, or strategy=fsdp without it")
    for name in ("dropout", "attention_dropout", "embedding_dropout"):
        if getattr(config, name):
            raise ConfigError(
                where,
                f"has no plan for model.{name}={getattr(config, name)}: ranks would draw for positions of their own",
                f"set model.{name}=0",
            )
    if length is not None and length % (2 * ranks):
        raise ConfigError(
            f"data.context={length}",
            f"cannot be cut into {2 * ranks} equal chunks, two for each of strategy.context={ranks} ranks",
            f"choose a multiple of {2 * ranks}",
        )
