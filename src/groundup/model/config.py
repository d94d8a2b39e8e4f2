"""The kinds of networks: what each sees of a text, and of which stacks it is built; importing this imports no torch."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError
from groundup.model import count
from groundup.model.options import Transformer

if TYPE_CHECKING:
    from groundup.model import decoder, encoder, encoder_decoder

group("model", "the network that is trained: its shape, its parts and how its weights begin")


@schema("model", "decoder")
class Decoder(Transformer):
    """A decoder-only transformer, put together from parts; the defaults are a modern recipe.

    A published model is a few of these options: see `conf/model`, where each has its file.
    """

    mask: str = option(
        "causal",
        "what a position sees: those before it, or also all of what is given (prefix LM)",
        choices=("causal", "prefix"),
    )

    def build(self) -> decoder.Decoder:
        """The network with weights drawn from torch's generator; under `torch.device("meta")` without memory.

        Raises:
            ConfigError: context or vocabulary is still open.
        """
        from groundup.model import decoder

        return decoder.Decoder(self)


@schema("model", "encoder")
class Encoder(Transformer):
    """An encoder-only transformer, in which every position sees all of its document, of the same parts (BERT)."""

    mask: str = option("full", "what a position sees: an encoder's all of its document", choices=("full",))

    def build(self) -> encoder.Encoder:
        """The network with weights drawn from torch's generator; under `torch.device("meta")` without memory.

        Raises:
            ConfigError: context or vocabulary is still open.
        """
        from groundup.model import encoder

        return encoder.Encoder(self)


@schema("model", "encoder_decoder")
class EncoderDecoder(Transformer):
    """An encoder that reads a text and a decoder that writes another, of the same parts (Vaswani et al. 2017; T5).

    Both stacks have one embedding of tokens, and every option holds for both.
    """

    mask: str = option("causal", "what a position of the decoder sees: those before it", choices=("causal",))
    encoder_layers: int | None = option(None, "blocks of the encoder; null: layers, as many as the decoder", at_least=1)
    start: int | None = option(
        None, "id that what the decoder writes begins with; null: the end of a document", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("shift", self.shift), ("sliding_window", self.sliding_window)):
            if value:
                given = str(value).lower() if isinstance(value, bool) else value
                raise ConfigError(f"{name}={given}", "looks back only, and an encoder also ahead", "leave it out")
        for name in ("parallel", "embedding_width"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name}={getattr(self, name)}", "is not defined for two stacks", "leave it null")

    @property
    def encoder(self) -> Encoder:
        """The encoder's stack as a network of its own."""
        shared = {entry.name: getattr(self, entry.name) for entry in fields(Transformer)}
        layers = self.encoder_layers or self.layers
        own = {"layers": layers, "experts_every": min(self.experts_every, layers)}
        return Encoder(**{**shared, **own, "kind": "encoder", "mask": "full"})

    def flops_per_token(self, read: float = 1.0, written: float = 1.0) -> int:
        """The same, of tokens that the encoder reads and that the decoder writes."""
        return count.flops_of_both(self, read, written)

    def build(self) -> encoder_decoder.EncoderDecoder:
        """The network with weights drawn from torch's generator; under `torch.device("meta")` without memory.

        Raises:
            ConfigError: context or vocabulary is still open.
        """
        from groundup.model import encoder_decoder

        return encoder_decoder.EncoderDecoder(self)
