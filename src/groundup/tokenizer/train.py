"""Training of a byte-pair vocabulary (Sennrich et al. 2016) on a sample of texts, wherever they come from."""

from __future__ import annotations

import hashlib
import heapq
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import sentencepiece

from groundup.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from groundup.tokenizer.config import BPE

THREADS = 4  # fixed: the number is written into the model, which is the same on any machine
_CHUNK = re.compile(r".{1,4000}(?= )|.{1,4000}", re.DOTALL)


def train(config: BPE, texts: Iterable[str]) -> bytes:
    """The bytes of a lossless SentencePiece BPE model, the same for the same texts in any order.

    No normalisation; runs of spaces are pieces; what has no piece is written in bytes. Ids: 0 is never used (the
    library wants an unknown piece), 1 ends a document, 2..257 are bytes.

    Raises:
        ConfigError: the texts cannot give a vocabulary of that size.
        DataError: there is no text.
    """
    chunks = sample(texts, round(config.sample_mb * 1e6), config.seed)
    if not chunks:
        raise DataError("tokenizer", "there is no text to train on", "give a source that has some")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chunks),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocabulary,
            character_coverage=config.coverage,
            split_digits=config.split_digits,
            max_sentencepiece_length=config.longest_piece,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=1 << 20,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _told(config.vocabulary, str(error)) from None
    return model.getvalue()


def sample(texts: Iterable[str], limit: int, seed: int) -> list[str]:
    """Pieces of the texts of at most 4,000 characters, up to `limit` bytes of UTF-8 in all.

    Those with the smallest keyed hashes are kept, so the choice does not depend on the order of the texts, and
    memory stays near `limit`.
    """
    key = seed.to_bytes(16, "little", signed=True)
    kept: list[tuple[int, str]] = []
    held, ceiling = 0, 1 << 64  # a chunk ranked above one that was given up would make the choice depend on order
    for text in texts:
        for chunk in _CHUNK.findall(text.replace("\0", " ")):
            content = chunk.encode()
            rank = int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "big")
            if rank >= ceiling:
                continue
            heapq.heappush(kept, (-rank, chunk))
            held += len(content)
            while kept and (held > limit or -kept[0][0] >= ceiling):
                negative, given_up = heapq.heappop(kept)
                held, ceiling = held - len(given_up.encode()), -negative
    return [chunk for _, chunk in sorted(kept, reverse=True)]


def _told(vocabulary: int, message: str) -> ConfigError:
    where = f"vocabulary={vocabulary}"
    if found := re.search(r"<= (\d+)", message):
        return ConfigError(where, "the text is too small for so many pieces", f"set it to at most {found[1]}")
    if found := re.search(r"required_chars\D+\d+ vs (\d+)", message):
        what = f"is too small for the characters of the text (needs above {found[1]})"
        return ConfigError(where, what, "raise it or lower coverage")
    return ConfigError(where, f"training failed ({message})", "try another vocabulary or coverage")
