"""Laws of the choice: min_p keeps what it says and its odds, a penalty on repetition is the paper's arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from groundup.generation.choice import choose, penalise

SHARES = [0.09, 0.42, 0.04, 0.3, 0.15]
DRAWS = 4000


def counts(**options: Any) -> list[int]:
    """How often each id is chosen by draws that lie evenly in [0, 1)."""
    logits = torch.tensor([SHARES], dtype=torch.float64).log().repeat(DRAWS, 1)
    given: dict[str, Any] = {"temperature": 1.0, "top_k": None, "top_p": None, **options}
    chosen = choose(logits, [(n + 0.5) / DRAWS for n in range(DRAWS)], **given)
    return [chosen.count(i) for i in range(len(SHARES))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("min_p", [0.0, 0.2, 0.55, 1.0])
def test_min_p_keeps_ids_that_are_so_likely_beside_the_likeliest_with_their_odds(
    temperature: float, min_p: float
) -> None:
    heated = [share ** (1 / temperature) for share in SHARES]
    kept = [weight if weight >= min_p * max(heated) else 0.0 for weight in heated]
    found = counts(temperature=temperature, min_p=min_p)
    assert [bool(count) for count in found] == [bool(weight) for weight in kept]
    assert found == pytest.approx([DRAWS * weight / sum(kept) for weight in kept], abs=1.01)


def test_min_p_comes_after_top_k_and_top_p() -> None:
    # top_k leaves .42 .3 .15 .09; of these top_p takes three, which reach .906, and each is more than .3 of .42.
    # Were min_p first, it would leave .42 .3 .15, of which two reach .8.
    found = counts(top_k=4, top_p=0.8, min_p=0.3)
    assert found == pytest.approx([0, DRAWS * 0.42 / 0.87, 0, DRAWS * 0.3 / 0.87, DRAWS * 0.15 / 0.87], abs=1.01)


def test_rows_have_a_min_p_threshold_of_their_own() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.06, 0.04]]).log()
    assert choose(logits, [0.99, 0.99], temperature=1.0, top_k=None, top_p=None, min_p=0.3) == [2, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_penalty_divides_positive_logits_of_what_stands_in_the_row_and_multiplies_others(dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, -0.5, 0.0], [2.0, -1.0, 0.5, -0.5, 0.0]], dtype=dtype)
    before = logits.clone()
    found = penalise(logits, [[0, 1, 0, 4, 0], {2, 3}], 4.0)  # however often: once
    assert found.tolist() == [[0.5, -4.0, 0.5, -0.5, 0.0], [2.0, -1.0, 0.125, -2.0, 0.0]]
    assert penalise(logits, [[0, 1], [2]], 0.5).tolist() == [[4.0, -0.5, 0.5, -0.5, 0.0], [2.0, -1.0, 1.0, -0.5, 0.0]]
    assert torch.equal(logits, before)


def test_a_penalty_of_one_changes_nothing() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    assert penalise(logits, [[0, 1, 2]], 1.0).tolist() == logits.tolist()
