from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vidistill.core.seeds import digest, generator, integer_seed


@given(st.integers(0, 100), st.text(max_size=5), st.integers(0, 100))
def test_same_counters_give_same_numbers(seed: int, name: str, number: int) -> None:
    assert generator(seed, name, number).random() == generator(seed, name, number).random()


def test_any_changed_counter_gives_other_numbers() -> None:
    values = {generator(*parts).random() for parts in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2)]}
    assert len(values) == 4


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len(digest({"a": 1})) == 32


def test_integer_seeds_fit_what_torch_takes() -> None:
    assert 0 <= integer_seed("x") < 2**63
