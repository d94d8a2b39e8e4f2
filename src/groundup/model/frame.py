"""What all layers share in one forward pass: positions, rotation and who may see whom; made once, by integers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from groundup.model.mask import Mask, blocks, dense
from groundup.model.positions import angles, frequencies, slopes

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from groundup.model.cache import Cache
    from groundup.model.options import Transformer as Config


class Frame(NamedTuple):
    """The setting of one forward pass.

    Attributes:
        positions: (T,) or (B, T) int64.
        rotation: cosine and sine of rotary positions, or None.
        mask: bool, which slots each query sees, broadcast to (B, H, T, S); None: as `causal` says.
        causal: without a mask, whether those up to itself are seen, or all.
        sliding_mask: likewise, for layers with a sliding window.
        distances: from each key forward to the query, (T, S) or (B, T, S) int64, where scores depend on them.
        score_bias: what is added to scores for the distance, broadcast to (B, H, T, S) fp32 (ALiBi, T5), or None.
        joined: (B, T) bool, whether a token continues the document of the one before; None: all but the first do.
        slots: in generation, (B, T) int64, where in the cache each token goes; None: to the last of those used.
        used: in generation, how many slots are looked at.
        memory_mask: bool, what each query sees of the text that an encoder has read, like `mask`, or None.
        sees: with FlexAttention, what `mask` would be made of.
        blocks: it as that takes it.
        sliding_blocks: likewise, for layers with a sliding window.
        window: of these layers.
        places: (T,) int64, where in their window the positions stand, of which there are more; None: they are all.
    """

    positions: Tensor
    rotation: tuple[Tensor, Tensor] | None
    mask: Tensor | None
    causal: bool = True
    sliding_mask: Tensor | None = None
    distances: Tensor | None = None
    score_bias: Tensor | None = None
    joined: Tensor | None = None
    slots: Tensor | None = None
    used: int = 0
    memory_mask: Tensor | None = None
    sees: Mask | None = None
    blocks: BlockMask | None = None
    sliding_blocks: BlockMask | None = None
    window: int | None = None
    places: Tensor | None = None


def window(
    config: Config,
    tokens_BT: Tensor,
    documents_BT: Tensor | None,
    positions_BT: Tensor | None,
    dtype: torch.dtype,
    prefix_BT: Tensor | None = None,
    places_T: Tensor | None = None,
) -> Frame:
    """The frame of whole windows, as in training, or of some of their positions, which see the keys of all.

    Args:
        config: the network.
        tokens_BT: gives shape and device.
        documents_BT: number of each token's document: attention stays within; None: one document a row.
        positions_BT: position of each token; None: 0, 1, ... in every row.
        dtype: of the network's parameters.
        prefix_BT: whether a token is seen by all of its document; None: none is.
        places_T: where these positions stand; None: all are asked for.
    """
    B, T = tokens_BT.shape
    positions = torch.arange(T, device=tokens_BT.device) if positions_BT is None else positions_BT
    joined = None
    if documents_BT is not None and config.shift:
        joined = torch.zeros_like(documents_BT, dtype=torch.bool)
        joined[:, 1:] = documents_BT[:, 1:] == documents_BT[:, :-1]
        joined = joined if places_T is None else joined[:, places_T]
    rows = B if documents_BT is not None or prefix_BT is not None or positions.dim() == 2 else 1
    full = config.mask == "full"
    sees = Mask(positions.view(-1, T), documents_BT, prefix_BT=prefix_BT, full=full, places_T=places_T)
    asking = positions if places_T is None else positions[..., places_T]
    distances, alibi = _distances(config, asking, positions)
    rotation, queries = _rotation(config, asking, dtype), asking.shape[-1]
    if config.kernel == "flex":
        near = sees._replace(window=config.sliding_window)
        return Frame(
            asking,
            rotation,
            None,
            joined=joined,
            sees=sees,
            blocks=blocks(sees, rows, queries, T),
            sliding_blocks=blocks(near, rows, queries, T) if config.sliding_layers else None,
            window=config.sliding_window,
            places=places_T,
        )
    mask, sliding_mask = _masks(config, sees, rows, queries, T)
    return Frame(asking, rotation, mask, not full, sliding_mask, distances, alibi, joined, places=places_T)


def branched(config: Config, branches_BT: Tensor, positions_BT: Tensor, dtype: torch.dtype) -> Frame:
    """The frame of rows that hold one beginning and several ways to go on from it, side by side.

    Args:
        config: the network.
        branches_BT: 0 for the beginning, else the number of a token's branch: it sees the beginning and its own
            branch, up to itself.
        positions_BT: position of each token; branches all count on from the beginning.
        dtype: of the network's parameters.

    Raises:
        ValueError: the network takes up a share of the token before, which here may be another branch's, or sees
            ahead in the beginning, whose last token stands in the branches.
    """
    if config.shift or config.mask == "prefix":
        raise ValueError("a network that shifts tokens, or sees ahead in a prefix, reads no branches")
    B, T = branches_BT.shape
    mask, sliding_mask = _masks(config, Mask(positions_BT, None, branches_BT), B, T, T)
    distances, alibi = _distances(config, positions_BT, positions_BT)
    return Frame(positions_BT, _rotation(config, positions_BT, dtype), mask, True, sliding_mask, distances, alibi)


def pick(x_BTD: Tensor, wanted_BQ: Tensor) -> Tensor:
    """The vectors (B, Q, D) at some positions of each row."""
    return x_BTD.gather(1, wanted_BQ[..., None].expand(-1, -1, x_BTD.shape[2]))


def narrowed(frame: Frame, wanted_BQ: Tensor) -> Frame:
    """The frame of the queries at some positions of each row, over the keys of all."""
    rows_B1 = torch.arange(len(wanted_BQ), device=wanted_BQ.device)[:, None]
    rotation = frame.rotation
    if rotation is not None:
        cosine, sine = (table if table.dim() == 4 else table[rows_B1, wanted_BQ] for table in rotation)
        rotation = (cosine[wanted_BQ], sine[wanted_BQ]) if frame.positions.dim() == 1 else (cosine, sine)
    mask, sliding_mask = None, frame.sliding_mask
    if frame.sees is not None:
        rows_B11, queries_BQ1 = rows_B1[..., None], wanted_BQ[..., None]
        keys_T = torch.arange(frame.positions.shape[-1], device=wanted_BQ.device)
        mask = frame.sees(rows_B11, rows_B11, queries_BQ1, keys_T)[:, None]
        if frame.sliding_blocks is not None:
            near = frame.sees._replace(window=frame.window)
            sliding_mask = near(rows_B11, rows_B11, queries_BQ1, keys_T)[:, None]
    elif frame.mask is None and frame.causal:
        keys_T = torch.arange(frame.positions.shape[-1], device=wanted_BQ.device)
        mask = (keys_T <= wanted_BQ[..., None])[:, None]
    elif frame.mask is not None:
        mask = _rows(frame.mask, wanted_BQ)
    sliding_mask, score_bias, memory_mask = (
        table if table is None or table.shape[2] in (1, wanted_BQ.shape[1]) else _rows(table, wanted_BQ)
        for table in (sliding_mask, frame.score_bias, frame.memory_mask)
    )
    distances = frame.distances
    if distances is not None:
        distances = distances[wanted_BQ] if distances.dim() == 2 else distances[rows_B1, wanted_BQ]
    return frame._replace(
        rotation=rotation,
        mask=mask,
        sliding_mask=sliding_mask,
        distances=distances,
        score_bias=score_bias,
        memory_mask=memory_mask,
        blocks=None,
        sliding_blocks=None,
    )


def cached(config: Config, cache: Cache, counts_B: Tensor, T: int, dtype: torch.dtype) -> Frame:
    """The frame of new tokens behind cached ones: a query sees the slots up to its own position.

    With mask=prefix, the first tokens that a row reads are its prefix, and each of them sees all of them.

    Args:
        config: the network.
        cache: the state before the new tokens.
        counts_B: new tokens of each row; the other T - counts are padding on the right.
        T: columns.
        dtype: of the network's parameters.

    Raises:
        ValueError: a row outgrows the cache or the context.
    """
    limit = min(cache.size, config.closed()[1])
    used = int((cache.lengths + counts_B).max())
    if used > limit:
        raise ValueError(f"a row of {used} tokens where there is room for {limit}")
    offsets = torch.arange(T, device=counts_B.device)
    positions_BT = (cache.lengths[:, None] + offsets).clamp(max=limit - 1)
    slots_BT = torch.where(offsets < counts_B[:, None], positions_BT, cache.size)
    if cache.rotation is None:
        cache.rotation = _rotation(config, torch.arange(limit, device=counts_B.device), dtype)
    rotation = None if cache.rotation is None else (cache.rotation[0][positions_BT], cache.rotation[1][positions_BT])
    alone = len(counts_B) == 1  # such a row has no padding: its slots are one stretch
    given_B = torch.where(cache.lengths == 0, counts_B, 0) if config.mask == "prefix" else None
    frame = _behind(config, positions_BT, rotation, None if alone else slots_BT, used, given_B)
    return frame._replace(memory_mask=cache.memory_mask)


def following(config: Config, cache: Cache, dtype: torch.dtype) -> Frame:
    """The frame of one new token a row, over all slots of a cache that holds something: no shape depends on how much.

    Args:
        config: the network.
        cache: the state before the new tokens.
        dtype: of the network's parameters.
    """
    positions_B1 = cache.lengths[:, None]
    rotation = None
    if config.positions == "rotary":
        tables = cache.rotation or _rotation(config, torch.arange(cache.size, device=positions_B1.device), dtype)
        assert tables is not None
        rotation = (tables[0][positions_B1], tables[1][positions_B1])
    frame = _behind(config, positions_B1, rotation, positions_B1, cache.size)
    return frame._replace(memory_mask=cache.memory_mask)


def _behind(
    config: Config,
    positions_BT: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    slots_BT: Tensor | None,
    used: int,
    given_B: Tensor | None = None,
) -> Frame:
    """The frame of queries over the first slots of a cache, where slot j of a row holds its position j.

    The first `given_B` slots of a row are seen by all of its queries.
    """
    keys = torch.arange(used, device=positions_BT.device)
    rows = torch.arange(len(positions_BT), device=positions_BT.device)[:, None, None]
    slots = torch.arange(max(used, config.closed()[1]), device=positions_BT.device)[None]  # padding may stand behind
    sees = Mask(slots, prefix_BT=None if given_B is None else keys < given_B[:, None])
    mask = sees(rows, rows, positions_BT[..., None], keys)[:, None]
    sliding_mask = None
    if config.sliding_layers:
        near = sees._replace(window=config.sliding_window)
        sliding_mask = near(rows, rows, positions_BT[..., None], keys)[:, None]
    distances, alibi = _distances(config, positions_BT, keys)
    return Frame(positions_BT, rotation, mask, True, sliding_mask, distances, alibi, slots=slots_BT, used=used)


def _masks(config: Config, sees: Mask, rows: int, queries: int, keys: int) -> tuple[Tensor | None, Tensor | None]:
    """The masks of layers that see all and of those with a sliding window; None: causal, or no such layer."""
    bare = all(field is None for field in (sees.documents_BT, sees.branches_BT, sees.prefix_BT, sees.places_T))
    mask = None if bare else dense(sees, rows, queries, keys)
    if not config.sliding_layers:
        return mask, None
    return mask, dense(sees._replace(window=config.sliding_window), rows, queries, keys)


def _rows(table: Tensor, wanted_BQ: Tensor) -> Tensor:
    """The rows of queries that are wanted of a table that broadcasts to (B, H, T, S)."""
    wide = table.expand(len(wanted_BQ), -1, -1, -1)
    index = wanted_BQ[:, None, :, None].expand(-1, wide.shape[1], -1, wide.shape[3])
    return wide.gather(2, index)


def _distances(config: Config, queries: Tensor, keys: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Distances from keys forward to queries, and what ALiBi adds to scores for them, where they are asked for."""
    if config.positions not in ("alibi", "transformer_xl", "t5"):
        return None, None
    distances = queries[..., :, None] - keys[..., None, :]
    if config.positions != "alibi":
        return distances, None
    # Ahead, where that is seen, scores fall as they do behind.
    far = distances.abs()
    alibi = -slopes(config.heads, queries.device)[:, None, None] * (far if far.dim() == 2 else far[:, None])
    return None, alibi if alibi.dim() == 4 else alibi[None]


def _rotation(config: Config, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    if config.positions != "rotary":
        return None
    return angles(positions, frequencies(config, positions.device), torch.promote_types(dtype, torch.float32))
