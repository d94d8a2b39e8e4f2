"""The face that lm-eval sees of a model; it turns text into ids and leaves what a network does to the scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import lm_eval.models  # noqa: F401  # lm-eval lists its own models only where none is listed yet
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from groundup.core.errors import ConfigError
from groundup.generation import Options
from groundup.tokenizer.protocol import Tokenizer

MOST_NEW_TOKENS = 256
"""Of a written answer, where a task does not say; as in lm-eval."""


class Answers(Protocol):
    """What answers requests about token ids: `Scorer`, or what a test puts in its place."""

    context: int

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Logarithm of the probability of each continuation, and whether it is the likeliest."""

    def write(self, requests: Sequence[tuple[Sequence[int], Options]]) -> list[str]:
        """The text after each beginning."""


@register_model("groundup")
class Harness(TemplateLM):  # type: ignore[misc]  # lm-eval's classes have no types
    """An lm-eval model.

    lm-eval splits requests among processes itself; here each process is told that it is alone, and the scorer splits.

    Args:
        answers: what answers.
        tokenizer: of the model.
        start: texts begin with `tokenizer.end`.
        seed: of sampled answers.
        compile: compile the step that writes.
    """

    def __init__(
        self, answers: Answers, tokenizer: Tokenizer, *, start: bool = True, seed: int = 0, compile: bool = False
    ) -> None:
        super().__init__()
        self.compile = compile
        self.answers, self.ids, self.start, self.seed = answers, tokenizer, start, seed
        self._encode = lru_cache(maxsize=4096)(tokenizer.encode)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: Mapping[str, Any], additional_config: Any = None) -> Harness:
        """The model that lm-eval's command line names: `run=` a model folder; `start`, `seed`, `context`,
        `batch_tokens` as in `evaluate.py`; batch size and device as lm-eval's own options give them.

        Raises:
            ConfigError: an argument that is not known, or no folder.
            CheckpointError, DataError: the folder holds no model.
        """
        from groundup.evaluation.scorer import Scorer
        from groundup.model.load import load
        from groundup.tokenizer.load import load as load_tokenizer

        known = {"run": None, "start": True, "seed": 0, "context": None, "batch_tokens": None}
        unknown = sorted(arg_dict.keys() - known)
        if unknown or arg_dict.get("run") is None:
            where = f"model_args: {unknown[0]}" if unknown else "model_args"
            raise ConfigError(where, "is not known" if unknown else "names no model", f"give {', '.join(known)}")
        given = {**known, **arg_dict}
        more = dict(additional_config or {})
        size = str(more.get("batch_size") or "auto")
        folder = Path(str(given["run"]))
        device = str(more.get("device") or "cpu")
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "cpu"  # lm-eval's command line says cuda where nothing is said
        net, tokenizer = load(folder, device), load_tokenizer(folder / "tokenizer")
        batch = int(size) if size.isdecimal() else None
        scorer = Scorer(net, tokenizer, given["batch_tokens"], batch, given["context"])
        return cls(scorer, tokenizer, start=bool(given["start"]), seed=int(given["seed"]))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Any = None) -> Harness:
        """The same from `run=...,start=false`."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """The id between documents, which also stands before a text."""
        return self.ids.end

    @property
    def max_length(self) -> int:
        """Positions of a request."""
        return self.answers.context

    @property
    def max_gen_toks(self) -> int:
        """Tokens of a written answer, where a task does not say."""
        return MOST_NEW_TOKENS

    @property
    def tokenizer_name(self) -> str:
        """A name for lm-eval's cache of requests."""
        return str(getattr(self.ids, "digest", type(self.ids).__name__))

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, with the start token unless it is refused."""
        ids = self._encode(string)
        return [self.ids.end, *ids] if self.start and add_special_tokens is not False else list(ids)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """As lm-eval's, without its bar."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        for (_, continuation), _, ids in requests:
            if not ids:
                raise ValueError(f"the continuation {continuation!r} has no token of its own")
        start = [self.prefix_token_id]
        return self.answers.score([(context or start, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """The likelihood of whole texts, in windows that share no target, each after as much text as fits."""
        windows: list[tuple[list[int], list[int]]] = []
        counts: list[int] = []
        for (text,) in (request.args for request in requests):
            rolling = get_rolling_token_windows(
                token_list=self._encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = list(map(make_disjoint_window, rolling))
            windows += own
            counts.append(len(own))
        answers = iter(self.answers.score(windows))
        return [sum(next(answers)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """What the model writes after each text, up to a stop text, the document's end or the most tokens."""
        start = [self.prefix_token_id]
        asked = [(self.tok_encode(text) or start, self.options(given)) for text, given in (r.args for r in requests)]
        return self.answers.write(asked)

    def options(self, given: Mapping[str, Any]) -> Options:
        """lm-eval's generation arguments as ours.

        Raises:
            ValueError: one that has no meaning here.
        """
        rest = dict(given)
        until = rest.pop("until", None) or []
        tokens = next(
            (
                rest.pop(name)
                for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
                if name in rest
            ),
            None,
        )
        temperature = rest.pop("temperature", None)
        sampled = bool(rest.pop("do_sample", bool(temperature)))
        if rest.get("num_beams") == 1:
            del rest["num_beams"]  # one beam is none
        options = Options(
            tokens=MOST_NEW_TOKENS if tokens is None else int(tokens),
            temperature=(1.0 if temperature is None else float(temperature)) if sampled else 0.0,
            top_k=rest.pop("top_k", None),
            top_p=rest.pop("top_p", None),
            seed=self.seed,
            compile=self.compile,
            stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        )
        if rest:
            raise ValueError(f"{', '.join(sorted(rest))} among the generation arguments means nothing here")
        return options
