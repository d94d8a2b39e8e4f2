"""What the tokenizer tests share: a small trained tokenizer, and the public models where they are at hand."""

import json
import os
import sysconfig
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from groundup.tokenizer.config import BPE, Pretrained
from groundup.tokenizer.protocol import Tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def code() -> list[str]:
    """Some real text: files of Python's library."""
    library = Path(sysconfig.get_path("stdlib"))
    return [(library / name).read_text("utf-8") for name in ("argparse.py", "decimal.py", "textwrap.py", "ast.py")]


@pytest.fixture(scope="session")
def bpe(code: list[str]) -> Tokenizer:
    """A small byte-pair tokenizer trained on it."""
    return BPE(vocabulary=1024).build(lambda: iter(code))


@pytest.fixture(scope="session")
def public_models() -> Path:
    """The folder of public tokenizer models; without it the test is skipped, or fails where CI=true."""
    for folder in (ROOT / "shared/data/models", ROOT.parent / "shared/data/models"):
        if folder.is_dir():
            return folder
    reason = f"no public tokenizer models at {ROOT.parent / 'shared/data/models'}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def byte_level_file(code: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer.json of GPT-2's kind, whose own post-processor marks both ends of a text."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(code, trainer)
    marks = "<|endoftext|> $A <|endoftext|>"
    library.post_processor = processors.TemplateProcessing(marks, special_tokens=[("<|endoftext|>", 0)])
    path = tmp_path_factory.mktemp("byte_level") / "tokenizer.json"
    path.write_text(library.to_str(), "utf-8")
    return path


@pytest.fixture
def byte_level(byte_level_file: Path) -> Tokenizer:
    """The tokenizer of that file."""
    return Pretrained(path=str(byte_level_file)).build(lambda: iter(()))


@pytest.fixture(scope="session")
def metaspace(code: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer.json of Llama's kind: spaces as U+2581, one before the text, bytes for the rest."""
    library = Library(models.BPE(unk_token="<unk>", byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    library.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    library.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    library.train_from_iterator(code, trainers.BpeTrainer(vocab_size=900, special_tokens=specials, show_progress=False))
    value = json.loads(library.to_str())
    value["added_tokens"] = value["added_tokens"][:3]
    path = tmp_path_factory.mktemp("metaspace") / "tokenizer.json"
    path.write_text(json.dumps(value), "utf-8")
    return path
