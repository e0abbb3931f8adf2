from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.tamiyo.actor_critic import Memory
from esper.tamiyo.network.core import MemorylessCore, RecurrentCore

SIZE_IN, SIZE = 5, 4


def make_core(
    num_layers: int = 1, *, checkpoint_core: bool = False, dtype: torch.dtype = torch.float64
) -> RecurrentCore:
    """A core with random weights from a fixed stream."""
    core = RecurrentCore(SIZE_IN, SIZE, num_layers=num_layers, checkpoint_core=checkpoint_core).to(dtype)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.5)
    return core


def make_sequence(
    rows: int, steps: int, num_layers: int = 1, *, seed: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Memory]:
    rng = torch.Generator().manual_seed(seed)
    memory = [torch.randn(num_layers, rows, SIZE, generator=rng).to(dtype) for _ in range(2)]
    return torch.randn(rows, steps, SIZE_IN, generator=rng).to(dtype), Memory(*memory)


def unroll(core: RecurrentCore, x: Tensor, memory: Memory, episode_start: Tensor) -> Tensor:
    """The oracle: one row and one step at a time through the bare LSTM, zeros where an episode starts."""
    rows = []
    for row in range(x.shape[0]):
        state = tuple(part[:, row : row + 1].contiguous() for part in memory)
        outputs = []
        for step in range(x.shape[1]):
            if episode_start[row, step]:
                state = tuple(torch.zeros_like(part) for part in state)
            output, state = core.lstm(core.norm_in(x[row, step])[None, None], state)
            outputs.append(core.norm_out(output[0, 0]))
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def all_gradients(value: Tensor, core: nn.Module, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, [*core.parameters(), *inputs]))


def starts_at(rows: int, steps: int, *places: tuple[int, int]) -> Tensor:
    flags = torch.zeros(rows, steps, dtype=torch.bool)
    for row, step in places:
        flags[row, step] = True
    return flags


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("checkpoint_core", [False, True])
def test_a18_a_batched_unroll_with_resets_equals_separate_unrolls(
    num_layers: int, checkpoint_core: bool
) -> None:
    core = make_core(num_layers, checkpoint_core=checkpoint_core)
    x, memory = make_sequence(4, 11, num_layers)
    flags = starts_at(4, 11, (0, 0), (0, 4), (0, 5), (1, 10), (2, 0), (3, 7))
    x.requires_grad_()
    weights = torch.randn(4, 11, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours, oracle = core.sequence(x, memory, flags), unroll(core, x, memory, flags)
    torch.testing.assert_close(ours, oracle, rtol=0, atol=1e-6)
    for mine, expected in zip(
        all_gradients((ours * weights).sum(), core, x),
        all_gradients((oracle * weights).sum(), core, x),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(st.data())
def test_a18_any_pattern_of_resets_equals_separate_unrolls(data: st.DataObject) -> None:
    rows, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 7))
    flags = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows * steps, max_size=rows * steps)))
    core = make_core(2, checkpoint_core=data.draw(st.booleans()))
    x, memory = make_sequence(rows, steps, 2)
    flags = flags.view(rows, steps)
    torch.testing.assert_close(
        core.sequence(x, memory, flags), unroll(core, x, memory, flags), rtol=0, atol=1e-10
    )


def test_a18_the_state_entering_a_step_is_zero_iff_it_starts_an_episode() -> None:
    core = make_core()
    x, memory = make_sequence(2, 3)
    kept = core.sequence(x, memory, starts_at(2, 3))
    reset = core.sequence(x, memory, starts_at(2, 3, (0, 1)))
    fresh = core.sequence(x[:1, 1:], core.initial_memory(1), starts_at(1, 2))
    torch.testing.assert_close(reset[0, 1:], fresh[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(reset[0, 0], kept[0, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(reset[1], kept[1], rtol=0, atol=1e-12)
    assert not torch.allclose(reset[0, 1], kept[0, 1], atol=1e-3)


def test_a19_an_episode_of_one_step_is_a_step_from_zero() -> None:
    core = make_core()
    x, memory = make_sequence(2, 1)
    output = core.sequence(x, memory, starts_at(2, 1, (0, 0), (1, 0)))
    expected, _ = core.step(x[:, 0], core.initial_memory(2))
    torch.testing.assert_close(output[:, 0], expected, rtol=0, atol=1e-12)


def test_a19_a_start_on_the_last_step_changes_that_step_alone() -> None:
    core = make_core()
    x, memory = make_sequence(1, 6)
    with_start = core.sequence(x, memory, starts_at(1, 6, (0, 5)))
    without = core.sequence(x, memory, starts_at(1, 6))
    torch.testing.assert_close(with_start[:, :5], without[:, :5], rtol=0, atol=1e-12)
    expected, _ = core.step(x[:, 5], core.initial_memory(1))
    torch.testing.assert_close(with_start[:, 5], expected, rtol=0, atol=1e-12)


def test_a19_steps_one_by_one_equal_the_sequence_when_the_caller_clears() -> None:
    core = make_core(2)
    x, memory = make_sequence(3, 5, 2)
    flags = starts_at(3, 5, (0, 0), (1, 2), (2, 4))
    expected = core.sequence(x, memory, flags)
    for step in range(5):
        output, memory = core.step(x[:, step], memory.cleared(flags[:, step]))
        torch.testing.assert_close(output, expected[:, step], rtol=0, atol=1e-12)


def test_no_gradient_passes_an_episode_start() -> None:
    core = make_core()
    x, memory = make_sequence(1, 4)
    x.requires_grad_()
    output = core.sequence(x, memory, starts_at(1, 4, (0, 2)))
    (gradient,) = torch.autograd.grad(output[0, 3].sum(), x)
    assert gradient[0, :2].eq(0).all()
    assert gradient[0, 2:].ne(0).any()


# ---------------------------------------------------------------------- gradient checkpointing


@pytest.mark.parametrize("resets", [(), ((0, 3), (1, 9), (1, 10))])
@pytest.mark.parametrize("steps", [1, 2, 16, 13])
def test_a22_checkpointing_changes_neither_outputs_nor_gradients(
    resets: tuple[tuple[int, int], ...], steps: int
) -> None:
    flags = starts_at(2, steps, *(place for place in resets if place[1] < steps))
    results = []
    for checkpoint_core in (False, True):
        core = make_core(2, checkpoint_core=checkpoint_core, dtype=torch.float32)
        x, memory = make_sequence(2, steps, 2, dtype=torch.float32)
        x.requires_grad_()
        output = core.sequence(x, memory, flags)
        results.append([output.detach(), *all_gradients(output.square().sum(), core, x)])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-6, atol=1e-6)


def saved_bytes(core: RecurrentCore, steps: int) -> int:
    """Bytes that autograd holds between forward and backward pass; each storage once, weights not at all.

    What is saved inside a checkpointed piece does not come by here, for it is thrown away.
    """
    x, memory = make_sequence(4, steps, 2)
    weights = {parameter.untyped_storage().data_ptr() for parameter in core.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = core.sequence(x, memory, starts_at(4, steps))
    assert output.requires_grad  # the graph, and with it every counted storage, lives until here
    return sum(sizes.values())


def test_a22_checkpointing_lowers_the_peak_of_saved_bytes() -> None:
    """64 steps are 8 pieces: kept are 8 boundaries of two states, and one piece while it is recomputed."""
    plain, kept = saved_bytes(make_core(2), 64), saved_bytes(make_core(2, checkpoint_core=True), 64)
    _, memory = make_sequence(4, 64, 2)
    boundaries = 8 * sum(part.nbytes for part in memory)
    peak = kept + boundaries + saved_bytes(make_core(2), 8)
    assert peak < 0.5 * plain


def test_a22_each_piece_runs_once_more_in_the_backward_pass() -> None:
    core = make_core(2, checkpoint_core=True)
    x, memory = make_sequence(4, 64, 2)
    lengths: list[int] = []
    core.lstm.register_forward_pre_hook(lambda module, args: lengths.append(len(args[0])))
    output = core.sequence(x, memory, starts_at(4, 64))
    assert lengths == [8] * 8
    torch.autograd.grad(output.sum(), list(core.parameters()))
    assert lengths == [8] * 16


def test_a22_without_gradients_nothing_is_checkpointed() -> None:
    core = make_core(checkpoint_core=True)
    x, memory = make_sequence(2, 9)
    with torch.no_grad():
        output = core.sequence(x, memory, starts_at(2, 9))
    torch.testing.assert_close(output, make_core().sequence(x, memory, starts_at(2, 9)), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a22_a_recomputing_scan_of_a_peer_agrees() -> None:
    from tensordict import TensorDict  # noqa: PLC0415
    from torchrl.modules import LSTMModule  # noqa: PLC0415

    core = make_core(2, checkpoint_core=True)
    x, memory = make_sequence(3, 8, 2)
    flags = starts_at(3, 8, (0, 3), (2, 6))
    peer = LSTMModule(
        lstm=nn.LSTM(SIZE_IN, SIZE, 2, batch_first=True, dtype=torch.float64),
        in_keys=["x", "h", "c"],
        out_keys=["y", "h2", "c2"],
        recurrent_backend="scan",
        recurrent_recompute="full",
        default_recurrent_mode=True,
    )
    peer.lstm.load_state_dict(core.lstm.state_dict())
    with torch.no_grad():
        inputs = core.norm_in(x)
    # It starts an episode from the state that is stored with its first step.
    state = [part.transpose(0, 1)[:, None].expand(3, 8, 2, SIZE) * ~flags[..., None, None] for part in memory]
    data = TensorDict(
        {"x": inputs, "h": state[0], "c": state[1], "is_init": flags[..., None]}, batch_size=[3, 8]
    )
    theirs = core.norm_out(peer(data)["y"])
    torch.testing.assert_close(core.sequence(x, memory, flags), theirs, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- one bad row, modes, no memory


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("resets", [(), ((0, 2), (2, 3))])
def test_a24_one_bad_row_leaves_the_others_bit_identical(
    bad: float, resets: tuple[tuple[int, int], ...]
) -> None:
    core = make_core(2, dtype=torch.float32)
    x, memory = make_sequence(3, 6, 2, dtype=torch.float32)
    spoilt = x.clone()
    spoilt[1, 2] = bad
    flags = starts_at(3, 6, *resets)
    clean, dirty = core.sequence(x, memory, flags), core.sequence(spoilt, memory, flags)
    assert torch.equal(dirty[[0, 2]], clean[[0, 2]])
    assert torch.equal(dirty[1, :2], clean[1, :2])


def test_a_start_frees_a_row_from_a_memory_that_is_not_finite() -> None:
    core = make_core()
    x, memory = make_sequence(2, 3)
    memory.hidden[:, 0] = math.nan
    output = core.sequence(x, memory, starts_at(2, 3, (0, 1)))
    assert output[0, 0].isnan().all()
    assert output[0, 1:].isfinite().all()


def test_a23_modes_make_no_difference() -> None:
    core = make_core(3)
    x, memory = make_sequence(2, 5, 3)
    flags = starts_at(2, 5, (1, 2))
    assert core.lstm.dropout == 0.0
    assert torch.equal(core.train().sequence(x, memory, flags), core.eval().sequence(x, memory, flags))


def test_the_initial_memory_is_zero_in_the_shape_of_the_layers() -> None:
    memory = make_core(3).initial_memory(2)
    assert memory.hidden.shape == memory.cell.shape == (3, 2, SIZE)
    assert not memory.hidden.any()
    assert memory.hidden.dtype is torch.float64


def test_without_a_memory_steps_do_not_depend_on_each_other() -> None:
    core = MemorylessCore(SIZE_IN, SIZE, num_layers=2).double()
    x, memory = make_sequence(2, 4, 2)
    output = core.sequence(x, memory, starts_at(2, 4, (0, 2)))
    for step in range(4):
        alone, after = core.step(x[:, step], memory)
        torch.testing.assert_close(output[:, step], alone, rtol=0, atol=1e-12)
        assert after is memory
    assert core.initial_memory(3).hidden.shape == (2, 3, SIZE)
