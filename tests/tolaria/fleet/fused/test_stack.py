"""Segments of many hosts as one, and the statistics of their norms by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper.kasmina import StackContext, UnstackableError, to_arrangement
from esper.tolaria import HostRun
from esper.tolaria.fleet.fused.bank import ParameterBank
from esper.tolaria.fleet.fused.seeds import describe_host
from esper.tolaria.fleet.fused.stack import HostStack, NormRows, find_norms, sign_host
from tolaria.fleet.fused.double_hosts import Kind, cnn, make_host_parts, mlp

pytestmark = pytest.mark.usefixtures("in_double")


def build_runs(norm: str = "batch", num_runs: int = 3) -> list[HostRun]:
    build, _ = Kind(parts=lambda: make_host_parts(cnn(norm), blueprints=("norm",))).builder()
    runs = [build(instance) for instance in range(num_runs)]
    for run in runs:
        run.train_epoch()
    return runs


def run_stack(runs: list[HostRun], inputs: Tensor, context: StackContext) -> Tensor:
    stack = HostStack(runs[0].bench.model)
    weights = ParameterBank([describe_host(run.bench) for run in runs]).weights(is_frozen=True)
    entering = to_arrangement(inputs, stack.arrangement_in)
    return stack.run(entering, 0, lambda _: weights, lambda _: context, lambda _, h: h)


def test_a_pass_of_the_stack_is_the_passes_of_its_hosts() -> None:
    runs = build_runs()
    inputs = runs[0].bench.validation[0][:6]
    running = NormRows([run.bench.model.host for run in runs]).running
    context = StackContext(num_rows=3, is_training=False, running=running)
    found = run_stack(runs, inputs.expand(3, *inputs.shape), context)
    with torch.no_grad():
        wanted = torch.stack([run.bench.model.host.eval()(inputs) for run in runs])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_slots_know_the_segments_around_them() -> None:
    stack = HostStack(build_runs(num_runs=1)[0].bench.model)
    assert stack.segment_of == {"block1": 0, "block2": 1, "block3": 2}
    assert stack.slot_before(3) == "block3"
    assert stack.slot_before(1) == "block1"
    with pytest.raises(ValueError, match="no slot comes before"):
        stack.slot_before(0)


def test_statistics_are_copied_in_put_back_and_written_row_by_row() -> None:
    runs = build_runs()
    hosts = [run.bench.model.host for run in runs]
    rows = NormRows(hosts)
    before = [{name: buffer.clone() for name, buffer in host.named_buffers()} for host in hosts]
    saved = rows.copy()
    for pair in rows.running.values():
        for part in pair:
            part += 1.0
    rows.put_back(saved, torch.tensor([1]))
    rows.write_back([0, 1], [2, 0])
    for place, host in enumerate(hosts):
        for path, norm in find_norms(host).items():
            added = 1.0 if place == 0 else 0.0
            assert torch.equal(norm.get_buffer("running_mean"), before[place][f"{path}.running_mean"] + added)
            count = int(before[place][f"{path}.num_batches_tracked"]) + (2 if place == 0 else 0)
            assert int(norm.get_buffer("num_batches_tracked")) == count


def test_the_size_of_statistics_shows_a_bad_row_and_nothing_where_there_are_none() -> None:
    hosts = [run.bench.model.host for run in build_runs()]
    find_norms(hosts[1])["block2.1"].get_buffer("running_var")[0] = torch.inf
    norms = NormRows(hosts).compute_norms()
    assert norms is not None
    assert norms.isfinite().tolist() == [True, False, True]
    assert NormRows([run.bench.model.host for run in build_runs("group")]).compute_norms() is None


def test_hosts_of_one_signature_are_those_of_one_architecture() -> None:
    def sign(build: object) -> object:
        parts = make_host_parts(build, blueprints=("norm",))  # type: ignore[arg-type]
        return sign_host(Kind(parts=lambda: parts).builder()[0](0).bench.model)

    signs = [sign(each) for each in (cnn(), cnn(), cnn(base=3), cnn("group"), mlp())]
    assert signs[0] == signs[1]
    assert len(set(signs)) == 4
    with pytest.raises(UnstackableError):
        sign(cnn(dropout=0.5))
