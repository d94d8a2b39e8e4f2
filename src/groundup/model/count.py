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
        matrix: multiplied with every position's vector; with the head, unless it is tied (then it stands in
            embedding).
        vector: gains, biases and scalars.
        total: all, each counted once.

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    vocabulary, context = config.closed()
    width, layers = config.width, config.layers
    kv = config.groups * config.channels
    embedding = vocabulary * width + len(config.value_layers) * vocabulary * kv
    if config.positions == "learned":
        embedding += context * width
    gate = min(GATE_CHANNELS, width)
    matrix = layers * (_attention(config) + _feedforward(config)) + len(config.value_layers) * config.groups * gate
    matrix += 0 if config.tied else vocabulary * width
    if config.shift:
        matrix += gate
    vector = _vectors(config)
    return {"embedding": embedding, "matrix": matrix, "vector": vector, "total": embedding + matrix + vector}


def flops_per_token(config: Decoder, context: int | None = None) -> int:
    """Model FLOPs of a training token, forward and backward, as PaLM counts them (Chowdhery et al. 2022, appendix B).

        6 N + 12 L H C T

    N counts the numbers in matrices, with the output head (tied or not) and without the embedding look-up; each is
    used in one multiplication and one addition forward and twice as many backward. L layers of H heads with C
    channels attend to T positions: scores and weighted sum are 2 x 2 H C T forward. PaLM's convention does not
    halve this for the causal mask, and neither does this function; work repeated to save memory never counts.

    Args:
        config: the network.
        context: T, the positions of the windows trained on; None: the config's.

    Raises:
        ConfigError: vocabulary or context is still open.
    """
    vocabulary, longest = config.closed()
    matrix = parameters(config)["matrix"] + (vocabulary * config.width if config.tied else 0)
    return 6 * matrix + 12 * config.layers * config.width * (longest if context is None else context)


def _attention(config: Decoder) -> int:
    return 2 * config.width * config.width + 2 * config.width * config.groups * config.channels


def _feedforward(config: Decoder) -> int:
    return (3 if config.activation == "swiglu" else 2) * config.width * config.feedforward


def _vectors(config: Decoder) -> int:
    width, layers, kv = config.width, config.layers, config.groups * config.channels
    per_channel = int(config.gain) + int(config.bias and config.norm == "layer")
    norms = (2 * layers + 1 + int(config.embedding_norm)) * width
    if config.qk_norm:
        norms += layers * 2 * config.channels
    total = norms * per_channel
    if config.bias:
        total += layers * (2 * width + 2 * kv)
        total += layers * ((2 if config.activation == "swiglu" else 1) * config.feedforward + width)
    if config.mixing:
        total += 2 * layers
    if config.shift:
        total += 1
    return total
