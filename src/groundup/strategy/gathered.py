"""Nets whose parameters are gathered where they compute, asked by other methods than forward too; no ranks, no mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.utils._pytree import tree_leaves

ASKED = ("stream", "memory", "read", "decode", "step", "likelihoods")
"""Methods of networks that compute with parameters and may be called from outside."""


def ask_gathered(net: nn.Module) -> None:
    """Let a sharded net be asked by any of `ASKED`, and forget what was gathered where no backward pass follows.

    FSDP frees what the net itself gathered when the backward pass is done. Without one it would stay, and with it
    stale weights, once the sharded ones have changed.
    """
    asking: list[str] = []

    def begin(*_: Any) -> None:
        asking.append("forward")

    def end(_module: nn.Module, _arguments: Any, found: Any) -> None:
        asking.pop()
        if not asking and not _leads_back(found):
            forget(net)

    net.register_forward_pre_hook(begin, prepend=True)
    net.register_forward_hook(end, always_call=True)
    for name in ASKED:
        if hasattr(net, name):
            setattr(net, name, _outermost(net, name, asking))
    for part in net.modules():
        if hasattr(part, "remembered"):  # a block's, which `read` asks for by itself
            register_fsdp_forward_method(part, "remembered")


def forget(net: nn.Module) -> None:
    """Free what is gathered of a net and its parts."""
    for part in net.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _outermost(net: nn.Module, name: str, asking: list[str]) -> Callable[..., Any]:
    """The method, which gathers if nothing that called it has."""
    plain = getattr(net, name)
    register_fsdp_forward_method(net, name)
    gathering = getattr(net, name)

    @functools.wraps(plain)
    def method(*args: Any, **kwargs: Any) -> Any:
        if asking:
            return plain(*args, **kwargs)
        asking.append(name)
        try:
            found = gathering(*args, **kwargs)
        finally:
            asking.pop()
        if not _leads_back(found):
            forget(net)
        return found

    return cast(Callable[..., Any], method)


def _leads_back(found: Any) -> bool:
    """Whether a backward pass may begin at what was found."""
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(found))
