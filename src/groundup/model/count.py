"""Parameters and FLOPs of a network from its config by integer arithmetic; it builds nothing and needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundup.model.config import Decoder

GATE_CHANNELS = 32
"""Channels of the stream (at most) that a value or shift gate looks at."""


def parameters(config: Decoder) -> dict[str, int]:
    """How many numbers are learned, by what they are used for.

    Returns:
        embedding: looked up by token or position: token, learned position and value embeddings.
        matrix: multiplied with every position's vector, or with some positions' (experts); with the head, unless it
            is tied (then it stands in embedding).
        vector: gains, biases and scalars.
        total: all, each counted once.

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    vocabulary, context = config.closed()
    kv = config.groups * config.channels
    embedding = vocabulary * config.embedded + len(config.value_layers) * vocabulary * kv
    if config.positions == "learned":
        embedding += context * config.width
    gate = min(GATE_CHANNELS, config.width)
    sparse = len(config.expert_layers)
    matrix = (
        config.layers * (_attention(config) + _feedforward(config)) + len(config.value_layers) * config.groups * gate
    )
    matrix += sparse * ((config.expert_count - 1) * _feedforward(config) + config.expert_count * config.width)
    matrix += 0 if config.tied else vocabulary * config.embedded
    if config.embedding_width is not None:
        matrix += 2 * config.embedding_width * config.width
    if config.shift:
        matrix += gate
    vector = _vectors(config)
    return {"embedding": embedding, "matrix": matrix, "vector": vector, "total": embedding + matrix + vector}


def flops_per_token(config: Decoder, context: int | None = None) -> int:
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

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    vocabulary, longest = config.closed()
    matrix = parameters(config)["matrix"] + (vocabulary * config.embedded if config.tied else 0)
    unread = (config.expert_count - config.experts_per_token) * _feedforward(config) if config.experts else 0
    matrix -= len(config.expert_layers) * unread
    T = longest if context is None else context
    sliding = len(config.sliding_layers)
    seen = (config.layers - sliding) * T + sliding * min(T, config.sliding_window or T)
    products = 18 if config.positions == "transformer_xl" else 12
    return 6 * matrix + products * config.heads * config.channels * seen


def _attention(config: Decoder) -> int:
    queries, kv = config.heads * config.channels, config.groups * config.channels
    distances = queries if config.positions == "transformer_xl" else 0
    return config.width * (2 * queries + 2 * kv + distances)


def _feedforward(config: Decoder) -> int:
    return (3 if config.gated else 2) * config.width * config.feedforward


def _vectors(config: Decoder) -> int:
    width, layers = config.width, config.layers
    queries, kv = config.heads * config.channels, config.groups * config.channels
    per_channel = int(config.gain) + int(config.bias and config.norm == "layer")
    norms = layers * (1 if config.parallel == "one_norm" else 2) + int(config.norm_place == "pre")
    total = per_channel * (norms + int(config.embedding_norm)) * width
    if config.qk_norm:
        total += per_channel * layers * 2 * config.channels
    if config.bias:
        total += layers * ((2 if config.gated else 1) * config.feedforward + width)
    total += layers * (queries + 2 * kv) * int(config.qkv_bias) + layers * width * int(config.mixed_bias)
    if config.positions == "transformer_xl":
        total += layers * 2 * queries
    if config.head_bias:
        total += config.closed()[0]
    if config.mixing:
        total += 2 * layers
    if config.shift:
        total += 1
    return total
