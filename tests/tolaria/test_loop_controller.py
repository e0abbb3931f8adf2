"""Growth in somebody else's loop.

Also of tolaria/loop_config.py, tolaria/loop_facts.py, tolaria/offers.py, tolaria/interval_totals.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper.kasmina import GateConfig, build_seeded
from esper.leyline import (
    ConfigError,
    DecisionMade,
    Event,
    MetricSpec,
    Notice,
    SeedFossilized,
    SeedStage,
    StageChanged,
)
from esper.tolaria import Budget, LoopConfig
from tolaria.loop_toys import (
    BATCHES,
    TRAIN,
    Loop,
    Net,
    Script,
    advance,
    cull,
    fossilize,
    germinate,
    make_loop,
)

LIFE = [germinate(), None, advance(), None, fossilize()]
"""One seed from birth to fossil: incubates two intervals, blends one, is on probation one."""

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda module: torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda module: torch.optim.Adam(module.parameters(), lr=0.01),
    "adamw": lambda module: torch.optim.AdamW(module.named_parameters(), lr=0.01),
}


def _stages(loop: Loop) -> list[str]:
    return [event.new for event in loop.events if isinstance(event, StageChanged)]


def _bare_losses(intervals: int, optimizer: str = "sgd") -> list[float]:
    """Return the losses of the same training without anything of ours."""
    host = build_seeded(Net, 0).train()
    steps = OPTIMIZERS[optimizer](host)
    losses = []
    for _ in range(intervals):
        for batch in range(BATCHES):
            rows = slice(batch * 32, batch * 32 + 32)
            steps.zero_grad()
            loss = nn.functional.cross_entropy(host(TRAIN[0][rows]), TRAIN[1][rows])
            loss.backward()  # type: ignore[no-untyped-call]
            steps.step()
            losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_in_which_nothing_grows_trains_as_if_there_were_no_controller(name: str) -> None:
    loop = make_loop(make_optimizer=OPTIMIZERS[name]).run(3)
    assert loop.losses == _bare_losses(3, name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_incubating_seed_learns_and_changes_no_bit_of_the_host(name: str) -> None:
    loop = make_loop([germinate("body"), germinate("neck")], make_optimizer=OPTIMIZERS[name]).run(3)
    assert loop.losses == _bare_losses(3, name)
    for slot in ("body", "neck"):
        assert loop.model.slot(slot).state.stage is SeedStage.TRAINING
        last = list(loop.model.seed_parameters(slot).values())[-1]
        assert float(last.detach().abs().max()) > 0.0


def test_a_seed_goes_its_whole_way_by_the_policys_decisions_and_the_clock() -> None:
    loop = make_loop(LIFE).run(6)
    assert _stages(loop) == ["GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED"]
    assert any(isinstance(event, SeedFossilized) for event in loop.events)
    assert loop.model.slot("body").state.alpha == 1.0
    assert loop.model.slot("body").state.contribution is not None


def test_alpha_follows_the_optimisers_steps_alone() -> None:
    loop = make_loop(LIFE).run(2)
    loop.controller.act()
    alphas = []
    for _ in range(BATCHES):
        loop.optimizer.zero_grad()
        loop.model(TRAIN[0][:8]).sum().backward()
        loop.model(TRAIN[0][:8]).sum().backward()
        loop.optimizer.step()
        alphas.append(loop.model.slot("body").state.alpha)
    assert alphas == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_trained_is_what_the_optimiser_holds_after_any_move(name: str) -> None:
    actions = [
        germinate("body"),
        germinate("neck", "low_rank"),
        advance("body"),
        cull("neck"),
        fossilize("body"),
    ]
    loop = make_loop(actions, make_optimizer=OPTIMIZERS[name])
    for _ in range(7):
        loop.run(1)
        held = [id(p) for group in loop.optimizer.param_groups for p in group["params"]]
        trained = [id(p) for p in loop.model.parameters() if p.requires_grad]
        assert sorted(held) == sorted(trained)
    assert loop.model.slot("neck").seed is None


def test_gradients_over_several_passes_teach_a_seed_as_one_pass_over_all_does() -> None:
    once, often = (
        make_loop([germinate()]).run(1),
        make_loop([germinate()], accumulation=2).run(1, accumulation=2),
    )
    pairs = zip(
        once.model.seed_parameters("body").values(), often.model.seed_parameters("body").values(), strict=True
    )
    # Not the same to the bit: the target is scaled by the spread of each half instead of the whole.
    for one, other in pairs:
        assert torch.allclose(one, other, rtol=0.3, atol=2e-3)


def test_a_frozen_backbone_is_left_alone_and_its_seed_learns() -> None:
    host = build_seeded(Net, 0)
    for part in (host.get_submodule("body"), host.get_submodule("neck")):
        part.requires_grad_(False)
    before = copy.deepcopy(host.get_submodule("body").state_dict())
    loop = make_loop(
        LIFE,
        host=host,
        make_optimizer=lambda module: torch.optim.SGD(
            [p for p in module.parameters() if p.requires_grad], lr=0.1, momentum=0.9
        ),
    ).run(6)
    assert loop.model.slot("body").state.stage is SeedStage.FOSSILIZED
    assert all(
        torch.equal(value, before[name]) for name, value in host.get_submodule("body").state_dict().items()
    )
    assert all(float(p.detach().abs().max()) > 0.0 for p in loop.model.seed_parameters("body").values())


def test_without_an_evaluation_no_seed_is_kept_and_the_reason_says_so() -> None:
    gates = GateConfig(min_incubation_epochs=1, min_probation_epochs=1, min_measurements=1)
    loop = make_loop(LIFE, gates=gates).run(6, evaluate=False)
    assert loop.model.slot("body").state.stage is SeedStage.PROBATIONARY
    refusals = [event.refusal for event in loop.events if isinstance(event, DecisionMade) and event.refusal]
    assert any(
        "contribution not measured" in str(refusal) or "measurements" in str(refusal) for refusal in refusals
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda loop: loop.controller.observe(0.5),
            "observe\\(\\) without an optimiser step since the last one",
        ),
        (lambda loop: loop.controller.observe(), "observe\\(\\) needs metrics, or evaluate="),
        (
            lambda loop: (_step(loop), loop.controller.act()),
            "act\\(\\) after 1 steps that no observe\\(\\) has ended",
        ),
        (
            lambda loop: (_step(loop), loop.controller.observe({"acc": 1.0})),
            "returned 'acc', not the metric 'loss'",
        ),
        (lambda loop: (_step(loop), loop.controller.observe(float("nan"))), "expected a finite number"),
        (lambda loop: (_step(loop), loop.controller.observe("good")), "is 'good' \\(str\\)"),
    ],
)
def test_a_call_out_of_order_or_without_its_metric_is_refused(
    call: Callable[[Loop], object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        call(make_loop())


def _step(loop: Loop) -> Loop:
    loop.model(TRAIN[0][:8]).sum().backward()
    loop.optimizer.step()
    return loop


def test_an_illegal_decision_is_refused_with_its_reason_and_changes_nothing() -> None:
    loop = make_loop([fossilize()], make_optimizer=OPTIMIZERS["sgd"]).run(1)
    (decision,) = (event for event in loop.events if isinstance(event, DecisionMade))
    assert "stage is DORMANT" in str(decision.refusal)
    assert loop.losses == _bare_losses(1)


def test_the_budget_bounds_parameters_flops_and_seeds() -> None:
    actions = [germinate("body"), germinate("neck")]
    for budget, allowed in (
        (Budget(params=1.5), 0),  # mlp_small adds 280 parameters to a host of 155
        (Budget(flops=1.5), 0),
        (Budget(seeds=1), 1),
        (Budget(seeds=0), 0),
        (Budget(params=5.0, flops=8.0, seeds=2), 2),
    ):
        loop = make_loop(actions, budget=budget).run(2)
        assert sum(slot.state.stage.has_seed for slot in loop.model.each_slot()) == allowed, budget


def test_a_seed_whose_gradient_is_not_finite_is_skipped_alone_and_counted() -> None:
    loop = make_loop([germinate()]).run(1)
    loop.controller.act()
    loop.optimizer.zero_grad()
    nn.functional.cross_entropy(loop.model(TRAIN[0][:32]), TRAIN[1][:32]).backward()  # type: ignore[no-untyped-call]
    seed = list(loop.model.seed_parameters("body").values())
    before = [parameter.detach().clone() for parameter in seed]
    assert seed[0].grad is not None
    seed[0].grad[0] = float("inf")
    host = loop.model.host.get_parameter("head.weight")
    host_before = host.detach().clone()
    loop.optimizer.step()
    assert all(torch.equal(now, then) for now, then in zip(seed, before, strict=True))
    assert not torch.equal(host, host_before)
    assert loop.controller.totals.outcomes()["body"].num_skipped_batches == 1


def test_a_metric_of_unknown_size_gives_its_own_unit_to_every_threshold() -> None:
    loop = make_loop(is_scale_known=False, gates=GateConfig(max_metric_drop=0.02)).run(1)
    first = float(loop.item_losses().mean())
    assert loop.controller.scale == pytest.approx(0.1 * first, rel=0.2)
    gates = loop.model.lifecycle.gates.config
    assert gates.max_metric_drop == pytest.approx(0.02 * loop.controller.scale / 0.1)
    assert loop.controller.look().metric.scale == loop.controller.scale


def test_a_policy_sees_budget_horizon_and_signals() -> None:
    loop = make_loop(budget=Budget(params=2.0), horizon=9).run(2)
    policy = loop.controller.policy
    assert isinstance(policy, Script)
    first, second = policy.seen[:2]
    assert first.budgets.epochs_left == 9
    assert first.budgets.max_added_params == loop.model.host_params
    assert not first.signals.has_history
    assert second.signals.has_history
    assert second.signals.validation_loss > 0.0


def test_flops_are_charged_for_what_was_trained() -> None:
    loop = make_loop().run(2)
    assert loop.controller.ledger.totals()["host_train"] == 3 * loop.model.host_flops * 2 * 32 * BATCHES


def test_measuring_is_charged_pass_by_pass_and_plain_evaluation_beside_the_total() -> None:
    loop = make_loop([germinate()], host=build_seeded(lambda: Net(norm=True), 0)).run(2)
    ledger, model = loop.controller.ledger, loop.model
    seed = model.slot("body").state.flops_per_item
    assert model.slot("body").state.stage is SeedStage.TRAINING
    # Two passes over 100 items per interval: as it is, and with the seed, which is not in the network yet.
    expected = 2 * 100 * (2 * model.host_flops + seed)
    assert ledger.totals()["counterfactual"] == expected
    # Of the latest inputs 128 are remembered after the first interval, 256 after the second.
    assert ledger.totals()["calibration"] == (128 + 256) * (2 * model.host_flops + seed)
    assert ledger.totals()["validation"] == 2 * 100 * model.host_flops
    assert ledger.total == sum(ledger.totals().values()) - ledger.totals()["validation"]


def test_steps_whose_passes_nobody_sees_are_told_once() -> None:
    loop = make_loop()
    texts = []
    for _ in range(2):
        loop.model.host(TRAIN[0][:8]).sum().backward()
        loop.optimizer.step()
        texts += [e.text for e in loop.controller.observe(1.0) if isinstance(e, Notice)]
    assert len(texts) == 1
    assert "call what esper.grow returned itself" in texts[0]


def test_a_seed_for_which_memory_runs_out_is_refused_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = make_loop([germinate(), germinate()])
    whole = loop.model.apply_action

    def exhausted(*args: object, **kwargs: object) -> list[Event]:
        whole(*args, **kwargs)  # type: ignore[arg-type]
        raise MemoryError("9 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(loop.model, "apply_action", exhausted)
        loop.run(1)
    (decision,) = (event for event in loop.events if isinstance(event, DecisionMade))
    assert str(decision.refusal).startswith("memory: 'mlp_small' in 'body' could not be built")
    assert loop.model.slot("body").seed is None
    assert len(loop.optimizer.param_groups) == 1
    loop.run(1)
    assert loop.model.slot("body").seed is not None


def test_a_refused_metric_leaves_the_interval_open() -> None:
    loop = _step(make_loop())
    with pytest.raises(ConfigError, match="expected a finite number"):
        loop.controller.observe(float("nan"))
    assert loop.controller.epoch == 0
    loop.controller.observe(1.0)
    assert loop.controller.epoch == 1


def test_closing_takes_every_hook_off() -> None:
    loop = make_loop().run(1)
    loop.controller.close()
    assert not loop.optimizer._optimizer_step_pre_hooks
    assert not loop.optimizer._optimizer_step_post_hooks
    assert not loop.model._forward_pre_hooks


def test_at_the_end_what_was_not_kept_goes() -> None:
    loop = make_loop([germinate()], host=build_seeded(lambda: Net(norm=True), 0)).run(2)
    loop.controller.finish()
    assert not any(slot.state.stage.is_live for slot in loop.model.each_slot())
    assert len(loop.optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulation": 0}, "loop.accumulation=0: must be >= 1"),
        ({"horizon": 0}, "loop.horizon=0: must be >= 1"),
        ({"keep_threshold": -1.0}, "loop.keep_threshold=-1.0"),
        ({"calibration_items": 1}, "loop.calibration_items=1: must be >= 2"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoopConfig(metric=MetricSpec(name="loss", is_higher_better=False, scale=0.1), **settings)  # type: ignore[arg-type]
