"""Options of the networks and the checks between them; importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError
from groundup.model import count

if TYPE_CHECKING:
    from groundup.model.decoder import Decoder as Net

group("model", "the network that is trained: its shape, its parts and how its weights begin")


@schema("model", "decoder")
class Decoder:
    """A causal decoder-only transformer, put together from parts; the defaults are a modern recipe.

    GPT-2 (Radford et al. 2019) is `positions=learned norm=layer gain=true embedding_norm=false qk_norm=false
    activation=gelu_tanh tied=true bias=true init=gpt2`; Llama (Touvron et al. 2023) differs from the defaults by
    `gain=true embedding_norm=false qk_norm=false activation=swiglu init=gpt2`.
    """

    layers: int = option(12, "blocks, each attention and feed-forward", at_least=1)
    width: int = option(768, "channels of the residual stream", at_least=1)
    heads: int = option(6, "attention heads; must divide width", at_least=1)
    kv_heads: int | None = option(None, "key/value heads, each shared by a group of heads; null: heads", at_least=1)
    hidden: int | None = option(
        None, "feed-forward width; null: 4 x width, for swiglu 8/3 x width rounded up to 64", at_least=1
    )
    context: int | None = option(None, "most positions in a window; null: the data's", at_least=1)
    vocabulary: int | None = option(None, "token ids; null: the tokenizer's", at_least=1)
    positions: str = option("rotary", "how order is known", choices=("rotary", "learned"))
    rope_base: float = option(10_000.0, "rotary: longest wavelength / 2 pi, in positions", above=1)
    norm: str = option("rms", "normalisation before each part and at the end", choices=("rms", "layer"))
    norm_eps: float = option(1e-5, "added to the variance in a norm", above=0)
    gain: bool = option(False, "norms have a learned gain per channel")
    embedding_norm: bool = option(True, "normalise the embedding before the first block")
    qk_norm: bool = option(True, "normalise queries and keys of each head")
    activation: str = option("relu2", "of the feed-forward", choices=("relu2", "gelu", "gelu_tanh", "swiglu"))
    bias: bool = option(False, "linear maps and layer norms have biases")
    tied: bool = option(False, "the head uses the embedding's matrix")
    dropout: float = option(0.0, "share dropped of embedding, attention and each residual", at_least=0, below=1)
    softcap: float | None = option(None, "logits are bounded by this: cap tanh(logits / cap)", above=0)
    mixing: bool = option(False, "blocks read a learned mix of the stream and the embedding; 2 numbers a layer")
    value_embeddings: bool = option(
        False, "every other layer adds an embedding of the token to its values; vocabulary x kv channels each"
    )
    shift: bool = option(False, "each embedding takes up a gated share of the token before; width numbers")
    init: str = option("modern", "how weights begin (see groundup.model.initialise)", choices=("modern", "gpt2"))
    init_std: float | None = option(None, "init=gpt2: standard deviation; null: 0.02", above=0)
    init_from: str | None = option(
        None, "begin with the weights of this folder, ours or Hugging Face's; its shape is taken too", identity=False
    )
    init_hash: str | None = option(None, "of these weights; filled in")

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"heads={self.heads}", f"does not divide width={self.width}", f"choose from {_divisors(self.width)}"
            )
        if self.heads % self.groups:
            raise ConfigError(
                f"kv_heads={self.kv_heads}",
                f"does not divide heads={self.heads}",
                f"choose from {_divisors(self.heads)}",
            )
        if self.positions == "rotary" and self.channels % 2:
            raise ConfigError(
                f"heads={self.heads}",
                f"leaves {self.channels} channels per head, and rotary positions turn pairs of them",
                "choose heads so that width / heads is even, or positions=learned",
            )
        if self.init_std is not None and self.init != "gpt2":
            raise ConfigError(
                f"init_std={self.init_std}", f"has no meaning with init={self.init}", "leave it null or set init=gpt2"
            )

    @property
    def channels(self) -> int:
        """Channels per head, C."""
        return self.width // self.heads

    @property
    def groups(self) -> int:
        """Key/value heads, K."""
        return self.kv_heads or self.heads

    @property
    def feedforward(self) -> int:
        """Channels inside the feed-forward, F; SwiGLU's third matrix is paid for by 2/3 of them (Shazeer 2020)."""
        if self.hidden is not None:
            return self.hidden
        return -(-8 * self.width // 3 // 64) * 64 if self.activation == "swiglu" else 4 * self.width

    @property
    def value_layers(self) -> list[int]:
        """Layers that have value embeddings: the last and every second one before it."""
        return [i for i in range(self.layers) if i % 2 == (self.layers - 1) % 2] if self.value_embeddings else []

    def parameters(self) -> dict[str, int]:
        """How many numbers are learned, by use, and in `total` (see `groundup.model.count`)."""
        return count.parameters(self)

    def flops_per_token(self) -> int:
        """Model FLOPs of one training token at full context (see `groundup.model.count`)."""
        return count.flops_per_token(self)

    def build(self) -> Net:
        """The network with weights drawn from torch's generator; under `torch.device("meta")` without memory.

        Raises:
            ConfigError: context or vocabulary is still open.
        """
        from groundup.model import decoder

        self.closed()
        return decoder.Decoder(self)

    def closed(self) -> tuple[int, int]:
        """Vocabulary and context, once both are known.

        Raises:
            ConfigError: one of them is null.
        """
        if self.vocabulary is None:
            raise ConfigError("vocabulary", "is null and there is no tokenizer to take it from", "give vocabulary=N")
        if self.context is None:
            raise ConfigError("context", "is null and there is no data to take it from", "give context=N")
        return self.vocabulary, self.context


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
