"""What a rank holds of a network in a layout, and so of gradients and moments: arithmetic; nothing is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groundup.core.layout import Grid, Place
from groundup.model import count

if TYPE_CHECKING:
    from groundup.model.options import Transformer


def parameters_per_rank(config: Transformer, grid: Grid, place: Place, *, sharded: bool, folded: bool = False) -> float:
    """How many parameters a rank holds.

    Of the layers each pipeline rank has as many as another; the embedding stands on the first, the head on the last,
    and one that is tied on both. Tensor ranks share matrices (Shoeybi et al. 2020) and what is looked up by a token,
    and each has all vectors and positions; biases of a matrix that is cut by columns, which are shared, are too few
    to count. Data and context ranks have copies, or shares where weights are sharded. Those that share experts out have
    copies of all else.

    Args:
        config: the network, vocabulary and context known.
        grid: how many ranks lie along each way.
        place: of the rank.
        sharded: over data and context ranks.
        folded: the first pipeline rank holds the last stage too (ZB-V).

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    ends, layers = count.ends(config), count.between(config)
    elsewhere = 0.0 if sharded else count.experts(config) * (1 - 1 / grid.experts)
    head = ends["matrix"] if not config.tied else ends["embedding"]
    last = 0 if folded else grid.pipeline - 1
    held = (layers["matrix"] - elsewhere) / grid.tensor / grid.pipeline + layers["vector"] / grid.pipeline
    if place.pipeline == 0:
        held += ends["embedding"] / grid.tensor + layers["embedding"]
    if place.pipeline == last and not (config.tied and last == 0):
        held += head / grid.tensor
    if place.pipeline == last:
        held += ends["vector"]
    return held / (grid.data * grid.context) if sharded else held
