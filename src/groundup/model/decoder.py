"""The decoder: tokens in, likelihoods or logits out; losses, optimizers and text are not its business."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model import frame as frames
from groundup.model.block import Block
from groundup.model.cache import Cache
from groundup.model.count import GATE_CHANNELS
from groundup.model.frame import Frame
from groundup.model.head import IGNORED, PIECE, Head
from groundup.model.initialise import initialise, rate_scales
from groundup.model.linear import Linear
from groundup.model.norm import Norm
from groundup.model.positions import sinusoids

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config


class Shift(nn.Module):
    """Each vector takes up a share of the one before, as a gate on its first channels decides (nanochat's smear)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.channels = min(GATE_CHANNELS, config.width)
        self.gate = nn.Linear(self.channels, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTD: Tensor, joined_BT: Tensor | None, previous_BD: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `previous_BD` stands before the first vector."""
        first = torch.zeros_like(x_BTD[:, :1]) if previous_BD is None else previous_BD[:, None].to(x_BTD.dtype)
        before_BTD = torch.cat((first, x_BTD[:, :-1]), dim=1)
        gate_BT1 = self.scale * torch.sigmoid(self.gate(x_BTD[..., : self.channels]))
        if joined_BT is not None:
            gate_BT1 = gate_BT1 * joined_BT[..., None]
        return x_BTD + (gate_BT1 * before_BTD).to(x_BTD.dtype)


class Trunk(nn.Module):
    """All but the head: embeddings, blocks and the last norm."""

    positions: nn.Embedding | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        vocabulary, context = config.closed()
        self.dropout = config.dropout if config.embedding_dropout is None else config.embedding_dropout
        self.scale = math.sqrt(config.width) if config.scaled_embedding else None
        self.embedding = nn.Embedding(vocabulary, config.embedded)
        own = config.embedding_width is not None
        self.project_in = Linear(config.embedded, config.width, bias=False) if own else None
        self.positions = nn.Embedding(context, config.width) if config.positions == "learned" else None
        self.sinusoidal = config.positions == "sinusoidal"
        self.embedding_norm = Norm(config, config.width) if config.embedding_norm else None
        self.shift = Shift(config) if config.shift else None
        inner = config.groups * config.channels
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocabulary, inner) for i in config.value_layers})
        self.blocks = nn.ModuleDict({str(i): Block(config, i) for i in range(config.layers)})
        self.norm = Norm(config, config.width) if config.norm_place == "pre" else None
        self.project_out = Linear(config.width, config.embedded, bias=False) if own else None

    def forward(
        self,
        tokens_BT: Tensor,
        frame: Frame,
        cache: Cache | None = None,
        last_B: Tensor | None = None,
        wanted_BQ: Tensor | None = None,
        routing: list[Tensor] | None = None,
    ) -> Tensor:
        """The stream for the head, (B, T, E), or (B, Q, E) at the positions that are wanted.

        Args:
            tokens_BT: ids, (B, T) int64.
            frame: positions and mask.
            cache: in generation, the state to go on from; it is brought forward.
            last_B: in generation, the index of each row's last real token.
            wanted_BQ: positions that are wanted; the last block then works for them alone. None: all.
            routing: takes up how uneven each router of experts is.
        """
        x_BTD = self.embedding(tokens_BT)
        if self.project_in is not None:
            x_BTD = self.project_in(x_BTD)
        if self.scale is not None:
            x_BTD = x_BTD * self.scale
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(frame.positions)
        if self.sinusoidal:
            x_BTD = x_BTD + sinusoids(frame.positions, x_BTD.shape[-1], x_BTD.dtype, interleaved=True)
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        if self.shift is not None:
            unshifted_BTD = x_BTD
            x_BTD = self.shift(x_BTD, frame.joined, None if cache is None else cache.previous)
            if cache is not None:
                cache.previous = unshifted_BTD[torch.arange(len(tokens_BT), device=x_BTD.device), last_B].to(
                    cache.previous.dtype
                )
        if self.training:
            x_BTD = functional.dropout(x_BTD, self.dropout)
        first_BTD = x_BTD
        last = str(len(self.blocks) - 1)
        for name, block in self.blocks.items():
            values_BTE = self.values[name](tokens_BT) if name in self.values else None
            layer = None if cache is None else cache.layers[int(name)]
            x_BTD = block(x_BTD, first_BTD, frame, values_BTE, layer, wanted_BQ if name == last else None, routing)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        ended: Tensor = x_BTD if self.project_out is None else self.project_out(x_BTD)
        return ended


class Decoder(nn.Module):
    """A causal transformer (Radford et al. 2019 and what came of it), as its config describes.

    Parameters have plain names, compiled or not (`trunk.embedding.weight`, `trunk.blocks.0.attention.query.weight`,
    `head.weight`); tied networks have no `head.weight`.

    Raises:
        ConfigError: context or vocabulary is still open.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocabulary, self.context = config.closed()
        place = torch.get_default_device()
        with torch.device("meta"):  # torch's own initialisation would cost time and random numbers
            self.trunk = Trunk(config)
            self.head = Head(config)
        if place.type != "meta":
            self.to_empty(device=place)
            initialise(self, config)

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        prefix_BT: Tensor | None = None,
        *,
        with_log_z: bool = False,
        with_routing: bool = False,
    ) -> Any:
        """Likelihoods of targets, or logits.

        Args:
            tokens_BT: ids, (B, T) int64, T at most the context.
            targets_BT: id to be predicted at each position, int64; -100: none.
            documents_BT: number of each token's document; attention stays within it. None: a row is one document.
            positions_BT: position of each token; None: 0, 1, ... in every row.
            prefix_BT: with mask=prefix, whether a token is given, so that all of its document see it; None: none is.
            with_log_z: return the softmax's log-normaliser too.
            with_routing: return how uneven the experts' routers are too (see `groundup.model.experts.router_losses`).

        Returns:
            Without targets, logits (B, T, V). With targets, negative log-likelihoods in nats, (B, T) fp32, zero
            where there is no target; with `with_log_z` or `with_routing` a tuple of these, log Z of every position,
            (B, T) fp32, and the routers' mean for each row, (B, 2) fp32, as far as asked for.

        Raises:
            ValueError: the window is longer than the context, or tokens are given to a causal network.
        """
        if prefix_BT is not None and self.config.mask != "prefix":
            raise ValueError("a causal network sees nothing ahead; build it with mask=prefix")
        if tokens_BT.shape[1] > self.context:
            raise ValueError(f"a window of {tokens_BT.shape[1]} positions in a network for {self.context}")
        frame = frames.window(self.config, tokens_BT, documents_BT, positions_BT, self._dtype, prefix_BT)
        routing: list[Tensor] | None = [] if with_routing else None
        x_BTD = self.trunk(tokens_BT, frame, routing=routing)
        if targets_BT is None:
            return self.head(x_BTD, tied=self._tied)
        nll_BT, log_z_BT = self.head(x_BTD, targets_BT, tied=self._tied)
        found = [nll_BT, *([log_z_BT] if with_log_z else [])]
        if routing:
            found.append(torch.stack(routing).mean(dim=0))
        return tuple(found) if len(found) > 1 else nll_BT

    def compile_(self, **options: Any) -> None:
        """Compile trunk and head in place, apart; names of parameters stay. `options` go to `torch.compile`.

        Each shape of input gets graphs of its own, unless `options` say otherwise.
        """
        options.setdefault("dynamic", False)
        self.trunk.compile(**options)
        self.head.compile_(**options)

    def new_cache(
        self,
        batch: int,
        length: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Cache:
        """Room for `batch` rows of up to `length` tokens each (default: the context), empty."""
        weight = self.trunk.embedding.weight
        return Cache(self.config, batch, length or self.context, device or weight.device, dtype or weight.dtype)

    def decode(self, tokens_BT: Tensor, cache: Cache, counts_B: Tensor | None = None) -> Tensor:
        """Read further tokens of each row and return logits (B, V) behind each row's last one; never compiled.

        Args:
            tokens_BT: ids, (B, T); row b's first counts_B[b] are read, the rest is padding on the right.
            cache: from `new_cache`; it is brought forward.
            counts_B: tokens to read in each row, (B,) int64, at least 1; None: T.

        Raises:
            ValueError: a row outgrows the cache or the context.
        """
        B, T = tokens_BT.shape
        counts_B = torch.full_like(cache.lengths, T) if counts_B is None else counts_B
        frame = frames.cached(self.config, cache, counts_B, T, self._dtype)
        with torch.compiler.set_stance("force_eager"):
            x_BTD = self.trunk(tokens_BT, frame, cache, counts_B - 1)
            last_BD = x_BTD[torch.arange(B, device=x_BTD.device), counts_B - 1]
            logits_BV: Tensor = self.head(last_BD, tied=self._tied)
        cache.lengths = cache.lengths + counts_B
        return logits_BV

    def step(self, tokens_B: Tensor, cache: Cache) -> Tensor:
        """Read one further token of each row and return logits (B, V), as `decode` does, to be compiled.

        It looks at all slots of the cache, so that no shape depends on how many are used, and checks no bounds.

        Args:
            tokens_B: ids, (B,).
            cache: with room for one more in each row; it is brought forward.
        """
        frame = frames.following(self.config, cache, self._dtype)
        x_BTD = self.trunk(tokens_B[:, None], frame, cache, torch.zeros_like(cache.lengths))
        logits_BV: Tensor = self.head(x_BTD[:, 0], tied=self._tied)
        cache.lengths = cache.lengths + 1
        return logits_BV

    @torch.no_grad()
    def likelihoods(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        branches_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """How likely targets are and whether they are the likeliest ids; logits are made for them alone.

        Never compiled, since no two calls need be of one shape, and without gradient.

        Args:
            tokens_BT: ids, (B, T) int64; padding stands on the right.
            targets_BT: id to be predicted at each position, int64; -100: none.
            branches_BT: number of each token's branch, 0 for what all branches of its row begin with: a token sees
                that beginning and its own branch. None: a row is one text. See `reads_branches`.
            positions_BT: position of each token, where rows have branches.

        Returns:
            Of the N targets, row by row: negative log-likelihoods in nats, (N,) fp32, and whether no id is likelier,
            (N,) bool.
        """
        with torch.compiler.set_stance("force_eager"):
            has_BT = targets_BT != IGNORED
            if branches_BT is not None and positions_BT is not None:
                frame = frames.branched(self.config, branches_BT, positions_BT, self._dtype)
            else:
                # What stands up to the first target is given.
                given_BT = has_BT.cumsum(dim=1) - has_BT.long() == 0 if self.config.mask == "prefix" else None
                frame = frames.window(self.config, tokens_BT, None, None, self._dtype, given_BT)
            # The targeted positions of each row, in their order, and others where it has fewer than the most.
            wanted_BQ = (~has_BT).int().argsort(dim=1, stable=True)[:, : int(has_BT.sum(dim=1).max())]
            has_BQ = has_BT.gather(1, wanted_BQ)
            x_ND = self.trunk(tokens_BT, frame, wanted_BQ=wanted_BQ)[has_BQ]
            targets_N = targets_BT.gather(1, wanted_BQ)[has_BQ]
            rows = max(1, PIECE.get(x_ND.device.type, PIECE["cuda"]) // self.vocabulary)
            nll, greedy = [], []
            for start in range(0, max(1, len(x_ND)), rows):
                logits, targets = (
                    self.head(x_ND[start : start + rows], tied=self._tied).float(),
                    targets_N[start : start + rows],
                )
                nll.append(functional.cross_entropy(logits, targets, reduction="none"))
                greedy.append(logits.argmax(dim=-1) == targets)
        return torch.cat(nll), torch.cat(greedy)

    def rate_scales(self) -> dict[str, float]:
        """By what rates of parameters are multiplied, by name; those not named by 1 (muP)."""
        return rate_scales(self, self.config)

    @property
    def routes(self) -> bool:
        """Whether there are experts, so that `with_routing` says something."""
        return bool(self.config.expert_layers)

    @property
    def reads_branches(self) -> bool:
        """Whether `likelihoods` takes rows with branches."""
        return not self.config.shift and self.config.mask == "causal"

    @property
    def _tied(self) -> Tensor | None:
        return self.trunk.embedding.weight if self.config.tied else None

    @property
    def _dtype(self) -> torch.dtype:
        return self.trunk.embedding.weight.dtype
