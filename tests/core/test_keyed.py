"""Laws of keyed random streams."""

from hypothesis import given
from hypothesis import strategies as st

from groundup.core.keyed import derive, generator

seeds = st.integers(-(2**70), 2**70)
keys = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), max_size=4)


@given(seeds, keys)
def test_a_derived_number_has_64_bits_and_depends_on_its_keys_alone(seed, some):
    assert 0 <= derive(seed, *some) < 2**64
    assert derive(seed, *some) == derive(seed, *some)


@given(seeds, keys, seeds, keys)
def test_other_keys_derive_another_number(seed, some, other_seed, others):
    same = (seed, some) == (other_seed, others) and [type(key) for key in some] == [type(key) for key in others]
    assert (derive(seed, *some) == derive(other_seed, *others)) == same


def test_keys_do_not_run_together_nor_texts_with_numbers():
    assert len({derive(0, "ab"), derive(0, "a", "b"), derive(0, 1), derive(0, "1"), derive(0), derive(1)}) == 6


def test_derived_numbers_stay_what_they_are_on_every_machine_and_release():
    assert derive(0, "order", "bible", 1) == 11342353147947553228
    assert generator(3, "x").integers(0, 1000, 4).tolist() == [89, 737, 179, 259]
