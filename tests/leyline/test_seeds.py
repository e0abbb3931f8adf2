from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import derive_seed

PATHS = st.lists(st.one_of(st.text(max_size=6), st.integers(-(2**70), 2**70)), max_size=5).map(tuple)


def test_seeds_are_what_they_were() -> None:
    # SHA-256 of '[0,"data",3]', first 8 bytes shifted right by one: saved runs depend on it.
    assert derive_seed(0, "data", 3) == 9_038_874_593_220_585_059


@given(st.integers(), PATHS)
def test_a_seed_is_a_function_of_its_path_and_fits_63_bits(
    run_seed: int, path: tuple[str | int, ...]
) -> None:
    seed = derive_seed(run_seed, *path)
    assert seed == derive_seed(run_seed, *path)
    assert 0 <= seed < 2**63


@given(st.integers(), st.integers(), PATHS, PATHS)
def test_different_paths_give_different_seeds(
    first_run: int, second_run: int, first: tuple[str | int, ...], second: tuple[str | int, ...]
) -> None:
    is_same = (first_run, *first) == (second_run, *second)
    assert (derive_seed(first_run, *first) == derive_seed(second_run, *second)) == is_same


def test_trailing_zeros_do_not_collide() -> None:
    assert derive_seed(1, 2) != derive_seed(1, 2, 0)
    assert derive_seed(0) != derive_seed(0, 0)


def test_words_are_not_split_at_32_bits() -> None:
    assert derive_seed(2**32, 5, 0) != derive_seed(0, 1, 5)
    assert derive_seed(2**32) != derive_seed(0, 1)


def test_text_and_number_and_joined_names_differ() -> None:
    seeds = {
        derive_seed(0, "1"),
        derive_seed(0, 1),
        derive_seed(0, "a", "b"),
        derive_seed(0, "ab"),
        derive_seed(0, "a,b"),
        derive_seed(0, '"a","b"'),
    }
    assert len(seeds) == 6


def test_low_32_bits_do_not_repeat_over_many_epochs() -> None:
    # A CPU generator of torch keeps the low 32 bits only; these streams live in one run.
    low = {
        derive_seed(0, "data", instance, epoch) & 0xFFFFFFFF for instance in range(8) for epoch in range(100)
    }
    assert len(low) == 800
