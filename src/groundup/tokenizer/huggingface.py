"""Tokenizers of Hugging Face's library, GPT-2's files among them; it adds no special id to a text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from groundup.core.errors import ConfigError, DataError, nearest
from groundup.core.files import atomic_json, atomic_write
from groundup.tokenizer.dropout import Merges
from groundup.tokenizer.protocol import CARD, Ids
from groundup.tokenizer.sentence import SPACE
from groundup.tokenizer.table import BYTES, Table, byte_of

FILE = "tokenizer.json"
GPT2_END = "<|endoftext|>"
ENDS = (GPT2_END, "</s>", "<|end_of_text|>", "<eos>", "<|end▁of▁sentence|>", "<|im_end|>", "[SEP]")
"""Pieces that end a document in well-known tokenizers, in order of preference."""


class HuggingFace:
    """A tokenizer described by the text of a `tokenizer.json`.

    Args:
        text: the JSON.
        where: the file, for errors.
        end: the piece that ends a document; None for the first of `ENDS` that is a special piece.

    Raises:
        DataError: it is no tokenizer, or one whose pieces do not say which bytes they stand for.
        ConfigError: there is no such piece `end`, or none is given and none is known.
    """

    def __init__(self, text: str, where: str, *, end: str | None = None) -> None:
        try:
            self._library = Library.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(where, f"is no tokenizer.json ({error})", "give one that `tokenizers` can read") from None
        self._library.no_padding()
        self._library.no_truncation()
        self._library.encode_special_tokens = True
        self._library.post_processor = None
        self._description: dict[str, Any] = json.loads(self._library.to_str())
        self._kinds = set(_types(self._description["decoder"]))
        if not self._kinds & {"ByteLevel", "Metaspace", "ByteFallback", "Replace", "WordPiece"}:
            what = f"its decoder ({', '.join(sorted(self._kinds)) or 'none'}) does not say what pieces stand for"
            raise DataError(where, what, "give a byte-level, SentencePiece-like or WordPiece tokenizer")
        self.threads = 1
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocabulary = max(vocabulary.values()) + 1
        self.end = self._find_end(end)
        self._table = Table(*self._pieces())

    def _find_end(self, piece: str | None) -> int:
        special = {t["content"]: int(t["id"]) for t in self._description["added_tokens"] if t["special"]}
        if piece is not None:
            found = self._library.token_to_id(piece)
            if found is None:
                raise ConfigError(f"end={piece}", "is no piece of this tokenizer", nearest(piece, list(special)[:8]))
            return int(found)
        for known in ENDS:
            if known in special:
                return special[known]
        some = ", ".join(list(special)[:8]) or "it has no special pieces"
        raise ConfigError("end", "this tokenizer has no known end of document", f"name one with end=... ({some})")

    def _pieces(self) -> tuple[list[bytes], bool]:
        pieces = [b""] * self.vocabulary
        plain = self._library.get_vocab(with_added_tokens=False)
        if "ByteLevel" in self._kinds:
            to_byte = {character: byte for byte, character in byte_characters().items()}
            for piece, i in plain.items():
                mapped = [to_byte.get(c) for c in piece]
                pieces[i] = piece.encode() if None in mapped else bytes([b for b in mapped if b is not None])
        elif "WordPiece" in self._kinds:  # BERT's: spaces, and with some case and accents, are not kept
            inside = str(self._description["model"]["continuing_subword_prefix"])
            for piece, i in plain.items():
                pieces[i] = (piece.removeprefix(inside) if piece.startswith(inside) else f" {piece}").encode()
        else:
            fallback = bool(self._description["model"].get("byte_fallback"))
            for piece, i in plain.items():
                byte = byte_of(piece) if fallback else None
                pieces[i] = piece.replace(SPACE, " ").encode() if byte is None else byte
        for token in self._description["added_tokens"]:
            pieces[token["id"]] = b"" if token["special"] else token["content"].encode()
        pieces[self.end] = b""
        unknown = self._description["model"].get("unk_token") or self._description["model"].get("unk_id")
        if unknown is not None:
            pieces[plain[unknown] if isinstance(unknown, str) else unknown] = b""
        if "WordPiece" in self._kinds:
            return pieces, True
        strips = bool(self._kinds & {"Strip", "Metaspace"})
        return pieces, strips and self._library.encode("a").tokens[0].startswith(SPACE)

    def library(self) -> Library:
        """A copy of what the library makes of it, to change as one likes."""
        return Library.from_str(self._library.to_str())

    def encode(self, text: str) -> list[int]:
        """The ids of a text; names of special pieces in it are text like any other."""
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text; the library decides on its threads unless `threads` is 1."""
        if self.threads == 1:
            return [np.array(self.encode(text), dtype=np.int32) for text in texts]
        encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def merges(self) -> Merges | None:
        """The merges of a byte-pair model, in the order of the file; None for one with other rules."""
        model, added = self._description["model"], self._description["added_tokens"]
        ids = {str(piece): int(i) for piece, i in (model["vocab"].items() if model["type"] == "BPE" else ())}
        alphabet = BYTES if model.get("byte_fallback") else byte_characters().values()
        rules = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "dropout")
        special = all(token["special"] for token in added)
        if any(model.get(rule) for rule in rules) or not special or not all(map(ids.__contains__, alphabet)):
            return None
        ranks = {tuple(pair.split(" ") if isinstance(pair, str) else pair): i for i, pair in enumerate(model["merges"])}
        return Merges(self._words, ranks, ids, [ids[name] for name in alphabet] if alphabet is BYTES else [])

    def _words(self, text: str) -> list[str]:
        text.encode()
        normalizer, splitter = self._library.normalizer, self._library.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        return [normal] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normal)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self._table.decode(ids)

    def byte_lengths(self) -> Ids:
        """The bytes of each piece."""
        return self._table.lengths()

    def apart(self) -> dict[str, int]:
        """The pieces that are added to the model's own."""
        model = self._description["model"]
        unknown = {model.get("unk_token"), model.get("unk_id")}
        added = {str(token["content"]): int(token["id"]) for token in self._description["added_tokens"]}
        return {piece: i for piece, i in added.items() if i != self.end and not {piece, i} & unknown}

    def card(self) -> dict[str, Any]:
        """What the tokenizer's folder says about it."""
        return {
            "kind": "pretrained",
            "format": "tokenizers",
            "file": FILE,
            "vocabulary": self.vocabulary,
            "end": self.end,
            "end_piece": self._library.id_to_token(self.end),
            "adds_space": self._table.adds_space,
            "digest": self.digest,
        }

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and its card."""
        atomic_write(Path(folder) / FILE, self._library.to_str(pretty=True))
        atomic_json(Path(folder) / CARD, self.card())

    @property
    def digest(self) -> str:
        """A hash of everything in the description that bears on ids, and of `end`."""
        content = json.dumps({"description": self._description, "end": self.end}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def from_gpt2(vocabulary: dict[str, int], merges: Iterable[str], where: str, *, end: str | None = None) -> HuggingFace:
    """GPT-2's tokenizer (Radford et al. 2019) from the contents of its two files.

    Args:
        vocabulary: `encoder.json` or `vocab.json`, piece to id.
        merges: the lines of `vocab.bpe` or `merges.txt`, with or without the version line.
        where: the file, for errors.
        end: the piece that ends a document; None for `<|endoftext|>`.

    Raises:
        DataError: the files do not fit each other.
    """
    pairs = [tuple(line.split(" ")) for line in merges if line and not line.startswith("#version")]
    try:
        library = Library(models.BPE(vocabulary, pairs))  # type: ignore[arg-type]  # pairs are checked by the library
    except Exception as error:  # the library raises nothing narrower
        raise DataError(where, f"vocabulary and merges do not fit ({error})", "give the two of one model") from None
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    if GPT2_END in vocabulary:
        library.add_special_tokens([AddedToken(GPT2_END, special=True)])
    return HuggingFace(library.to_str(), where, end=end)


def byte_characters() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _types(decoder: dict[str, Any] | None) -> Iterable[str]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for inner in decoder["decoders"]:
            yield from _types(inner)
    else:
        yield decoder["type"]
