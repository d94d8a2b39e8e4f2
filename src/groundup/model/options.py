"""The options that all networks share and the checks between them; importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from groundup.core.config import option
from groundup.core.errors import ConfigError
from groundup.model import count

GATED = ("swiglu", "geglu", "geglu_tanh")
"""Activations that multiply two linear maps (Shazeer 2020)."""


@dataclass(kw_only=True)
class Transformer:
    """A transformer put together from parts; what it sees of a text, and how it is built, its kinds say."""

    kind: str = ""
    mask: str = ""
    # Size
    layers: int = option(12, "blocks, each attention and feed-forward", at_least=1)
    width: int = option(768, "channels of the residual stream", at_least=1)
    heads: int = option(6, "attention heads; must divide width, unless head_dim is given", at_least=1)
    kv_heads: int | None = option(None, "key/value heads, each shared by a group of heads; null: heads", at_least=1)
    head_dim: int | None = option(None, "channels of a head; null: width / heads", at_least=1)
    hidden: int | None = option(
        None,
        "feed-forward width; null: 4 x width, for swiglu and geglu 8/3 x width rounded up to 64",
        at_least=1,
    )
    context: int | None = option(None, "most positions in a window; null: the data's", at_least=1)
    vocabulary: int | None = option(None, "token ids; null: the tokenizer's", at_least=1)
    embedding_width: int | None = option(
        None, "width of the embedding, if a matrix takes it to the stream's and another back (OPT-350m)", at_least=1
    )
    # Positions
    positions: str = option(
        "rotary",
        "how order is known: turned queries and keys, an embedding (learned, sinusoidal), scores that fall with the "
        "distance (alibi) or depend on it (transformer_xl, t5), or the mask alone (none)",
        choices=("rotary", "learned", "sinusoidal", "alibi", "transformer_xl", "t5", "none"),
    )
    buckets: int = option(32, "t5: distances are told apart by so many classes", at_least=4)
    farthest: int = option(128, "t5: from this distance on they are all one class", at_least=2)
    rope_base: float = option(10_000.0, "rotary: longest wavelength / 2 pi, in positions", above=1)
    rope_share: float = option(1.0, "rotary: share of each head's channels that turns", above=0, at_most=1)
    rope_scaling: str | None = option(
        None, "rotary: how wavelengths are stretched for a longer context", choices=("linear", "llama3")
    )
    rope_factor: float = option(8.0, "rope_scaling: by how much", at_least=1)
    rope_low: float = option(1.0, "llama3: wavelengths above rope_original / this are stretched in full", above=0)
    rope_high: float = option(4.0, "llama3: wavelengths below rope_original / this stay", above=0)
    rope_original: int | None = option(None, "llama3: the context before", at_least=1)
    # Attention
    sliding_window: int | None = option(
        None, "a position sees so many, up to itself (Mistral; GPT-3's locally banded layers)", at_least=1
    )
    sliding_every: int = option(
        1, "sliding_window holds in every n-th layer, the n-th first; the others see all", at_least=1
    )
    qk_norm: bool = option(True, "normalise queries and keys of each head")
    kernel: str = option(
        "sdpa",
        "what computes attention: torch's scaled_dot_product_attention (our own on a CPU, for short windows), or "
        "FlexAttention, which skips what a mask hides, compiled, on a GPU",
        choices=("sdpa", "flex"),
        identity=False,
    )
    scaled_scores: bool = option(True, "scores are divided by the square root of head_dim (GPT-Neo and T5: not)")
    attention_bias: bool | None = option(None, "queries, keys and values have biases; null: as bias says")
    output_bias: bool | None = option(None, "attention's output has a bias; null: as attention_bias says")
    # Blocks
    norm: str = option(
        "rms",
        "normalisation of vectors; batch: of each channel over a batch, for masked models; none: with init=t_fixup",
        choices=("rms", "layer", "batch", "none"),
    )
    norm_eps: float = option(1e-5, "added to the variance in a norm", above=0)
    norm_place: str = option(
        "pre",
        "pre: before each part, and at the end; post: behind each sum (Vaswani et al. 2017)",
        choices=("pre", "post"),
    )
    gain: bool = option(False, "norms have a learned gain per channel")
    parallel: str | None = option(
        None,
        "attention and feed-forward read the same stream, by one norm (GPT-J, PaLM) or two (GPT-NeoX); null: in turn",
        choices=("one_norm", "two_norms"),
    )
    activation: str = option("relu2", "of the feed-forward", choices=("relu2", "relu", "gelu", "gelu_tanh", *GATED))
    bias: bool = option(False, "linear maps and layer norms have biases")
    experts: int | None = option(
        None, "feed-forwards of which each position is read by a few (Mixtral); null: one", at_least=2
    )
    experts_per_token: int = option(2, "experts: by how many", at_least=1)
    experts_every: int = option(
        1, "experts stand in every n-th layer, the n-th first; the others are dense", at_least=1
    )
    mixing: bool = option(False, "blocks read a learned mix of the stream and the embedding; 2 numbers a layer")
    value_embeddings: bool = option(
        False, "every other layer adds an embedding of the token to its values; vocabulary x kv channels each"
    )
    # Ends
    embedding_norm: bool = option(True, "normalise the embedding before the first block")
    scaled_embedding: bool = option(False, "embeddings are multiplied by the square root of width")
    segments: int | None = option(
        None, "kinds of text that an embedding tells apart, as a question from its answer (BERT: 2)", at_least=1
    )
    shift: bool = option(False, "each embedding takes up a gated share of the token before; width numbers")
    tied: bool = option(False, "the head uses the embedding's matrix")
    head_bias: bool = option(False, "the head has a bias")
    head_transform: bool = option(False, "the head begins with a linear map, the activation and a norm (BERT)")
    scaled_logits: bool = option(False, "the head reads the stream divided by the square root of width (T5, PaLM)")
    softcap: float | None = option(None, "logits are bounded by this: cap tanh(logits / cap)", above=0)
    # Noise and beginning
    dropout: float = option(0.0, "share dropped of embedding, attention and each residual", at_least=0, below=1)
    attention_dropout: float | None = option(None, "share of attention dropped; null: dropout", at_least=0, below=1)
    embedding_dropout: float | None = option(None, "share of the embedding dropped; null: dropout", at_least=0, below=1)
    init: str = option(
        "modern",
        "how weights begin (see groundup.model.initialise)",
        choices=("modern", "gaussian", "gpt2", "depth", "small", "fan_in", "t_fixup"),
    )
    init_std: float | None = option(None, "of gaussian, gpt2 and depth: standard deviation; null: 0.02", above=0)
    mup_base: int | None = option(
        None, "the width at which rates were found: they and the beginning then hold for this width (muP)", at_least=1
    )
    mup_head_dim: int | None = option(None, "muP: head_dim at that width; null: the same as here", at_least=1)
    init_from: str | None = option(
        None, "begin with the weights of this folder, ours or Hugging Face's; its shape is taken too", identity=False
    )
    init_hash: str | None = option(None, "of these weights; filled in")

    def __post_init__(self) -> None:
        if self.head_dim is None and self.width % self.heads:
            raise ConfigError(
                f"heads={self.heads}", f"does not divide width={self.width}", f"choose from {_divisors(self.width)}"
            )
        if self.heads % self.groups:
            raise ConfigError(
                f"kv_heads={self.kv_heads}",
                f"does not divide heads={self.heads}",
                f"choose from {_divisors(self.heads)}",
            )
        self._check_positions()
        self._check_blocks()
        self._check_norms()
        self._check_kernel()
        if self.init_std is not None and self.init not in ("gaussian", "gpt2", "depth"):
            raise ConfigError(
                f"init_std={self.init_std}", f"has no meaning with init={self.init}", "leave it null or set init=gpt2"
            )
        if self.mup_base is not None and self.init in ("small", "t_fixup"):
            raise ConfigError(
                f"mup_base={self.mup_base}",
                f"is not defined for init={self.init}",
                "set init=gpt2, gaussian, fan_in or modern",
            )
        if self.mup_head_dim is not None and self.mup_base is None:
            raise ConfigError(
                f"mup_head_dim={self.mup_head_dim}",
                "has no meaning without mup_base",
                "leave it null or give mup_base=N",
            )

    def _check_positions(self) -> None:
        rotary = self.positions == "rotary"
        if rotary and (self.rotated % 2 or not self.rotated):
            share = "" if self.rope_share == 1 else f", {self.rotated} of which turn,"
            raise ConfigError(
                f"heads={self.heads}" if self.head_dim is None else f"head_dim={self.head_dim}",
                f"leaves {self.channels} channels per head{share} and rotary positions turn pairs of them",
                "choose heads so that width / heads is even, or positions=learned",
            )
        if not rotary and (self.rope_scaling is not None or self.rope_share != 1):
            what = "rope_scaling" if self.rope_scaling is not None else "rope_share"
            raise ConfigError(
                f"{what}={getattr(self, what)}",
                f"has no meaning with positions={self.positions}",
                "leave it as it is or set positions=rotary",
            )
        if self.rope_scaling == "llama3" and (self.rope_original is None or self.rope_low >= self.rope_high):
            raise ConfigError(
                "rope_scaling=llama3",
                f"needs rope_original, and rope_low={self.rope_low} below rope_high={self.rope_high}",
                "give rope_original=N, the context before it was lengthened",
            )
        if self.positions in ("sinusoidal", "transformer_xl") and self.width % 2:
            raise ConfigError(
                f"width={self.width}",
                f"is odd, and positions={self.positions} are sines and cosines",
                "choose an even width",
            )
        if self.positions == "t5" and self.farthest <= self.buckets // 2:
            raise ConfigError(
                f"farthest={self.farthest}",
                f"leaves buckets={self.buckets} no distances to share",
                f"set it above {self.buckets // 2}",
            )
        if self.sliding_every > self.layers or (self.sliding_window is None and self.sliding_every > 1):
            raise ConfigError(
                f"sliding_every={self.sliding_every}",
                "leaves no layer with a sliding window",
                f"give sliding_window=N and at most sliding_every={self.layers}",
            )

    def _check_blocks(self) -> None:
        if self.norm_place == "post" and self.parallel is not None:
            raise ConfigError(
                f"parallel={self.parallel}",
                "has no meaning with norm_place=post",
                "leave it null or set norm_place=pre",
            )
        if self.norm_place == "post" and self.init == "modern":
            raise ConfigError(
                "init=modern",
                "begins with blocks that add nothing, which norm_place=post does not allow",
                "set init=gpt2",
            )
        if self.mask != "causal" and (self.shift or self.sliding_window is not None):
            what = "shift=true" if self.shift else f"sliding_window={self.sliding_window}"
            raise ConfigError(what, f"looks back only, and mask={self.mask} also ahead", "leave one of them out")
        if self.experts is not None and (self.experts_per_token > self.experts or self.experts_every > self.layers):
            raise ConfigError(
                f"experts={self.experts}",
                f"does not go with experts_per_token={self.experts_per_token} and experts_every={self.experts_every}",
                f"choose at most {self.experts} per token, and at most every {self.layers}th layer",
            )
        if self.experts is not None and self.bias:
            raise ConfigError(
                "bias=true", "is not defined for experts", "set bias=false, attention_bias=true if it is meant"
            )
        if self.embedding_width is not None and self.value_embeddings:
            raise ConfigError(
                "value_embeddings=true", "is not defined for an embedding_width of its own", "leave one of them out"
            )

    def _check_kernel(self) -> None:
        dropped = self.dropout if self.attention_dropout is None else self.attention_dropout
        if self.kernel == "flex" and dropped:
            raise ConfigError("kernel=flex", "drops no attention", "set attention_dropout=0 or kernel=sdpa")
        if self.kernel == "flex" and self.positions in ("alibi", "transformer_xl", "t5"):
            raise ConfigError("kernel=flex", f"does not go with positions={self.positions}", "set kernel=sdpa")

    def _check_norms(self) -> None:
        if self.norm == "batch" and self.mask != "full":
            raise ConfigError(
                "norm=batch",
                "lets a position see, in the batch's statistics, what stands behind it",
                "set norm=layer or rms; batch norm is for encoders trained by objective=masked",
            )
        if self.norm == "batch" and self.qk_norm:
            raise ConfigError("qk_norm=true", "is not defined for norm=batch", "set qk_norm=false")
        if (self.norm == "none") != (self.init == "t_fixup"):
            raise ConfigError(
                f"norm={self.norm}",
                f"does not go with init={self.init}: T-Fixup is how a network without norms begins",
                "set norm=none init=t_fixup qk_norm=false embedding_norm=false, or neither of the first two",
            )
        if self.norm == "none" and (self.qk_norm or self.embedding_norm or self.norm_place == "post"):
            what = "qk_norm=true" if self.qk_norm else "embedding_norm=true"
            what = "norm_place=post" if self.norm_place == "post" else what
            raise ConfigError(what, "has no meaning with norm=none", "set qk_norm=false embedding_norm=false")

    @property
    def channels(self) -> int:
        """Channels per head, C."""
        return self.head_dim or self.width // self.heads

    @property
    def groups(self) -> int:
        """Key/value heads, K."""
        return self.kv_heads or self.heads

    @property
    def rotated(self) -> int:
        """Channels of a head that turn with the position."""
        return int(self.channels * self.rope_share)

    @property
    def embedded(self) -> int:
        """Channels of the embedding, E."""
        return self.embedding_width or self.width

    @property
    def gated(self) -> bool:
        """Whether the feed-forward multiplies two linear maps."""
        return self.activation in GATED

    @property
    def feedforward(self) -> int:
        """Channels inside the feed-forward, F; a gate's third matrix is paid for by 2/3 of them (Shazeer 2020)."""
        if self.hidden is not None:
            return self.hidden
        return -(-8 * self.width // 3 // 64) * 64 if self.gated else 4 * self.width

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def mixed_bias(self) -> bool:
        """Whether attention's output has a bias."""
        return self.qkv_bias if self.output_bias is None else self.output_bias

    @property
    def expert_layers(self) -> list[int]:
        """Layers whose feed-forward has experts."""
        return [] if self.experts is None else list(range(self.experts_every - 1, self.layers, self.experts_every))

    @property
    def expert_count(self) -> int:
        """Feed-forwards in each of these layers, E."""
        return self.experts or 1

    @property
    def sliding_layers(self) -> list[int]:
        """Layers that see `sliding_window` positions alone."""
        every = range(self.sliding_every - 1, self.layers, self.sliding_every)
        return [] if self.sliding_window is None else list(every)

    @property
    def value_layers(self) -> list[int]:
        """Layers that have value embeddings: the last and every second one before it."""
        return [i for i in range(self.layers) if i % 2 == (self.layers - 1) % 2] if self.value_embeddings else []

    def parameters(self) -> dict[str, int]:
        """How many numbers are learned, by use, and in `total` (see `groundup.model.count`)."""
        return count.parameters(self)

    def flops_per_token(self, read: float = 1.0, written: float = 1.0) -> int:
        """Model FLOPs of one training token at full context (see `groundup.model.count`).

        Args:
            read: tokens that the network reads for one of the text.
            written: tokens that it predicts for one of the text.
        """
        return int(read * count.flops_per_token(self, predicted=written / read))

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
