"""Claims of interop: what transformers makes of an exported run is what the run makes."""

from __future__ import annotations

import bz2
import functools
import gzip
import importlib.util
import json
import logging
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from groundup.generation import sample
from groundup.interop.folder import export
from groundup.model.load import load
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.protocol import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TEXTS = next((path for path in (ROOT / "shared/data/text", ROOT.parent / "shared/data/text") if path.is_dir()), None)
RANDOM_TEXTS, PROMPTS, NEW_TOKENS = 10_000, 30, 60
NEAR = 1e-4
"""Two likeliest tokens whose logits are nearer than this may change places by rounding."""


@functools.cache
def exported() -> tuple[Path, Path]:
    """A run of the default decoder over a few steps, and what it is exported as."""
    place = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    train = [f"data.path={place}/data", f"runs={place}/runs", "tokens=409600", "trainer.compile=false"]
    for line in (["prepare.py", f"path={place}/data"], ["train.py", *train, "callback=[checkpoint]"]):
        subprocess.run([sys.executable, *line], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (run,) = (place / "runs" / "nano").iterdir()
    export(run, place / "hf")
    return run, place / "hf"


def texts() -> Iterator[str]:
    """Every public text that is at hand, then random strings from all of Unicode.

    Raises:
        FileNotFoundError: there are no public texts.
    """
    if TEXTS is None:
        raise FileNotFoundError(f"no public texts at {ROOT.parent / 'shared/data/text'}")
    for path in sorted(TEXTS.iterdir()):
        content = (bz2.open if path.suffix == ".bz2" else gzip.open)(path).read().decode()
        if ".jsonl" in path.name:
            rows = [json.loads(line) for line in content.split("\n") if line]
            yield from (row["text"] if "text" in row else "\n".join(row["turns"]) for row in rows)
        else:
            yield content
    draw = random.Random(0)
    for _ in range(RANDOM_TEXTS):
        codes = (draw.randrange(0x110000) for _ in range(draw.randrange(1, 60)))
        yield "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def ids_and_texts_that_differ() -> tuple[float, int]:
    """Texts whose ids, or whose text from these ids, AutoTokenizer has otherwise."""
    from transformers import AutoTokenizer

    run, folder = exported()
    ours: Tokenizer = load_tokenizer(run / "tokenizer")
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    count = differing = 0
    for text in texts():
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        count += 1
        differing += ids != ours.encode(text) or theirs.decode(ids) != text
    return float(differing), count


def greedy_texts_that_differ() -> tuple[float, int]:
    """Prompts after which a pipeline writes another text, before the first choice that rounding could turn."""
    from transformers import pipeline

    run, folder = exported()
    net, tokenizer = load(run), load_tokenizer(run / "tokenizer")
    writer: Any = pipeline("text-generation", model=str(folder), device="cpu")
    draw, known = random.Random(1), list(texts())
    prompts = [text[:80] for text in draw.sample([text for text in known if text.isascii()], PROMPTS)]
    differing = 0
    for prompt, mine in zip(prompts, sample(net, tokenizer, prompts, tokens=NEW_TOKENS, temperature=0), strict=True):
        (answer,) = writer(prompt, max_new_tokens=NEW_TOKENS, do_sample=False, return_full_text=False)
        if answer["generated_text"] != mine and not close_call(net, tokenizer, prompt, mine, answer["generated_text"]):
            differing += 1
            print(f"{prompt!r}: {mine!r} here, {answer['generated_text']!r} there", file=sys.stderr)
    return float(differing), len(prompts)


@torch.no_grad()
def close_call(net: Any, tokenizer: Tokenizer, prompt: str, mine: str, theirs: str) -> bool:
    """Whether the two likeliest tokens were as good as equal where two answers part."""
    ours, other = tokenizer.encode(mine), tokenizer.encode(theirs)
    same = next((i for i, (a, b) in enumerate(zip(ours, other, strict=False)) if a != b), min(len(ours), len(other)))
    logits_V = net(torch.tensor([[tokenizer.end, *tokenizer.encode(prompt), *ours[:same]]]))[0, -1]
    first, second = logits_V.topk(2).values.tolist()
    return bool(first - second < NEAR)


ODD = 20
"""Odd networks of each family."""


@functools.cache
def odd_networks() -> tuple[float, int, int]:
    """Odd networks of every family, made here and taken there and the other way round.

    Returns:
        The largest difference of logits as a share of the largest logit, how often something else was wrong, and of how
        many networks.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    spec = importlib.util.spec_from_file_location("odd", ROOT / "tests" / "interop" / "odd.py")
    assert spec is not None and spec.loader is not None
    odd: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = odd
    spec.loader.exec_module(odd)
    worst, wrong, count = 0.0, 0, 0
    for model_type in odd.DRAWN:
        for number in range(ODD):
            with tempfile.TemporaryDirectory(prefix="groundup-proof-") as place:
                off, amiss = odd.both_ways(model_type, number, Path(place))
            if off > 1e-4 or amiss:
                print(f"{model_type} {number}: {off:.2e}, {amiss} wrong", file=sys.stderr)
            worst, wrong, count = max(worst, off), wrong + amiss, count + 2
    return worst, wrong, count


def odd_networks_differ_by() -> tuple[float, int]:
    """The largest difference of their logits."""
    worst, _, count = odd_networks()
    return worst, count


def odd_networks_gone_wrong() -> tuple[float, int]:
    """Return trips with other weights, and other greedy texts."""
    _, wrong, count = odd_networks()
    return float(wrong), count


LARGE = {"layers": 12, "width": 1024, "heads": 16, "context": 128, "vocabulary": 50_000}
CONVERT = """
import sys, threading, time
from pathlib import Path
from groundup.interop.folder import export, import_

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)

place = Path(sys.argv[1])
before = anonymous()
peak = [before]
threading.Thread(target=watch, daemon=True).start()
export(place / "run", place / "hf", part_bytes=50_000_000)
import_(place / "hf", place / "back")
print(peak[0] - before)
"""


def memory_of_a_conversion() -> tuple[float, int]:
    """Memory that conversions there and back take, as a share of the weights; files of 50 MB."""
    from groundup.model.config import Decoder
    from groundup.model.load import save
    from groundup.tokenizer.byte import Bytes

    with tempfile.TemporaryDirectory(prefix="groundup-proof-") as place:
        config = Decoder(**LARGE)
        save(config.build(), config, Path(place) / "run")
        Bytes().save(Path(place) / "run" / "tokenizer")
        done = subprocess.run([sys.executable, "-c", CONVERT, place], capture_output=True, text=True, check=True)
        size = (Path(place) / "run" / "weights.safetensors").stat().st_size
        same = (Path(place) / "back" / "weights.safetensors").read_bytes()
        if same != (Path(place) / "run" / "weights.safetensors").read_bytes():
            return float("nan"), size
    return int(done.stdout) / size, size
