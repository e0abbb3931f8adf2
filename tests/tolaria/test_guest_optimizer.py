"""A user's optimiser that follows a growing model: groups, rates, survivors' state, faults; covers
tolaria/guest_gradients.py."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.leyline import ConfigError
from esper.tolaria.guest_optimizer import GuestOptimizer
from esper.tolaria.schedules import compute_newborn_factor

from .guest_toys import OPTIMIZERS, SLOTS, WARMUP, Loop
from .optimizer_toys import are_equal, build_host, build_seed, compute_loss, named, values

each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
amp_optimizers = pytest.mark.parametrize("name", ["sgd-momentum", "adamw", "adam-fused"])


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def _state_of(loop: Loop, module: nn.Module) -> list[dict[str, object]]:
    """Copies of what the optimiser holds for a module's parameters."""
    return [
        {key: _copy(value) for key, value in loop.optimizer.state.get(p, {}).items()}
        for p in module.parameters()
    ]


def _are_same(first: list[dict[str, object]], second: list[dict[str, object]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(_is_same(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def _is_same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return first == second


# ---------------------------------------------------------------------- groups


def test_a_seed_copies_every_setting_of_its_reference_group() -> None:
    loop = Loop("sgd-momentum", "OneCycleLR")
    loop.germinate("s1")
    reference = loop.optimizer.param_groups[1]
    apart = {"params", "param_names", "name", "lr", "weight_decay"}
    for group in loop.optimizer.param_groups[2:]:
        assert {k: v for k, v in group.items() if k not in apart} == {
            k: v for k, v in reference.items() if k not in apart
        }
    assert {"initial_lr", "max_lr", "min_lr", "momentum", "max_momentum", "nesterov"} <= reference.keys()


@pytest.mark.parametrize("is_named", [True, False])
def test_names_of_groups_are_kept_as_the_user_has_them(is_named: bool) -> None:
    loop = Loop(is_named=is_named)
    loop.germinate("s1")
    names = [group.get("param_names") for group in loop.optimizer.param_groups]
    assert names[2:] == ([["s1.weight"], ["s1.bias"]] if is_named else [None, None])
    assert list(loop.guest.parameters()) == [*named(loop.host, "host"), "s1.weight", "s1.bias"]


def test_a_parameter_without_any_name_is_named_by_its_position() -> None:
    host = build_host()
    guest = GuestOptimizer(torch.optim.SGD(host.parameters(), lr=0.1))
    assert list(guest.parameters())[:2] == ["group0.0", "group0.1"]


def test_the_hosts_first_group_is_followed_where_none_holds_the_reference() -> None:
    loop = Loop()
    loop.germinate("s1", reference=None)
    loop.germinate("s2", reference=nn.Parameter(torch.zeros(1)))
    for slot in ("s1", "s2"):
        assert loop.guest.learning_rate(slot) == loop.rates()[0] / (WARMUP + 1)


def test_a_seed_inside_of_a_seed_follows_the_same_host_group_and_outlives_it() -> None:
    loop = Loop()
    outer = loop.germinate("s1")
    loop.germinate("s2", reference=next(outer.parameters()))
    loop.cull("s1")
    loop.optimizer.param_groups[1]["lr"] = 0.7
    assert loop.guest.learning_rate("s2") == 0.7 / (WARMUP + 1)


def test_parameters_that_the_user_put_in_already_move_with_their_state() -> None:
    host, seed = build_host(), build_seed(1)
    everything = named(host, "host") | named(seed, "s1")
    optimizer = torch.optim.AdamW(everything.items(), lr=0.01)
    for batch in range(3):
        compute_loss(host, {"s1": seed}, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    before = optimizer.state[seed.weight]["exp_avg"].clone()
    guest = GuestOptimizer(optimizer)
    guest.add_seed("s1", named(seed, "s1"), reference=next(host.parameters()))
    assert [len(group["params"]) for group in optimizer.param_groups] == [6, 1, 1]
    assert optimizer.param_groups[0]["param_names"] == list(named(host, "host"))
    assert torch.equal(optimizer.state[seed.weight]["exp_avg"], before)
    guest.check_consistency(everything)


def test_a_birth_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(scheduler="LambdaLR")
    seed = build_seed(1)
    optimizer = loop.optimizer
    optimizer.add_param_group({"params": list(named(seed, "s1").items())})
    loop.schedulers[0].lr_lambdas.append(loop.schedulers[0].lr_lambdas[0])  # type: ignore[attr-defined]
    for name in ("base_lrs", "_last_lr"):
        getattr(loop.schedulers[0], name).append(0.01)
    before = [(list(g["params"]), list(g["param_names"])) for g in optimizer.param_groups]
    add, calls = optimizer.add_param_group, []

    def fail_at_second(group: dict[str, object]) -> None:
        calls.append(group)
        if len(calls) == 2:
            raise MemoryError
        add(group)

    monkeypatch.setattr(optimizer, "add_param_group", fail_at_second)
    with pytest.raises(MemoryError):
        loop.guest.add_seed("s1", named(seed, "s1"), reference=None)
    after = [(list(g["params"]), list(g["param_names"])) for g in optimizer.param_groups]
    assert [[id(p) for p in g] for g, _ in after] == [[id(p) for p in g] for g, _ in before]
    assert [n for _, n in after] == [n for _, n in before]
    assert loop.guest.seed_slots == ()
    assert len(loop.schedulers[0].base_lrs) == 3


def test_a_slot_with_groups_takes_no_second_seed_and_no_parameter_twice() -> None:
    loop = Loop()
    seed = loop.germinate("s1")
    with pytest.raises(RuntimeError, match=r"'s1' has optimiser groups already: remove_seed\(\) first"):
        loop.germinate("s1")
    with pytest.raises(RuntimeError, match=r"'s2\.weight' of slot 's2' is in the groups of slot 's1'"):
        loop.guest.add_seed("s2", named(seed, "s2"), reference=None)


@pytest.mark.parametrize("call", ["remove_seed", "fossilize", "set_birth", "learning_rate"])
def test_a_slot_without_groups_is_named_with_the_nearest(call: str) -> None:
    loop = Loop()
    loop.germinate("s1")
    with pytest.raises(RuntimeError, match="slot 's11' has no optimiser groups: did you mean 's1'"):
        getattr(loop.guest, call)("s11")


def test_what_needs_no_gradient_gets_no_group() -> None:
    loop = Loop()
    loop.guest.add_seed("s1", named(build_seed(1).requires_grad_(False), "s1"), reference=None)
    assert len(loop.optimizer.param_groups) == 2
    loop.guest.remove_seed("s1")


# ---------------------------------------------------------------------- rates


def test_a_seed_warms_up_over_optimizer_steps_whatever_the_user_sets() -> None:
    loop = Loop()
    for batch in range(12):
        if batch == 3:
            loop.germinate("s1")
        loop.optimizer.param_groups[1]["lr"] = rate = 0.1 / (batch + 1)
        for group in loop.optimizer.param_groups[2:]:
            group["lr"] = 99.0
        loop.train(batch)
        expected = rate * compute_newborn_factor(batch - 3, WARMUP)
        assert loop.rates()[2:] == ([expected] * 2 if batch >= 3 else [])
    assert loop.guest.num_steps == 12


def test_several_backward_passes_are_one_step() -> None:
    loop = Loop()
    loop.germinate("s1")
    for batch in range(4):
        compute_loss(loop.host, dict(loop.seeds), batch).backward()  # type: ignore[no-untyped-call]
    loop.optimizer.step()
    assert loop.guest.num_steps == 1


def test_a_fossil_has_the_hosts_rate_and_a_multiplier_ends_there() -> None:
    host = build_host()
    optimizer = torch.optim.SGD(host.parameters(), lr=0.1)
    guest = GuestOptimizer(optimizer, newborn_warmup_batches=0, newborn_multiplier=3.0)
    guest.add_seed("s1", named(build_seed(1), "s1"), reference=None)
    assert guest.learning_rate("s1") == pytest.approx(0.3)
    guest.fossilize("s1")
    assert guest.learning_rate("s1") == 0.1


@each_optimizer
def test_a_frozen_seed_does_not_move(name: str) -> None:
    loop = Loop(name)
    seed = loop.germinate("s1")
    loop.train(0)
    loop.guest.set_frozen("s1", True)
    before = values(seed)
    for batch in range(1, 4):
        loop.train(batch)
    assert are_equal(before, values(seed))
    loop.guest.set_frozen("s1", False)
    loop.train(4)
    assert not are_equal(before, values(seed))


def test_a_later_birth_starts_the_warm_up_again() -> None:
    loop = Loop()
    loop.germinate("s1")
    for batch in range(8):
        loop.train(batch)
    assert loop.guest.learning_rate("s1") == 0.02
    loop.guest.set_birth("s1")
    assert loop.guest.learning_rate("s1") == 0.02 / (WARMUP + 1)
    loop.guest.set_birth("s1", 6)
    assert loop.guest.learning_rate("s1") == pytest.approx(0.02 * 3 / (WARMUP + 1))


def test_a_weight_decay_that_the_user_changes_is_followed() -> None:
    loop = Loop()
    loop.germinate("s1")
    loop.optimizer.param_groups[1]["weight_decay"] = 0.7
    loop.optimizer.step()
    assert [group["weight_decay"] for group in loop.optimizer.param_groups[2:]] == [0.7, 0.7]


def test_a_momentum_that_the_user_changes_is_followed() -> None:
    for name, key, value in (("sgd-momentum", "momentum", 0.3), ("adamw", "betas", (0.3, 0.9))):
        loop = Loop(name)
        loop.germinate("s1")
        loop.optimizer.param_groups[1][key] = value
        loop.optimizer.step()
        assert [group[key] for group in loop.optimizer.param_groups[2:]] == [value, value]


def test_closed_it_follows_no_more() -> None:
    loop = Loop()
    loop.germinate("s1")
    loop.guest.close()
    loop.optimizer.param_groups[2]["lr"] = 99.0
    loop.optimizer.step()
    assert loop.rates()[2] == 99.0
    assert loop.guest.num_steps == 0


def test_torchs_own_load_of_the_optimizer_does_not_lose_the_groups() -> None:
    loop = Loop("sgd-momentum")
    loop.germinate("s1")
    loop.train(0)
    loop.optimizer.load_state_dict(loop.optimizer.state_dict())
    loop.optimizer.param_groups[1]["lr"] = 0.5
    loop.train(1)
    assert loop.rates()[2] == 0.5 * 2 / (WARMUP + 1)
    loop.cull("s1")
    assert len(loop.optimizer.param_groups) == 2


# ---------------------------------------------------------------------- births and deaths


@each_optimizer
@settings(max_examples=5, deadline=None)
@given(events=st.lists(st.sampled_from(["step", "step", *SLOTS]), min_size=2, max_size=10))
def test_births_and_deaths_leave_the_state_of_others_alone(name: str, events: list[str]) -> None:
    loop = Loop(name)
    for batch, event in enumerate(events):
        modules = {"host": loop.host, **{s: m for s, m in loop.seeds.items() if s != event}}
        before = {owner: _state_of(loop, module) for owner, module in modules.items()}
        if event == "step":
            loop.train(batch)
            continue
        if event in loop.seeds:
            loop.cull(event)
        else:
            loop.germinate(event)
        for owner, module in modules.items():
            assert _are_same(before[owner], _state_of(loop, module))
    trainable = {**named(loop.host, "host")}
    for slot, seed in loop.seeds.items():
        trainable |= named(seed, slot)
    loop.guest.check_consistency(trainable)


@pytest.mark.parametrize("name", ["adam", "adam-amsgrad", "adam-fused", "adamw-foreach", "nadam", "radam"])
def test_a_newborn_counts_its_own_steps(name: str) -> None:
    loop = Loop(name)
    for batch in range(5):
        loop.train(batch)
    seed = loop.germinate("s1")
    for batch in range(2):
        loop.train(batch)
    assert [float(loop.optimizer.state[p]["step"]) for p in seed.parameters()] == [2.0, 2.0]
    assert float(loop.optimizer.state[next(iter(loop.host.parameters()))]["step"]) == 7.0


@each_optimizer
def test_nothing_refers_to_a_dead_seed(name: str) -> None:
    scheduler = "StepLR"
    loop = Loop(name, scheduler)
    seed = loop.germinate("s1")
    for batch in range(2):
        loop.train(batch)
    loop.guest.drop_faulty()
    loop.guest.state()
    references = [weakref.ref(parameter) for parameter in seed.parameters()]
    loop.cull("s1")
    del seed
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert len(loop.optimizer.param_groups) == 2
    assert len(loop.optimizer.state) <= len(list(loop.host.parameters()))


def test_a_seed_among_the_given_names_may_go_too() -> None:
    host, seed = build_host(), build_seed(1)
    everything = named(host, "host") | named(seed, "s1")
    optimizer = torch.optim.AdamW(everything.items(), lr=0.01)
    guest = GuestOptimizer(optimizer, host_parameters=everything)
    guest.add_seed("s1", named(seed, "s1"), reference=None)
    reference = weakref.ref(seed.weight)
    guest.remove_seed("s1")
    del seed, everything
    gc.collect()
    assert reference() is None


def test_a_parameter_that_only_one_side_knows_is_named() -> None:
    loop = Loop()
    loop.germinate("s1")
    names = list(loop.guest.parameters())
    loop.guest.check_consistency(names)
    with pytest.raises(RuntimeError, match=r"\['s1.bias'\] in only one of them"):
        loop.guest.check_consistency(names[:-1])
    loop.optimizer.state[nn.Parameter(torch.zeros(1))] = {}
    with pytest.raises(RuntimeError, match="holds 1 parameters that no group has"):
        loop.guest.check_consistency(names)


# ---------------------------------------------------------------------- loss scaling and faults


def _scaled_step(
    loop: Loop, scaler: torch.amp.GradScaler, batch: int, *, fault: Tensor | None = None
) -> None:
    """The documented order, with clipping; `fault` is a gradient that is spoilt after backward."""
    loop.optimizer.zero_grad()
    loss = compute_loss(loop.host, dict(loop.seeds), batch)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if fault is not None and fault.grad is not None:
        fault.grad.view(-1)[1] = math.inf
    loop.guest.drop_faulty(1.0 / scaler.get_scale())
    scaler.unscale_(loop.optimizer)
    nn.utils.clip_grad_norm_(loop.host.parameters(), 1.0)
    scaler.step(loop.optimizer)
    scaler.update()


@amp_optimizers
def test_an_infinity_in_a_seed_alone_skips_that_seed_alone(name: str) -> None:
    loop, twin = Loop(name), Loop(name)
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2)]
    for each, scaler in zip((loop, twin), scalers, strict=True):
        each.germinate("s1")
        _scaled_step(each, scaler, 0)
    before = values(loop.seeds["s1"])
    _scaled_step(loop, scalers[0], 1, fault=loop.seeds["s1"].weight)
    _scaled_step(twin, scalers[1], 1)
    assert are_equal(values(loop.host), values(twin.host))
    assert are_equal(before, values(loop.seeds["s1"]))
    assert [scaler.get_scale() for scaler in scalers] == [1024.0, 1024.0]


@amp_optimizers
def test_an_infinity_in_the_host_skips_all_and_halves_the_scale(name: str) -> None:
    loop = Loop(name)
    loop.germinate("s1")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    _scaled_step(loop, scaler, 0)
    before = values(loop.host), values(loop.seeds["s1"])
    _scaled_step(loop, scaler, 1, fault=next(loop.host.parameters()))
    assert are_equal(before[0], values(loop.host))
    assert are_equal(before[1], values(loop.seeds["s1"]))
    assert scaler.get_scale() == 512.0


def test_after_unscale_it_is_too_late_for_the_host() -> None:
    """Why the order is what it is: `unscale_` has recorded the fault for the whole optimiser."""
    loop = Loop()
    seed = loop.germinate("s1")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = values(loop.host)
    scaler.scale(compute_loss(loop.host, dict(loop.seeds), 0)).backward()  # type: ignore[no-untyped-call]
    assert seed.weight.grad is not None
    seed.weight.grad[0, 0] = math.nan
    scaler.unscale_(loop.optimizer)
    loop.guest.drop_faulty()
    scaler.step(loop.optimizer)
    scaler.update()
    assert are_equal(before, values(loop.host))
    assert scaler.get_scale() == 512.0


def test_a_seed_without_any_gradient_is_no_problem_for_a_scaler() -> None:
    loop = Loop()
    loop.guest.add_seed("idle", named(build_seed(3), "idle"), reference=None)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = values(loop.host)
    _scaled_step(loop, scaler, 0)
    assert not are_equal(before, values(loop.host))
    assert scaler.get_scale() == 8.0


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_flags_name_the_first_faulty_parameter_and_report_unscaled_norms(fault: float) -> None:
    loop = Loop()
    seeds = [loop.germinate("s1", 1), loop.germinate("s2", 2)]
    (1024.0 * compute_loss(loop.host, dict(loop.seeds), 0)).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in seeds[1].parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients)) / 1024.0
    assert seeds[0].bias.grad is not None
    seeds[0].bias.grad[2] = fault
    flags = loop.guest.drop_faulty(1.0 / 1024.0)
    assert flags.seeds["s1"].is_faulty
    assert flags.seeds["s1"].faulty_name == "s1.bias"
    assert flags.seeds["s2"].norm == pytest.approx(norm, rel=1e-5)
    assert flags.seeds["s2"].rms == pytest.approx(norm / math.sqrt(20), rel=1e-5)
    assert not flags.is_host_faulty
    assert [p.grad is None for p in seeds[0].parameters()] == [True, True]
    assert all(p.grad is not None for p in (*seeds[1].parameters(), *loop.host.parameters()))


def test_with_a_faulty_host_every_gradient_stays_for_the_scaler_to_see() -> None:
    loop = Loop()
    seed = loop.germinate("s1")
    compute_loss(loop.host, dict(loop.seeds), 0).backward()  # type: ignore[no-untyped-call]
    for parameter in (seed.weight, next(loop.host.parameters())):
        assert parameter.grad is not None
        parameter.grad[0, 0] = math.nan
    flags = loop.guest.drop_faulty()
    assert flags.host.faulty_name == "host.0.weight"
    assert flags.seeds["s1"].is_faulty
    assert all(p.grad is not None for p in seed.parameters())


def test_no_gradient_at_all_and_a_sparse_one_are_measured() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    guest = GuestOptimizer(torch.optim.SGD(table.parameters(), lr=0.1))
    flags = guest.drop_faulty()
    assert (flags.host.norm, flags.host.has_gradient, flags.host.is_faulty) == (0.0, False, False)
    looked_up: Tensor = table(torch.tensor([1, 1]))
    looked_up.sum().backward()  # type: ignore[no-untyped-call]
    assert guest.drop_faulty().host.norm == pytest.approx(math.sqrt(3 * 4.0))


# ---------------------------------------------------------------------- refusals


def test_what_is_no_optimizer_and_bad_settings_are_refused() -> None:
    optimizer = torch.optim.SGD(build_host().parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"Linear is no torch\.optim\.Optimizer"):
        GuestOptimizer(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"newborn_warmup_batches=-1: must be >= 0"):
        GuestOptimizer(optimizer, newborn_warmup_batches=-1)
    for multiplier in (0.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"newborn_multiplier=.*must be finite and > 0"):
            GuestOptimizer(optimizer, newborn_multiplier=multiplier)


def test_a_wrapper_that_takes_no_hooks_is_refused_by_name() -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.param_groups = inner.param_groups

    inner = torch.optim.SGD(build_host().parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="Wrapper wraps another one and takes no hooks: pass the inner"):
        GuestOptimizer(Wrapper(inner))
