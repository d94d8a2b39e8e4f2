"""Parameters and FLOPs of a network from its config by integer arithmetic; it builds nothing and needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from groundup.model.config import EncoderDecoder
    from groundup.model.options import Transformer

GATE_CHANNELS = 32
"""Channels of the stream (at most) that a value or shift gate looks at."""


Counts = dict[str, int]
USES = ("embedding", "matrix", "vector")


def parameters(config: Transformer) -> Counts:
    """How many numbers are learned, by what they are used for.

    Returns:
        embedding: looked up by token or position: token, position, segment, distance and value embeddings.
        matrix: multiplied with every position's vector, or with some positions' (experts); with the head, unless it
            is tied (then it stands in embedding).
        vector: gains, biases and scalars.
        total: all, each counted once.

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    return _sum(ends(config), between(config))


def flops_per_token(config: Transformer, context: int | None = None, predicted: float = 1.0) -> int:
    """Model FLOPs of a training token, forward and backward, as PaLM counts them (Chowdhery et al. 2022, appendix B).

        6 N + 12 L H C T

    N counts the numbers in matrices, with the output head (tied or not) and without the embedding look-up, and of
    experts those that read a position; each is used in one multiplication and one addition forward and twice as many
    backward. L layers of H heads with C channels attend to T positions: scores and weighted sum are 2 x 2 H C T
    forward, and Transformer-XL's scores of distances another 2 H C T. PaLM's convention does not halve this for the
    causal mask, and neither does this function, but a sliding window is counted as wide as it is; work repeated to
    save memory never counts.

    Args:
        config: the network.
        context: T, the positions of the windows trained on; None: the config's.
        predicted: share of the positions whose vectors the head reads (masked models).

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    T = config.closed()[1] if context is None else context
    return int(6 * (_read(config) + predicted * _head(config)) + _scores(config, T))


def flops_of_both(config: EncoderDecoder, read: float, written: float) -> int:
    """The same of an encoder-decoder, which for one token of a text reads some and writes others.

    Cross-attention makes keys and values of what is read, and queries and outputs of what is written.

    Args:
        config: the network.
        read: tokens that the encoder reads for one of the text.
        written: tokens that the decoder writes for one of the text.

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    T = config.closed()[1]
    queries, kv = config.heads * config.channels, config.groups * config.channels
    crossing = 2 * config.layers * config.width
    by_read = 6 * (_read(config.encoder) + crossing * kv) + _scores(config.encoder, read * T)
    by_written = 6 * (_read(config) + crossing * queries + _head(config)) + _scores(config, written * T)
    by_written += 12 * config.layers * queries * read * T
    return int(read * by_read + written * by_written)


def _sum(*parts: Counts) -> Counts:
    """Counts by use together, and their total."""
    found = {use: sum(part[use] for part in parts) for use in USES}
    return {**found, "total": sum(found.values())}


def _read(config: Transformer) -> int:
    """Numbers of a stack's matrices that read every position."""
    unread = (config.expert_count - config.experts_per_token) * _feedforward(config) if config.experts else 0
    own = 2 * config.embedding_width * config.width if config.embedding_width is not None else 0
    return _stack(config)["matrix"] + own - len(config.expert_layers) * unread


def _head(config: Transformer) -> int:
    """Numbers of the head's matrices, its own or the embedding's."""
    transform = config.embedded**2 if config.head_transform else 0
    return config.closed()[0] * config.embedded + transform


def _scores(config: Transformer, length: float) -> float:
    """FLOPs of a position's attention to windows of some length, forward and backward."""
    sliding = len(config.sliding_layers)
    seen = (config.layers - sliding) * length + sliding * min(length, config.sliding_window or length)
    products = 18 if config.positions == "transformer_xl" else 12
    return products * config.heads * config.channels * seen


def between(config: Transformer) -> Counts:
    """What stands between the embedding of tokens, which an encoder-decoder's stacks share, and the head."""
    encoder = getattr(config, "encoder", None)
    if encoder is None:
        return _sum(_stack(config))
    return _sum(_stack(encoder), _stack(config), _crossing(cast("EncoderDecoder", config)))


def experts(config: Transformer) -> int:
    """How many of the numbers in matrices are those of all experts, without their routers'."""
    stacks = [stack for stack in (config, getattr(config, "encoder", None)) if stack is not None]
    return sum(len(stack.expert_layers) * stack.expert_count * _feedforward(stack) for stack in stacks)


def ends(config: Transformer) -> Counts:
    """What stands before and behind the stacks: the embedding of tokens and the head."""
    vocabulary, _ = config.closed()
    matrix = 0 if config.tied else vocabulary * config.embedded
    if config.embedding_width is not None:
        matrix += 2 * config.embedding_width * config.width
    vector = vocabulary if config.head_bias else 0
    if config.head_transform:
        matrix += config.embedded**2
        vector += (int(config.bias) + _per_channel(config)) * config.embedded
    return {"embedding": vocabulary * config.embedded, "matrix": matrix, "vector": vector}


def _stack(config: Transformer) -> Counts:
    """All else of a network of one stack."""
    vocabulary, context = config.closed()
    values = len(config.value_layers)
    embedding = values * vocabulary * config.groups * config.channels + (config.segments or 0) * config.width
    if config.positions == "learned":
        embedding += context * config.width
    if config.positions == "t5":
        embedding += config.buckets * config.heads
    gate = min(GATE_CHANNELS, config.width)
    matrix = config.layers * (_attention(config) + _feedforward(config)) + values * config.groups * gate
    sparse = len(config.expert_layers)
    matrix += sparse * ((config.expert_count - 1) * _feedforward(config) + config.expert_count * config.width)
    if config.positions == "transformer_xl":
        matrix += config.layers * config.width * config.heads * config.channels
    if config.shift:
        matrix += gate
    return {"embedding": embedding, "matrix": matrix, "vector": _vectors(config)}


def _crossing(config: EncoderDecoder) -> Counts:
    """The decoder's attention to what the encoder has read, with its norms."""
    vector = config.layers * (_biases(config) + _per_channel(config) * config.width)
    if config.qk_norm:
        vector += config.layers * 2 * config.channels * _per_channel(config)
    return {"embedding": 0, "matrix": config.layers * _attention(config), "vector": vector}


def _attention(config: Transformer) -> int:
    queries, kv = config.heads * config.channels, config.groups * config.channels
    return config.width * (2 * queries + 2 * kv)


def _feedforward(config: Transformer) -> int:
    return (3 if config.gated else 2) * config.width * config.feedforward


def _per_channel(config: Transformer) -> int:
    """Numbers that a norm has for a channel."""
    if config.norm == "none":
        return 0
    return int(config.gain) + int(config.bias and config.norm != "rms")


def _biases(config: Transformer) -> int:
    """Of one attention."""
    queries, kv = config.heads * config.channels, config.groups * config.channels
    return (queries + 2 * kv) * int(config.qkv_bias) + config.width * int(config.mixed_bias)


def _vectors(config: Transformer) -> int:
    width, layers, per_channel = config.width, config.layers, _per_channel(config)
    norms = layers * (1 if config.parallel == "one_norm" else 2) + int(config.norm_place == "pre")
    total = per_channel * (norms + int(config.embedding_norm)) * width + layers * _biases(config)
    if config.qk_norm:
        total += per_channel * layers * 2 * config.channels
    if config.bias:
        total += layers * ((2 if config.gated else 1) * config.feedforward + width)
    if config.positions == "transformer_xl":
        total += layers * 2 * config.heads * config.channels
    if config.mixing:
        total += 2 * layers
    if config.shift:
        total += 1
    return total
