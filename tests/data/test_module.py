"""Laws of loading: workers change nothing, held-out text comes exactly once, and bad data is refused."""

import shutil
import warnings

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.config import from_dict, to_dict
from groundup.core.errors import ConfigError, DataError
from groundup.core.progress import Progress
from groundup.data.config import Shards
from groundup.data.module import StreamModule
from groundup.data.opening import storage_of, tokenizer_folder
from groundup.data.step import IGNORED
from groundup.tokenizer.load import load
from groundup.tokenizer.protocol import CARD

CONTEXT = 16


def module(prepared, rank=0, world=1, steps=6, **options):
    return StreamModule(prepared.config(**options), 7, Progress(2, 24, 24 * CONTEXT), steps, rank, world)


def test_workers_change_nothing(prepared, equal):
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads; the workers start before they use one.
        warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
        plain, worked = module(prepared), module(prepared, workers=2, prefetch=2, micro_batch=4)
        loader = worked.train_dataloader()
        first, again = list(loader), list(loader)
        held = [list(part) for part in worked.val_dataloader()]
    expected = list(plain.train_dataloader())
    assert [step.step for step in expected] == [2, 3, 4, 5, 6, 7]
    for made in (first, again):
        assert all(equal(a, b) for a, b in zip(made, expected, strict=True))
    for made, part in zip(held, plain.val_dataloader(), strict=True):
        assert all(equal(a, b) for a, b in zip(made, part, strict=True))


def test_loading_leaves_the_global_random_state_alone(prepared):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(module(prepared).train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_loaders_know_their_length(prepared):
    made = module(prepared)
    assert len(made.train_dataloader()) == 6
    assert len(module(prepared, steps=0).train_dataloader()) == 0
    assert [len(loader) for loader in made.val_dataloader()] == [len(part) for part in made.held_out]


def held_out(prepared, world, micro_batch, **options):
    """Every real row of the held-out loaders over all ranks: (source, tokens, targets), and the counts of the steps."""
    rows, counted = {}, {}
    for rank in range(world):
        made = module(prepared, rank, world, micro_batch=micro_batch, **options)
        for name, loader in zip(made.held_out_names, made.val_dataloader(), strict=True):
            steps = list(loader)
            counted[name] = sum(step.targets for step in steps)
            for step in steps:
                assert [tuple(batch.tokens_BT.shape) for batch in step.micro_batches] == [
                    (min(micro_batch, 12), CONTEXT)
                ]
                for tokens, targets in zip(
                    step.micro_batches[0].tokens_BT, step.micro_batches[0].targets_BT, strict=True
                ):
                    if (targets != IGNORED).any():
                        rows.setdefault(name, []).append((tokens.tolist(), targets.tolist()))
    return rows, counted


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 3), st.integers(1, 9))
def test_every_held_out_token_but_the_first_is_a_target_exactly_once(prepared, world, micro_batch):
    rows, counted = held_out(prepared, world, micro_batch)
    assert list(rows) == ["prose", "code"]
    for name, made in rows.items():
        row = prepared.rows["held_out", name]
        windows = sorted(range(0, row.size - 1, CONTEXT))
        expected = sorted(row[first + 1 : first + CONTEXT + 1].tolist() for first in windows)
        assert sorted([t for t in targets if t != IGNORED] for _, targets in made) == expected
        assert counted[name] == row.size - 1


def test_held_out_text_may_be_capped_and_is_then_spread(prepared):
    made = module(prepared, held_out_tokens=5 * CONTEXT)
    windows = made.held_out[0].windows
    every = -(-(prepared.rows["held_out", "prose"].size - 1) // CONTEXT)
    assert windows.size == 5
    assert np.unique(windows).size == 5
    assert windows[-1] >= every * 3 // 5
    assert module(prepared, held_out_tokens=0).held_out[0].windows.size == every
    assert module(prepared, held_out_tokens=1).held_out[0].windows.size == 1
    with pytest.raises(IndexError):
        made.held_out[0][len(made.held_out[0])]


def test_a_held_out_source_shorter_than_a_window_is_read_too(prepared):
    _, counted = held_out(prepared, 1, 4, context=16)
    assert counted["code"] == prepared.rows["held_out", "code"].size - 1
    short = StreamModule(prepared.config(context=512, batch_tokens=512), 0, Progress(), 1)
    step = next(iter(short.val_dataloader()[1]))
    assert step.targets == int((step.micro_batches[0].targets_BT != IGNORED).sum()) == counted["code"]


def test_a_run_is_told_what_it_will_read(prepared):
    lines = module(prepared, steps=200).describe()
    assert "every checksum holds" in lines[0]
    assert "times by sample 2,424, its text is repeated in another order" in lines[1]
    assert lines[3].startswith("held out of prose: ")
    assert "repeated" not in module(prepared, steps=0).describe()[1]


def test_the_config_checks_shards_and_tokenizer_and_names_the_held_out_sources(prepared):
    config = prepared.config()
    manifest = config.check()
    assert manifest == prepared.manifest
    assert config.held_out_sources(manifest) == ["prose", "code"]
    assert config.build(7, Progress(), 1).held_out_names == ["prose", "code"]
    assert from_dict("data", to_dict(config)) == config
    assert (config.samples, config.rows) == (12, 4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_tokens": 100}, r"batch_tokens=100: is no multiple of context=16; set it to 96 or 112"),
        ({"batch_tokens": 5}, r"batch_tokens=5: is no multiple of context=16; set it to 16"),
        ({"context": 0}, r"context=0: must be at least 1"),
        ({"skips": [[5, 5]]}, r"skips=\[5, 5\]: is no range of sample indices"),
        ({"verify": "no"}, r"verify=no: allowed: auto, size, sha256"),
    ],
)
def test_options_that_make_no_sense_are_refused(prepared, options, says):
    with pytest.raises(ConfigError, match=says):
        prepared.config(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": {"prse": 1, "code": 1}}, r"data\.weights\.prse: is no source .*did you mean prose\?"),
        ({"context": 5000, "batch_tokens": 5000}, r"data\.context=5000: is more than the \d+ tokens of train source"),
    ],
)
def test_options_that_do_not_suit_the_data_are_refused_by_their_full_key(prepared, options, says):
    with pytest.raises(ConfigError, match=says):
        prepared.config(**options).check()


def test_shards_damaged_since_they_were_prepared_are_refused_before_training(own):
    stored = own.manifest.splits["train"]["prose"].shards[0].data
    path = own.path / stored.file
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"prose-00000\.bin: is damaged: .*prepare\.py"):
        own.config().check()
    StreamModule(own.config(), 0, Progress(), 1, rank=1, world=2)
    path.write_bytes(bytes(content[:-2]))
    with pytest.raises(DataError, match=r"prose-00000\.bin: is truncated"):
        StreamModule(own.config(), 0, Progress(), 1, rank=1, world=2)


def test_another_tokenizer_than_the_shards_is_refused(own):
    other = own.manifest.tokenizer.__class__("other", own.manifest.tokenizer.vocabulary, own.end, "uint16")
    own.manifest.__class__(other, own.manifest.splits).write(own.path)
    with pytest.raises(DataError, match="tokenizer: is another tokenizer than the shards were made with"):
        own.config().check()
    shutil.rmtree(own.path / "tokenizer")
    with pytest.raises(DataError, match="tokenizer"):
        own.config().check()


def test_without_held_out_text_there_is_nothing_to_evaluate(own):
    own.manifest.__class__(own.manifest.tokenizer, {"train": own.manifest.splits["train"]}).write(own.path)
    made = StreamModule(own.config(), 0, Progress(), 1)
    assert (made.val_dataloader(), made.held_out_names) == ([], [])


def test_a_folder_without_training_text_is_refused(own):
    own.manifest.__class__(own.manifest.tokenizer, {"held_out": own.manifest.splits["held_out"]}).write(own.path)
    with pytest.raises(DataError, match=r"holds no train text; .*prepare\.py"):
        own.config().check()


def test_remote_shards_are_read_through_the_cache(prepared, equal, tmp_path):
    fsspec.filesystem("memory").put(str(prepared.path), "/far", recursive=True)
    far = Shards(**{**to_dict(prepared.config()), "path": "memory://far", "cache": str(tmp_path)})
    assert far.check() == prepared.manifest
    made = StreamModule(far, 7, Progress(), 2)
    near = StreamModule(prepared.config(), 7, Progress(), 2)
    assert all(equal(a, b) for a, b in zip(made.steps, near.steps, strict=True))
    assert "contents not read" in made.describe()[0]


def test_a_remote_tokenizer_is_fetched_as_it_is_now_and_another_one_is_refused(prepared, tmp_path):
    system = fsspec.filesystem("memory")
    system.put(str(prepared.path), "/farther", recursive=True)
    far = Shards(**{**to_dict(prepared.config()), "path": "memory://farther", "cache": str(tmp_path / "cache")})
    folder = tokenizer_folder(storage_of(far))
    assert folder.is_relative_to(tmp_path / "cache")
    assert load(folder).digest == prepared.manifest.tokenizer.digest
    (card,) = (path for path in system.ls("/farther/tokenizer", detail=False) if path.endswith(CARD))
    system.pipe_file(card, b"[]")
    with pytest.raises(DataError, match=rf"memory://farther/tokenizer/{CARD}: is damaged.*prepare the data again"):
        far.check()
    system.rm_file(card)
    with pytest.raises(DataError, match=rf"memory://farther/tokenizer/{CARD}: is missing; check the URL"):
        far.check()
