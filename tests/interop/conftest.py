"""Small networks of each family with weights that are no special case, and tokenizers of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from groundup.model.config import Decoder, Encoder, EncoderDecoder
from groundup.model.load import save
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.config import BPE
from groundup.tokenizer.huggingface import from_gpt2
from groundup.tokenizer.protocol import Tokenizer


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    """Byte pairs trained on Python's documentation topics."""
    return BPE(vocabulary=1200).build(lambda: iter(topics.values()))


@pytest.fixture(scope="session")
def tokenizers(bpe: Tokenizer) -> dict[str, Tokenizer]:
    """One tokenizer of each kind that can be exported."""
    from groundup.tokenizer.huggingface import byte_characters

    pieces = [*byte_characters().values(), "th", "the", "<|endoftext|>"]
    gpt2 = from_gpt2({piece: i for i, piece in enumerate(pieces)}, ["t h", "th e"], "here")
    return {"bpe": bpe, "bytes": Bytes(), "gpt2": gpt2}


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """A model folder as a finished run leaves it: every weight random, gains too."""

    def make(tokenizer: Tokenizer, kind: str = "decoder", **parts: Any) -> Path:
        shape = {"layers": 2, "width": 64, "heads": 4, "context": 48, "vocabulary": tokenizer.vocabulary}
        kinds: dict[str, Any] = {"decoder": Decoder, "encoder": Encoder, "encoder_decoder": EncoderDecoder}
        config = kinds[kind](**{**shape, **parts})
        torch.manual_seed(1)
        net = config.build()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                centre = 1.0 if name.endswith("norm.weight") else 0.0
                parameter.normal_(centre, 0.5 if "embedding" in name else 0.2)
        folder = tmp_path / "run"
        save(net, config, folder)
        tokenizer.save(folder / "tokenizer")
        return folder

    return make
