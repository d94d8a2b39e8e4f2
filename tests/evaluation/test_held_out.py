"""Questions made from held-out text: whole, bounded, the same in any order, and answerable from the text alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from groundup.evaluation import held_out
from groundup.evaluation.held_out import AFTER, BEFORE, CHOICES, CLOZE, CONTINUATION, HeldOutItems

DOCUMENTS = {name: text for name, text in sorted(topics.items()) if len(text.split()) > 80}


def made(folder: Path, documents: dict[str, str], seed: int = 0, source: str = "topics") -> dict[str, list[Any]]:
    """The questions about some documents, by the name of their task."""
    items = HeldOutItems(seed)
    for name, text in documents.items():
        items.add(source, name, text)
    files = items.write(folder)
    return {Path(name).stem: [json.loads(line) for line in (folder / name).read_text().splitlines()] for name in files}


def test_a_cloze_asks_for_a_word_that_follows_in_the_text(tmp_path: Path) -> None:
    found = made(tmp_path, DOCUMENTS)[CLOZE]
    assert len(found) > 20
    for item in found:
        text = DOCUMENTS[item["document"]]
        assert f"{item['context']} {item['word']}" in text
        after = text[text.index(f"{item['context']} {item['word']}") + len(f"{item['context']} {item['word']}") :]
        assert after[0] in ".!?;:"
        assert len(item["context"].split()) == BEFORE


def test_one_of_four_continuations_is_the_true_one(tmp_path: Path) -> None:
    found = made(tmp_path, DOCUMENTS)[CONTINUATION]
    assert len(found) > 20
    for item in found:
        text = DOCUMENTS[item["document"]]
        assert len(set(item["choices"])) == CHOICES
        assert f"{item['context']} {item['choices'][item['gold']]}" in text
        assert all(len(choice.split()) == AFTER for choice in item["choices"])
        assert len(item["context"].split()) == BEFORE
    assert len({item["gold"] for item in found}) == CHOICES


def test_the_order_of_documents_does_not_matter_and_the_seed_does(tmp_path: Path) -> None:
    names = list(DOCUMENTS)
    random.Random(1).shuffle(names)
    first = made(tmp_path / "a", DOCUMENTS)
    assert made(tmp_path / "b", {name: DOCUMENTS[name] for name in names}) == first
    assert made(tmp_path / "c", DOCUMENTS, seed=1) != first


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "DOCUMENTS", 5)
    items = HeldOutItems(0)
    for name, text in DOCUMENTS.items():
        items.add("topics", name, text)
        items.add("topics", name, text)
    assert sum(map(len, items._kept.values())) == 5
    assert all(len(text) <= held_out.LONGEST for _, _, text in items._kept["topics"])
    items.write(tmp_path)
    assert len((tmp_path / "evaluation" / f"{CLOZE}.jsonl").read_text().splitlines()) <= 5


def test_texts_without_spaces_or_too_short_give_no_question(tmp_path: Path) -> None:
    assert made(tmp_path, {"ja": "吾輩は猫である。名前はまだ無い。" * 400, "short": "In the beginning."}) == {}
    assert not (tmp_path / "evaluation").exists()


def test_sources_are_mixed_so_that_the_first_questions_are_of_all(tmp_path: Path) -> None:
    items = HeldOutItems(0)
    for name, text in DOCUMENTS.items():
        items.add("a", name, text)
        items.add("b", f"b{name}", text)
    items.write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "evaluation" / f"{CLOZE}.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows[:10]} == {"a", "b"}
