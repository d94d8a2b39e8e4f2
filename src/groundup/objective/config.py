"""Options of the objectives; importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from groundup.core import bits
from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError
from groundup.objective.finetune_config import EMBEDDING_GRADIENT
from groundup.objective.requirements import expect_free, expect_id, expect_sentinels, expect_two_stacks, two_stacks

if TYPE_CHECKING:
    from groundup.data.counts import Corruption
    from groundup.data.pieces import Pieces
    from groundup.data.view import View
    from groundup.objective.base import Objective, Setting
    from groundup.tokenizer.protocol import Tokenizer

group("objective", "what is minimised, and how its gradient is bounded")

MASK_ID = "the mask's id, where the tokenizer has one; null: one more behind the tokenizer's"
FIRST_SENTINEL = (
    "the first sentinel's id, where the tokenizer has them; the others count down from it; null: ids behind the "
    "tokenizer's, the first one last"
)


@schema("objective", "pretrain")
class Pretrain:
    """Predict the next token at every position (causal language modelling)."""

    clip: float | None = option(1.0, "largest norm of the whole gradient; larger ones are scaled down to it", above=0)
    embedding_gradient: float = option(1.0, EMBEDDING_GRADIENT, above=0)
    z_loss: float | None = option(
        None, "weight of the squared log-partition, which keeps logits small (PaLM: 1e-4)", at_least=0
    )
    balance: float = option(0.01, "with model.experts: weight of their uneven use (Fedus et al. 2022)", at_least=0)
    router_z: float = option(
        0.001, "with model.experts: weight of their routers' z-loss (Zoph et al. 2022)", at_least=0
    )

    id_option: ClassVar[tuple[str, tuple[str, ...]]] = ("", ())
    """The option that names ids of the tokenizer for what is hidden, and what such pieces are called."""

    @property
    def unit(self) -> str:
        """What figures of held-out text are in."""
        return bits.OF_TEXT

    @property
    def extra_ids(self) -> int:
        """Ids that are needed behind the tokenizer's."""
        return 0

    @property
    def named_ids(self) -> dict[str, range]:
        """Ids of the tokenizer that options name to stand for what is hidden, by the option."""
        return {}

    def without_more(self, tokenizer: Tokenizer) -> str:
        """What to do where a network has no ids behind its tokenizer's: name one of these, where they may do."""
        option, names = self.id_option
        apart = tokenizer.apart()
        known = next((f"{apart[name]}, the tokenizer's {name}" for name in names if name in apart), None)
        some = ", ".join(f"{i} {piece}" for piece, i in list(apart.items())[:8])
        if getattr(self, option, None) is not None or not apart:
            return "begin with a network that has some, or with random weights"
        return f"set objective.{option}={known or f'one of the ids that no text is made of ({some})'}"

    def check_ids(self, tokenizer: Tokenizer) -> None:
        """Whether the ids that options name are free to be given this meaning.

        Raises:
            ConfigError: text is made of one, it ends documents, or it has another meaning here.
        """
        own = range(tokenizer.vocabulary, tokenizer.vocabulary + self.extra_ids)
        for name, ids in self.named_ids.items():
            for number in ids:
                expect_free(f"objective.{name}={ids[0]}", number, ids[0], tokenizer, own)

    def check(self, model: Any) -> None:
        """Whether a network of this config can be trained so.

        Raises:
            ConfigError: it cannot.
        """
        if two_stacks(model):
            where, instead = f"model.kind={model.kind}", "span, denoise, ul2 or prefix"
        elif (mask := getattr(model, "mask", "causal")) != "causal":
            where, instead = f"model.mask={mask}", "masked" if mask == "full" else "prefix"
        else:
            return
        raise ConfigError(where, "is not what objective=pretrain trains", f"set objective={instead}")

    def widths(self, model: Any, context: int) -> tuple[int, int]:
        """Positions that are made of a window of `context` tokens: an encoder's that a decoder looks at, and others."""
        del model
        return 0, context

    def view(self, seed: int, tokenizer: Pieces, model: Any) -> View | None:
        """What is shown of the text; None: each token's successor is predicted.

        Args:
            seed: of the run.
            tokenizer: of the text.
            model: config of the network that reads it.
        """
        del seed, tokenizer, model
        return None

    def build(self, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> Objective:
        """The LightningModule that trains `model` (a config of the model group) on this objective."""
        from groundup.objective import pretrain

        return pretrain.Pretrain(self, model, optimizer, schedule, setting)


@schema("objective", "prefix")
class Prefix(Pretrain):
    """Predict the next token behind a part of each window that is given, and seen as a whole (prefix LM).

    Raffel et al. 2020, section 3.2.3; Dong et al. 2019, UniLM, whose sequence-to-sequence mask is the same. An
    encoder-decoder's encoder reads what is given.
    """

    def check(self, model: Any) -> None:
        """As for `Pretrain`."""
        if not two_stacks(model) and getattr(model, "mask", "causal") != "prefix":
            raise ConfigError(
                "objective=prefix",
                "trains a network that sees ahead in what is given",
                "set model.mask=prefix" if getattr(model, "mask", "causal") == "causal" else "set model=decoder",
            )

    def widths(self, model: Any, context: int) -> tuple[int, int]:
        """As for `Pretrain`."""
        return context if two_stacks(model) else 0, context

    def view(self, seed: int, tokenizer: Pieces, model: Any) -> View | None:
        """Windows of which a part is given."""
        from groundup.data.continuation import Continuation
        from groundup.data.view import Split

        split = Split(seed)
        return Continuation(split, tokenizer.end, model.start) if two_stacks(model) else split


@schema("objective", "masked")
class Masked(Pretrain):
    """Tell the tokens that are hidden from all around them (masked language modelling; Devlin et al. 2019, BERT)."""

    share: float = option(0.15, "of the tokens that is predicted", above=0, below=1)
    masked: float = option(0.8, "of these, the share that the mask stands for", at_least=0, at_most=1)
    random: float = option(0.1, "of these, the share that a random token stands for", at_least=0, at_most=1)
    whole_words: bool = option(False, "hide whole words, which whitespace parts (Cui et al. 2019)")
    mask_id: int | None = option(None, MASK_ID, at_least=0)
    id_option = ("mask_id", ("<mask>", "[MASK]"))

    def __post_init__(self) -> None:
        if self.masked + self.random > 1 + 1e-9:
            raise ConfigError(
                f"random={self.random}",
                f"and masked={self.masked} are more than all that is predicted",
                f"set it to at most {1 - self.masked:.4g}",
            )

    @property
    def unit(self) -> str:
        """As for `Pretrain`."""
        return bits.OF_HIDDEN

    @property
    def extra_ids(self) -> int:
        """The mask, unless the tokenizer has one."""
        return int(self.mask_id is None)

    @property
    def named_ids(self) -> dict[str, range]:
        """As for `Pretrain`."""
        return {} if self.mask_id is None else {"mask_id": range(self.mask_id, self.mask_id + 1)}

    def check(self, model: Any) -> None:
        """As for `Pretrain`."""
        if getattr(model, "mask", "causal") != "full":
            raise ConfigError("objective=masked", "trains a network that sees the whole text", "set model=encoder")
        expect_id("mask_id", self.mask_id, model)

    def view(self, seed: int, tokenizer: Pieces, model: Any) -> View | None:
        """Windows with tokens hidden."""
        from groundup.data import masking
        from groundup.data.pieces import words

        del model
        return masking.Masked(
            seed=seed,
            share=self.share,
            masked=self.masked,
            random=self.random,
            mask=tokenizer.vocabulary if self.mask_id is None else self.mask_id,
            vocabulary=tokenizer.vocabulary,
            end=tokenizer.end,
            words=words(tokenizer) if self.whole_words else None,
        )


@schema("objective", "span")
class Span(Pretrain):
    """Write spans that are hidden behind sentinels (span corruption; Raffel et al. 2020, T5, section 3.1.4)."""

    share: float = option(0.15, "of the tokens that is hidden", above=0, below=1)
    mean: float = option(3.0, "tokens of a hidden span on average", at_least=1)
    sentinels: int = option(100, "ids that stand for spans; there are no more spans in a window", at_least=1)
    first_sentinel: int | None = option(None, FIRST_SENTINEL, at_least=0)
    id_option = ("first_sentinel", ("<extra_id_0>",))

    def __post_init__(self) -> None:
        expect_sentinels(self.first_sentinel, self.sentinels)

    @property
    def unit(self) -> str:
        """As for `Pretrain`."""
        return bits.OF_HIDDEN

    @property
    def extra_ids(self) -> int:
        """The sentinels, unless the tokenizer has them."""
        return self.sentinels if self.first_sentinel is None else 0

    @property
    def named_ids(self) -> dict[str, range]:
        """As for `Pretrain`."""
        first = self.first_sentinel
        return {} if first is None else {"first_sentinel": range(first, first - self.sentinels, -1)}

    def check(self, model: Any) -> None:
        """As for `Pretrain`."""
        expect_two_stacks("span", model)
        expect_id("first_sentinel", self.first_sentinel, model)

    def widths(self, model: Any, context: int) -> tuple[int, int]:
        """As for `Pretrain`."""
        del model
        return self._corruption().widths(context)

    def view(self, seed: int, tokenizer: Pieces, model: Any) -> View | None:
        """Windows with spans hidden."""
        from groundup.data.spans import Spans

        first = tokenizer.vocabulary + self.sentinels - 1 if self.first_sentinel is None else self.first_sentinel
        return Spans(seed, self._corruption(), first, tokenizer.end, model.start)

    def _corruption(self) -> Corruption:
        from groundup.data.counts import Corruption

        return Corruption(self.share, self.mean, self.sentinels)


@schema("objective", "denoise")
class Denoise(Pretrain):
    """Write the text again from one with spans hidden and sentences in another order (Lewis et al. 2020, BART)."""

    share: float = option(0.3, "of the tokens that is hidden", above=0, below=1)
    mean: float = option(3.0, "tokens of a hidden span on average, by Poisson's law", at_least=0.5)
    permute: bool = option(True, "put the sentences of each document in a random order")
    mask_id: int | None = option(None, MASK_ID, at_least=0)
    id_option = ("mask_id", ("<mask>", "[MASK]"))

    @property
    def unit(self) -> str:
        """As for `Pretrain`."""
        return bits.OF_RESTORED

    @property
    def extra_ids(self) -> int:
        """The mask, unless the tokenizer has one."""
        return int(self.mask_id is None)

    @property
    def named_ids(self) -> dict[str, range]:
        """As for `Pretrain`."""
        return {} if self.mask_id is None else {"mask_id": range(self.mask_id, self.mask_id + 1)}

    def check(self, model: Any) -> None:
        """As for `Pretrain`."""
        expect_two_stacks("denoise", model)
        expect_id("mask_id", self.mask_id, model)

    def widths(self, model: Any, context: int) -> tuple[int, int]:
        """As for `Pretrain`."""
        del model
        return context, context

    def view(self, seed: int, tokenizer: Pieces, model: Any) -> View | None:
        """Windows with noise."""
        from groundup.data import denoising
        from groundup.data.pieces import sentence_ends

        return denoising.Denoise(
            seed=seed,
            share=self.share,
            mean=self.mean,
            mask=tokenizer.vocabulary if self.mask_id is None else self.mask_id,
            end=tokenizer.end,
            sentence_ends=sentence_ends(tokenizer) if self.permute else None,
            start=model.start,
        )


@schema("objective", "ul2")
class Ul2(Pretrain):
    """Write what one of seven denoisers hides, whose mode the source names (mixture of denoisers; Tay et al. 2022)."""

    sentinels: int = option(100, "ids that stand for spans; there are no more spans in a window", at_least=1)
    first_sentinel: int | None = option(None, FIRST_SENTINEL, at_least=0)
    id_option = ("first_sentinel", ("<extra_id_0>",))

    def __post_init__(self) -> None:
        expect_sentinels(self.first_sentinel, self.sentinels)

    @property
    def unit(self) -> str:
        """As for `Pretrain`."""
        return bits.OF_HIDDEN

    @property
    def extra_ids(self) -> int:
        """The sentinels, unless the tokenizer has them, and the modes R, S and X."""
        from groundup.data.counts import MODES

        return (self.sentinels if self.first_sentinel is None else 0) + len(MODES)

    @property
    def named_ids(self) -> dict[str, range]:
        """As for `Pretrain`."""
        first = self.first_sentinel
        return {} if first is None else {"first_sentinel": range(first, first - self.sentinels, -1)}

    def check(self, model: Any) -> None:
        """As for `Pretrain`."""
        expect_two_stacks("ul2", model)
        expect_id("first_sentinel", self.first_sentinel, model)

    def widths(self, model: Any, context: int) -> tuple[int, int]:
        """As for `Pretrain`."""
        from groundup.data.counts import mixed_widths

        del model
        return mixed_widths([corruption for _, corruption in self._denoisers()], context)

    def view(self, seed: int, tokenizer: Pieces, model: Any) -> View | None:
        """Windows hidden by one denoiser each."""
        from groundup.data.counts import MODES
        from groundup.data.spans import Mixture, Spans

        first = tokenizer.vocabulary + self.sentinels - 1 if self.first_sentinel is None else self.first_sentinel
        behind = tokenizer.vocabulary + self.extra_ids - len(MODES)
        ids = {mode: behind + number for number, mode in enumerate(MODES)}
        return Mixture(
            seed=seed,
            spans=tuple(Spans(seed, corruption, first, tokenizer.end) for _, corruption in self._denoisers()),
            modes=tuple(ids[mode] for mode, _ in self._denoisers()),
            last_part=ids["S"],
            end=tokenizer.end,
            start=model.start,
        )

    def _denoisers(self) -> list[tuple[str, Corruption]]:
        """Mode and corruption of those that hide spans."""
        from groundup.data.counts import DENOISERS, Corruption

        return [(mode, Corruption(share, mean, self.sentinels)) for mode, mean, share in DENOISERS]
