"""How much is hidden: the authors' own formulas, written out, and bounds that hold for every length."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from groundup.data.counts import DENOISERS, Corruption, continued, even, mixed_widths

CORRUPTIONS = st.builds(Corruption, st.floats(0.01, 0.99), st.floats(1, 80), st.integers(1, 200))


@given(CORRUPTIONS, st.integers(0, 3000))
def test_something_is_hidden_and_something_is_left_before_each_span(corruption: Corruption, length: int) -> None:
    (hidden,), (spans,) = corruption.hidden(np.array([length])), corruption.spans(np.array([length]))
    if length < 2:
        assert hidden == spans == 0
    else:
        assert 1 <= spans <= hidden <= length - 1
        assert spans <= length - hidden
        assert spans <= corruption.most


@given(CORRUPTIONS, st.integers(0, 300))
def test_no_window_needs_more_than_the_widths(corruption: Corruption, context: int) -> None:
    filled = np.arange(context + 1)
    source, target = corruption.widths(context)
    assert corruption.source(filled).max() <= source
    assert corruption.target(filled).max() <= target
    both = mixed_widths([corruption, Corruption(0.15, 3.0, 100)], context)
    assert both[0] >= corruption.source(filled).max() + 1
    assert both[1] >= max(corruption.target(filled).max(), 2 * continued(filled).max() - 1)


def test_t5_hides_of_512_tokens_what_its_authors_say() -> None:
    # Raffel et al. 2020: 568 tokens become a source of 512 and a target of 114.
    base = Corruption(0.15, 3.0, 100)
    assert (base.source(np.array([568])), base.target(np.array([568]))) == (512, 114)


def test_ul2_of_the_default_context_needs_no_more_positions_than_it_has() -> None:
    mixed = [Corruption(share, mean, 100) for _, mean, share in DENOISERS]
    assert mixed_widths(mixed, 256) == (256, 176)


def test_widths_are_multiples_of_eight_unless_the_context_has_no_room() -> None:
    assert [even(width, 64) for width in (1, 8, 9, 63, 64, 65)] == [8, 8, 16, 64, 64, 65]
    assert even(18, 20) == 20
