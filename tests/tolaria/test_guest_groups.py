"""Groups of seeds in a user's optimiser: the host's own rule of weight decay, refusals, what is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper.leyline import ConfigError
from esper.tolaria.guest_groups import describe_missing, missing_from
from esper.tolaria.guest_optimizer import GuestOptimizer

from .optimizer_toys import build_host, build_seed, named


def _decays(host_groups: list[dict[str, object]], reference: nn.Parameter | None) -> list[float]:
    """Weight decay of a seed's matrix and of its bias."""
    optimizer = torch.optim.AdamW(host_groups, lr=0.01, weight_decay=0.3)
    GuestOptimizer(optimizer).add_seed("s1", named(build_seed(1), "s1"), reference=reference)
    return [group["weight_decay"] for group in optimizer.param_groups[len(host_groups) :]]


def _split(host: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    parameters = list(host.parameters())
    return [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]


def test_a_host_that_decays_everything_has_seeds_that_decay_everything() -> None:
    assert _decays([{"params": list(build_host().parameters())}], None) == [0.3, 0.3]


@pytest.mark.parametrize("is_norm_the_reference", [True, False])
def test_a_host_that_spares_its_vectors_has_seeds_that_do(is_norm_the_reference: bool) -> None:
    host = build_host()
    matrices, vectors = _split(host)
    groups: list[dict[str, object]] = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices}]
    reference = vectors[1] if is_norm_the_reference else matrices[0]
    assert _decays(groups, reference) == [0.3, 0.0]


def test_a_host_without_vectors_spares_those_of_its_seeds() -> None:
    matrices, _ = _split(build_host())
    assert _decays([{"params": matrices}], matrices[0]) == [0.3, 0.0]


def test_a_host_of_vectors_alone_gives_its_decay_to_both() -> None:
    _, vectors = _split(build_host())
    assert _decays([{"params": vectors}], vectors[0]) == [0.3, 0.3]


def test_the_rule_is_read_from_a_group_of_the_same_rate_before_others() -> None:
    first, second = build_host(1), build_host(2)
    groups: list[dict[str, object]] = []
    for host, rate, decay in ((first, 0.1, 0.7), (second, 0.2, 0.9)):
        matrices, vectors = _split(host)
        groups.append({"params": matrices, "lr": rate, "weight_decay": decay})
        groups.append({"params": vectors, "lr": rate, "weight_decay": 0.1 * decay})
    _, vectors = _split(second)
    assert _decays(groups, vectors[0]) == pytest.approx([0.9, 0.09])


def test_a_scale_and_a_gate_count_as_vectors() -> None:
    matrices, vectors = _split(build_host())
    groups: list[dict[str, object]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.3)
    shapes = {"s1.scale": (4, 1, 1), "s1.gate": (2, 2), "s1.kernel": (4, 2, 1)}
    seed = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    GuestOptimizer(optimizer).add_seed("s1", seed, reference=None)
    decay, spared = optimizer.param_groups[2:]
    assert [id(p) for p in decay["params"]] == [id(seed["s1.kernel"])]
    assert [decay["weight_decay"], spared["weight_decay"]] == [0.3, 0.0]


def test_an_optimizer_without_weight_decay_gets_none() -> None:
    class Plain(torch.optim.Optimizer):
        def __init__(self, params: list[nn.Parameter], lr: float) -> None:
            super().__init__(params, {"lr": lr})

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.add_(parameter.grad, alpha=-group["lr"])

    optimizer = Plain(list(build_host().parameters()), 0.5)
    GuestOptimizer(optimizer).add_seed("s1", named(build_seed(1), "s1"), reference=None)
    assert [sorted(group) for group in optimizer.param_groups[1:]] == [["lr", "name", "params"]] * 2


def _matrices() -> list[nn.Parameter]:
    return _split(build_host())[0]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: torch.optim.LBFGS(build_host().parameters()), "optimiser LBFGS cannot .* one group only"),
        (lambda: torch.optim.Rprop(build_host().parameters()), "optimiser Rprop cannot .* start value only"),
        (lambda: torch.optim.ASGD(build_host().parameters()), "optimiser ASGD cannot .* a step late"),
        (lambda: torch.optim.SparseAdam(build_host().parameters()), "SparseAdam cannot .* sparse gradients"),
        (lambda: torch.optim.Muon(_matrices()), "optimiser Muon cannot .* matrices only"),
    ],
)
def test_an_optimizer_that_cannot_follow_is_refused_by_name(
    build: Callable[[], torch.optim.Optimizer], text: str
) -> None:
    with pytest.raises(ConfigError, match=text + r".*use torch\.optim\.SGD, Adam or AdamW"):
        GuestOptimizer(build())


def test_groups_without_a_rate_and_no_groups_are_refused() -> None:
    optimizer = torch.optim.SGD(build_host().parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(ConfigError, match="SGD: group 0 has lr=None, expected a number"):
        GuestOptimizer(optimizer)
    del optimizer.param_groups[:]
    with pytest.raises(ConfigError, match="SGD has no parameter group"):
        GuestOptimizer(optimizer)


def test_an_optimizer_that_refuses_groups_says_so_in_our_error() -> None:
    class Closed(torch.optim.SGD):
        def add_param_group(self, param_group: dict[str, object]) -> None:
            if self.param_groups:
                raise ValueError("only one group, please")
            super().add_param_group(param_group)

    optimizer = Closed(build_host().parameters(), lr=0.1)
    guest = GuestOptimizer(optimizer)
    with pytest.raises(ConfigError, match="Closed did not take the groups of slot 's1': only one group"):
        guest.add_seed("s1", named(build_seed(1), "s1"), reference=None)
    assert guest.seed_slots == ()


def test_two_parameters_of_one_name_are_refused() -> None:
    host, other = build_host(1), build_host(2)
    optimizer = torch.optim.SGD(
        [{"params": list(host.named_parameters())}, {"params": list(other.named_parameters())}], lr=0.1
    )
    with pytest.raises(ConfigError, match=r"two parameters of the name '0\.weight'"):
        GuestOptimizer(optimizer).parameters()


def test_what_the_optimizer_lacks_is_found_and_described() -> None:
    host, seed = build_host(), build_seed(1)
    optimizer = torch.optim.AdamW(host.parameters(), lr=0.1)
    seed.bias.requires_grad_(False)
    names = missing_from(optimizer, named(host, "host") | named(seed, "s1"))
    assert names == ("s1.weight",)
    text = describe_missing("s1", names)
    assert "slot 's1' (s1.weight): the seed is not trained" in text
    assert "controller = esper.Controller(grown, optimizer)" in text
    optimizer.add_param_group({"params": [seed.weight]})
    assert missing_from(optimizer, named(host, "host") | named(seed, "s1")) == ()
