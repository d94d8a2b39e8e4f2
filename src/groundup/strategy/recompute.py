"""Activations of blocks that are computed again in the backward pass instead of kept; no rank knows of another here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.attention.flex_attention  # registers its operator
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext, checkpoint
from torch.utils.checkpoint import create_selective_checkpoint_contexts as contexts

aten = torch.ops.aten
MATRIX_PRODUCTS = (aten.mm.default, aten.addmm.default)
"""Of these every other one is kept."""

ATTENTION = (
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.higher_order.flex_attention,
)
"""What these give is kept, unless they drop something: random numbers are drawn again only where all are."""


def blocks_of(net: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a net's trunks: what lies in a list or dictionary of modules called `blocks`."""
    for name, part in net.named_modules():
        if name.rpartition(".")[2] == "blocks" and isinstance(part, nn.ModuleDict | nn.ModuleList):
            yield from part.children()


def recompute_blocks(net: nn.Module, how: str) -> None:
    """Let blocks keep less for the backward pass, in place; names of parameters stay.

    `full`: a block keeps its input alone and is computed again (Chen et al. 2016, "Training Deep Nets with Sublinear
    Memory Cost"), for a third more work. `selective`: it keeps also what attention gives and every other matrix
    product, which cost the most, and computes again what lies between (as torchtitan does, after Korthikanti et al.
    2022, "Reducing Activation Recomputation", section 5). What is drawn at random is drawn again as it was.

    Args:
        net: with blocks as `blocks_of` finds them.
        how: "none", "selective" or "full".
    """
    if how == "none":
        return
    for block in blocks_of(net):
        drops = any(getattr(getattr(block, name, None), "dropout", 0.0) for name in ("attention", "cross_attention"))
        cast(Any, block).forward = _again(block.forward, how == "selective", bool(drops))


def _again(forward: Callable[..., Any], selective: bool, drops: bool) -> Callable[..., Any]:
    def both() -> Any:  # made out here, since a compiler takes it for a constant
        return cast(Any, contexts)(_policy(() if drops else ATTENTION))

    def computed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if selective:
            return checkpoint(forward, *args, use_reentrant=False, context_fn=both, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return computed


def _policy(kept: tuple[Any, ...]) -> Callable[..., CheckpointPolicy]:
    """What is kept of one pass: it counts products in the forward pass and in the one that is done again."""
    products: Counter[bool] = Counter()

    def policy(context: SelectiveCheckpointContext, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        del args, kwargs
        if operator in MATRIX_PRODUCTS:
            products[context.is_recompute] += 1
            keep = products[context.is_recompute] % 2 == 1
        else:
            keep = operator in kept
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy
