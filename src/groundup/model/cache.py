"""Keys and values of tokens already read, so that generation reads each once; it knows nothing of sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config


class LayerCache:
    """One layer's keys and values; slot j of a row belongs to its position j.

    Attributes:
        keys: (B, slots, K, C).
        values: like keys.
        memory: keys and values of the text that an encoder has read, (B, S, K, C) each, or None.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.memory: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor, slots_BT: Tensor | None, used: int) -> tuple[Tensor, Tensor]:
        """Store (B, T, K, C) keys and values in their slots; return those of the first `used` slots, likewise.

        Without slots they go to the last T of these.
        """
        if slots_BT is None:
            self.keys[:, used - key.shape[1] : used] = key
            self.values[:, used - key.shape[1] : used] = value
        else:
            rows = torch.arange(len(key), device=key.device)[:, None]
            self.keys[rows, slots_BT] = key.to(self.keys.dtype)
            self.values[rows, slots_BT] = value.to(self.values.dtype)
        return self.keys[:, :used].to(key.dtype), self.values[:, :used].to(value.dtype)


class Cache:
    """The state of a batch of rows in generation; rows may be of unequal length.

    A row's tokens stand at positions 0, 1, ... of its own. Padding goes to one slot behind all others, which no
    query sees.

    Attributes:
        layers: a `LayerCache` per layer.
        size: tokens that a row can hold.
        lengths: (B,) int64, tokens read in each row.
        previous: (B, D), embedding of each row's last token, where the trunk shifts tokens.
        rotation: of every position that a row can hold, once it is known.
        memory_mask: bool, which tokens of its source each row sees, (B, 1, 1, S), where an encoder has read one.
    """

    def __init__(
        self, config: Config, groups: int, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (batch, length + 1, groups, config.channels)  # of the config's groups, those that are here
        self.layers = [
            LayerCache(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))
            for _ in range(config.layers)
        ]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.previous = torch.zeros(batch, config.width if config.shift else 0, device=device, dtype=dtype)
        self.size = length
        self.rotation: tuple[Tensor, Tensor] | None = None
        self.memory_mask: Tensor | None = None

    def remember(self, other: Cache, rows: Tensor) -> None:
        """Have for sources those of some rows of another cache of the same network."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if theirs.memory is not None:
                mine.memory = theirs.memory[0][rows], theirs.memory[1][rows]
        self.memory_mask = None if other.memory_mask is None else other.memory_mask[rows]

    def put(self, rows: Tensor, other: Cache) -> None:
        """Replace the rows with these numbers by all the rows of another cache of the same network."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.keys[rows, : other.size] = theirs.keys[:, : other.size]
            mine.values[rows, : other.size] = theirs.values[:, : other.size]
        self.lengths[rows] = other.lengths
        self.previous[rows] = other.previous

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but those with these numbers, in this order."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self.remember(self, rows)
        self.lengths, self.previous = self.lengths[rows], self.previous[rows]
