"""A folder of labelled examples opened as a config says, and checked, without torch; it makes no batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groundup.core.errors import DataError
from groundup.data.examples import REMEDY, Answered, Examples
from groundup.data.layout import Layout
from groundup.data.opening import HELD_OUT, TOKENIZER, TRAIN, storage_of, tokenizer_folder, verified
from groundup.shard.manifest import Manifest
from groundup.tokenizer.load import load

if TYPE_CHECKING:
    from groundup.data import config


class Opened:
    """A folder of examples that was checked, and what can be read from it.

    Args:
        options: how to read it.
        verify: "auto", "size" or "sha256", see `Manifest.verify`.

    Raises:
        DataError: files that are missing, damaged or of other data.
    """

    def __init__(self, options: config.Examples, verify: str) -> None:
        self.options, self.storage = options, storage_of(options)
        self.manifest = Manifest.read(self.storage)
        self.about = Answered.read(self.manifest, options.path)
        self.verified = verified(self.storage, self.manifest, verify)
        self.about.verify(self.storage, self.verified.contents)
        self.train, self.held_out = (
            Examples(self.storage, self.manifest, self.about, split) for split in (TRAIN, HELD_OUT)
        )
        self.layout = Layout(options.context, self.manifest.tokenizer.end, self.about.task == "span")

    def check_tokenizer(self) -> None:
        """See that the tokenizer beside the examples is the one they were made with.

        Raises:
            DataError: it is another, or missing or damaged.
        """
        if load(tokenizer_folder(self.storage)).digest != self.manifest.tokenizer.digest:
            what = "is another tokenizer than the examples were made with"
            raise DataError(self.storage.describe(TOKENIZER), what, REMEDY)
