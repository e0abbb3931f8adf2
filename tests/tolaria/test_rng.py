"""Claims about a run's own random stream: it does not leak, and can be saved at any time."""

from __future__ import annotations

import pytest
import torch

from esper.tolaria.rng import OwnRng

CPU = torch.device("cpu")


def test_the_callers_stream_is_untouched_and_the_own_one_goes_on() -> None:
    outer = torch.get_rng_state()
    rng = OwnRng(3, CPU)
    with rng.installed():
        first = torch.rand(4)
    assert torch.equal(outer, torch.get_rng_state())
    with rng.installed():
        second = torch.rand(4)
    twin = OwnRng(3, CPU)
    with twin.installed():
        assert torch.equal(torch.rand(8), torch.cat([first, second]))


def test_the_callers_stream_comes_back_after_an_error() -> None:
    outer = torch.get_rng_state()
    with pytest.raises(ValueError, match="inside"):
        _fail_inside(OwnRng(3, CPU))
    assert torch.equal(outer, torch.get_rng_state())


def _fail_inside(rng: OwnRng) -> None:
    with rng.installed():
        torch.rand(4)
        raise ValueError("inside")


def test_a_state_taken_while_installed_is_the_stream_as_it_stands() -> None:
    rng, other = OwnRng(3, CPU), OwnRng(4, CPU)
    with rng.installed():
        torch.rand(4)
        saved = rng.state()
        expected = torch.rand(4)
    other.restore(saved)
    with other.installed():
        assert torch.equal(torch.rand(4), expected)


def test_a_restore_while_installed_holds_at_once_and_afterwards() -> None:
    rng = OwnRng(3, CPU)
    saved = rng.state()
    with rng.installed():
        expected = torch.rand(4)
        rng.restore(saved)
        assert torch.equal(torch.rand(4), expected)
        rng.restore(saved)
    with rng.installed():
        assert torch.equal(torch.rand(4), expected)


def test_two_streams_that_take_turns_do_not_mix() -> None:
    first, second = OwnRng(1, CPU), OwnRng(2, CPU)
    drawn = []
    for _ in range(2):
        with first.installed():
            drawn.append(torch.rand(2))
        with second.installed():
            torch.rand(5)
    with OwnRng(1, CPU).installed():
        assert torch.equal(torch.rand(4), torch.cat(drawn))


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_new_seed_starts_the_stream_anew_at_once_and_afterwards(is_installed: bool) -> None:
    rng, twin = OwnRng(3, CPU), OwnRng(4, CPU)
    with twin.installed():
        expected = torch.rand(8)
    if is_installed:
        with rng.installed():
            torch.rand(4)
            rng.reseed(4)
            assert torch.equal(torch.rand(4), expected[:4])
        with rng.installed():
            assert torch.equal(torch.rand(4), expected[4:])
        return
    rng.reseed(4)
    with rng.installed():
        assert torch.equal(torch.rand(8), expected)
