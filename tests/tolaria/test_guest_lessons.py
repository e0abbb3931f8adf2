"""Shadow lessons in a stranger's loop, against a tail run by hand and against loops without growth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from esper.kasmina import MorphogeneticModel, build_seeded
from esper.leyline import ConfigError, SeedStage
from esper.tolaria.guest_lessons import ShadowLessons
from esper.tolaria.input_recorder import InputRecorder
from kasmina.growing import grow
from tolaria.loop_toys import TRAIN, Net, grow_net

X, Y = TRAIN[0][:32], TRAIN[1][:32]


class Fussy(Net):
    """Also counts its passes in a buffer, in place, and drops features out at random."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__(norm=True)
        self.neck = nn.Sequential(self.neck, nn.Dropout(0.5))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes.add_(1)
        return super().forward(x)


def teach(model: MorphogeneticModel, loss_fn: object = F.cross_entropy, scale: float = 1.0) -> ShadowLessons:
    """Return lessons that watch a model, whose seeds learn by nothing else."""
    recorder = InputRecorder(64)
    lessons = ShadowLessons(model, recorder, loss_fn, lambda: scale)  # type: ignore[arg-type]
    model.register_forward_pre_hook(recorder, with_kwargs=True)
    model.register_forward_pre_hook(lessons.watch)
    model.teach_in_loop(None)
    return lessons


def incubate(host: nn.Module | None = None, *slots: str) -> MorphogeneticModel:
    """Return a net in which seeds incubate that have left zero."""
    model = grow_net(host)
    for slot_id in slots or ("body",):
        grow(model, slot_id, SeedStage.TRAINING, blueprint="mlp_small")
        with torch.no_grad():
            for parameter in model.seed_parameters(slot_id).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_seed_gets_the_gradient_of_the_loss_with_it_at_full_alpha() -> None:
    model = incubate()
    lessons = teach(model)
    lessons.join(model(X), (Y,)).backward()  # type: ignore[no-untyped-call]
    host, seed = model.host, model.slot("body").seed
    assert isinstance(host, Net)
    assert seed is not None
    features = host.body(X).detach()
    by_hand = F.cross_entropy(host.head(host.neck(features + seed(features))), Y)
    wanted = torch.autograd.grad(by_hand, list(seed.parameters()))
    for parameter, gradient in zip(seed.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)
        assert gradient.count_nonzero() > 0


@pytest.mark.parametrize("host", [Net, Fussy])
def test_the_host_trains_bit_for_bit_as_if_nothing_incubated(host: type[nn.Module]) -> None:
    plain = build_seeded(host, 0)
    model = incubate(copy.deepcopy(plain), "body", "neck")
    lessons = teach(model)
    found, stream = [], torch.get_rng_state()
    for net, ask in ((plain, F.cross_entropy), (model, lambda outputs, y: lessons.join(outputs, (y,)))):
        torch.set_rng_state(stream)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = ask(net(X), Y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found.append((loss.detach(), torch.get_rng_state()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.host.state_dict()[name]), name


class Thrifty(Net):
    """Keeps no activations of the part that a seed grows in: it is run anew in the backward pass."""

    def __init__(self) -> None:
        super().__init__(norm=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.body, x, use_reentrant=False)
        out: Tensor = self.head(checkpoint(self.neck, hidden, use_reentrant=False))
        return out


def test_a_host_that_keeps_no_activations_is_left_as_it_was_and_its_seed_learns_the_same() -> None:
    plain = build_seeded(Thrifty, 0)
    plain(X)
    found = []
    for host in (build_seeded(Thrifty, 0), build_seeded(lambda: Net(norm=True), 0)):
        model = incubate(host)
        loss = teach(model).join(model(X), (Y,))
        for name, buffer in plain.named_buffers():
            assert torch.equal(host.get_buffer(name), buffer), name
        loss.backward()  # type: ignore[no-untyped-call]
        found.append(gradients(model))
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient)


def test_each_of_two_seeds_learns_without_the_other() -> None:
    both, first = incubate(None, "body", "neck"), incubate(None, "body")
    for model in (both, first):
        lessons = teach(model)
        lessons.join(model(X), (Y,)).backward()  # type: ignore[no-untyped-call]
    alone, together = gradients(first), gradients(both)
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert any("slots.neck" in name for name in together)


@pytest.mark.parametrize("factor", [0.25, 1024.0])
def test_a_lesson_carries_every_factor_of_the_loops_loss(factor: float) -> None:
    once, scaled = incubate(), incubate()
    (teach(once).join(once(X), (Y,))).backward()  # type: ignore[no-untyped-call]
    (teach(scaled, scale=factor).join(scaled(X), (Y,)) * factor).backward()  # type: ignore[no-untyped-call]
    for name, gradient in gradients(once).items():
        assert torch.equal(gradients(scaled)[name], gradient * factor), name


def test_two_halves_of_a_batch_add_up_to_the_whole() -> None:
    whole, halves = incubate(), incubate()
    teach(whole).join(whole(X), (Y,)).backward()  # type: ignore[no-untyped-call]
    lessons = teach(halves)
    for part in (slice(0, 16), slice(16, 32)):
        (lessons.join(halves(X[part]), (Y[part],)) / 2).backward()  # type: ignore[no-untyped-call]
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(halves)[name], gradient)


def test_a_lesson_runs_in_the_precision_of_the_loops_pass() -> None:
    seen: list[torch.dtype] = []

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs.float(), targets)

    model = incubate()
    lessons = teach(model, loss_fn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(X)
    lessons.join(outputs, (Y,))
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_a_seed_that_overflows_spoils_its_own_gradient_alone() -> None:
    model = incubate()
    with torch.no_grad():
        for parameter in model.seed_parameters("body").values():
            parameter.fill_(torch.inf)
    loss = teach(model).join(model(X), (Y,))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    for name, gradient in gradients(model).items():
        assert bool(torch.isfinite(gradient).all()) is name.startswith("host."), name


def test_without_gradients_or_seeds_the_loss_is_the_loops_own() -> None:
    model = grow_net()
    calls: list[int] = []

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return F.cross_entropy(outputs, targets)

    lessons = teach(model, loss_fn)
    lessons.join(model(X), (Y,))
    grow(model, "body", SeedStage.TRAINING, blueprint="mlp_small")
    with torch.no_grad():
        lessons.join(model(X), (Y,))
    assert len(calls) == 2


def test_a_seed_that_cannot_reach_the_loss_learns_nothing_and_nothing_breaks() -> None:
    model = incubate()
    lessons = teach(model, lambda outputs, weight: (weight * outputs.detach()).mean())
    weight = torch.ones((), requires_grad=True)
    lessons.join(model(X), (weight,)).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert not any(name.startswith("slots.") for name in gradients(model))


@pytest.mark.parametrize(
    ("loss_fn", "text"),
    [
        (lambda outputs, y: F.cross_entropy(outputs, y, reduction="none"), r"shape \[32\]"),
        (lambda outputs, y: 0.3, "got float"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(loss_fn: object, text: str) -> None:
    model = incubate()
    with pytest.raises(ConfigError, match=f"loss_fn must return a scalar tensor.*{text}"):
        teach(model, loss_fn).join(model(X), (Y,))


def test_outputs_that_were_reshaped_on_the_way_are_refused() -> None:
    model = incubate()
    with pytest.raises(
        ConfigError, match=r"given outputs of shape \[32\].*returns \[32, 3\].*inside loss_fn"
    ):
        teach(model, lambda outputs, y: outputs.mean()).join(model(X)[:, 0], (Y,))


def test_two_passes_for_one_loss_or_none_are_refused() -> None:
    model = incubate()
    lessons = teach(model)
    outputs = model(X) + model(X)
    with pytest.raises(ConfigError, match=r"after 2 training passes.*leave loss_fn= out"):
        lessons.join(outputs, (Y,))
    with pytest.raises(ConfigError, match=r"after 0 training passes.*compile it by grown\.compile"):
        lessons.join(model.host(X), (Y,))


def test_an_evaluation_with_gradients_does_not_count_as_a_pass() -> None:
    model = incubate()
    lessons = teach(model)
    model(X)
    lessons.begin_interval()
    assert lessons.join(model(X), (Y,)).requires_grad


def test_an_interval_without_a_loss_is_refused_while_a_seed_incubates() -> None:
    model = grow_net()
    lessons = teach(model)
    lessons.check_used()
    grow(model, "body", SeedStage.TRAINING, blueprint="mlp_small")
    with pytest.raises(ConfigError, match=r"loss\(\) was not called.*controller.loss"):
        lessons.check_used()
    lessons.join(model(X), (Y,))
    lessons.check_used()
