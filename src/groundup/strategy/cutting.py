"""Which networks can be shared over ranks, by layers, positions or experts; how is said elsewhere, and needs torch."""

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


def check_experts(config: Config, ranks: int, among: int) -> None:
    """Find experts that cannot be shared out so.

    Args:
        config: the network.
        ranks: to which the experts of a layer are shared out.
        among: the ranks that see different tokens and hold one copy of the network.

    Raises:
        ConfigError: there are no experts, or numbers that do not divide.
    """
    if ranks == 1:
        return
    where, count = f"strategy.experts={ranks}", getattr(config, "experts", None)
    if count is None:
        raise ConfigError(where, "needs a network with experts", "set model.experts, or strategy.experts=1")
    if count % ranks:
        fits = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ConfigError(where, f"does not divide model.experts={count}", f"choose from {fits}")
    if among % ranks:
        fits = ", ".join(str(n) for n in range(1, among + 1) if among % n == 0 and count % n == 0)
        raise ConfigError(
            where, f"does not divide the {among} processes that see different tokens", f"choose from {fits}"
        )
