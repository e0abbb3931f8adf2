"""A grown model under `torch.compile`: no break in its graph, and compiled anew for topologies alone.

The backend counts and hands the graph back, so that what is tested is what dynamo makes of hooks and slots
(`runtime.growable`), not a code generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from esper.runtime.controller import Controller
from esper.runtime.growable import Growable
from esper.tolaria import LoopLoss
from runtime.own_models import grow_net, train_batches
from tolaria.loop_toys import Script, advance, germinate

pytestmark = [
    pytest.mark.slow,
    # torch's own compiler imports a name that it has deprecated itself.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    # The compiler makes an instance of an autograd function to look at it, which torch warns of.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
]


@dataclass
class Counter:
    """A backend that runs graphs as they are."""

    graphs: int = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        self.graphs += 1
        return graph.forward


def compile_host(grown: Growable, counter: Counter) -> None:
    """Do as `Growable.compile` does, with a backend that counts."""
    grown.model._forward_host = (torch.compile(grown.host, backend=counter, fullgraph=True),)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_whole_life_is_one_graph_per_topology_without_a_break() -> None:
    grown = grow_net(policy=Script([None, germinate(), None, advance()]))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.05)
    controller = Controller(grown, optimizer)
    counter = Counter()
    compiled = torch.compile(grown, backend=counter, fullgraph=True)
    graphs = []
    for _ in range(7):
        controller.act()
        for x, y in train_batches():
            optimizer.zero_grad()
            F.cross_entropy(compiled(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        graphs.append(counter.graphs)

        def losses(model: torch.nn.Module) -> Tensor:
            x, y = train_batches()[0]
            with torch.no_grad():
                return F.cross_entropy(model(x), y, reduction="none")

        controller.observe(evaluate=losses)
    grown["body"].fossilize()
    compiled(train_batches()[0][0]).sum().backward()
    graphs.append(counter.graphs)
    born, blending = graphs[1] - graphs[0], graphs[3] - graphs[2]
    assert graphs[0] == 1
    assert born == 1
    assert graphs[2] == graphs[1]
    assert blending <= 2  # once at alpha 0, where the seed is skipped, once for every alpha above
    assert graphs[3] == graphs[-1]


def test_seeds_learn_by_their_true_loss_beside_a_compiled_host() -> None:
    def train(*, is_compiled: bool) -> tuple[list[Tensor], int]:
        grown = grow_net(policy=Script([germinate(), None, advance()]))
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.05)
        controller = Controller(grown, optimizer, loss_fn=F.cross_entropy)
        counter = Counter()
        if is_compiled:
            compile_host(grown, counter)
        for _ in range(4):
            controller.act()
            for x, y in train_batches():
                optimizer.zero_grad()
                controller.loss(grown(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            controller.observe(0.5)
        return [p.detach().clone() for p in grown.parameters()], counter.graphs

    (plain, _), (compiled, graphs) = train(is_compiled=False), train(is_compiled=True)
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b)
    assert graphs <= 3  # silent, incubating, open


def test_compiled_and_plain_training_give_the_same_numbers() -> None:
    def train(*, is_compiled: bool) -> list[float]:
        grown = grow_net(policy=Script([germinate(), None, advance()]))
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.05)
        controller = Controller(grown, optimizer)
        forward = torch.compile(grown, backend=Counter(), fullgraph=True) if is_compiled else grown
        losses = []
        for _ in range(4):
            controller.act()
            for x, y in train_batches():
                optimizer.zero_grad()
                loss = F.cross_entropy(forward(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(float(loss.detach()))
            controller.observe(losses[-1])
        return losses

    assert train(is_compiled=True) == pytest.approx(train(is_compiled=False), abs=1e-6)


@pytest.mark.parametrize("loss_fn", [None, F.cross_entropy], ids=["residual", "shadow"])
def test_isolation_identity_and_the_optimisers_set_hold_for_a_compiled_model(
    loss_fn: LoopLoss | None,
) -> None:
    hosts: list[list[dict[str, Tensor]]] = []
    for actions in ([], [None, germinate(), None, None, advance()]):
        grown = grow_net(policy=Script(actions), norm=True)
        counter = Counter()
        compile_host(grown, counter)
        optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-2)
        controller = Controller(grown, optimizer, loss_fn=loss_fn)
        ask = F.cross_entropy if loss_fn is None else controller.loss
        states, graphs, probe = [], [], train_batches()[0][0]
        for _ in range(7):
            grown.eval()
            with torch.no_grad():
                before = grown(probe)
                controller.act()
                assert torch.equal(grown(probe), before)  # born at 0, and opened at alpha 0
            grown.train()
            for x, y in train_batches():
                optimizer.zero_grad()
                loss = ask(grown(x), y)
                assert isinstance(loss, Tensor)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            held = [id(p) for group in optimizer.param_groups for p in group["params"]]
            assert sorted(held) == sorted({id(p) for p in grown.parameters()})
            controller.observe(0.5)
            states.append({name: value.clone() for name, value in grown.host.state_dict().items()})
            graphs.append(counter.graphs)
        hosts.append(states)
    for never, isolated in zip(hosts[0][:4], hosts[1][:4], strict=True):
        assert all(torch.equal(never[name], isolated[name]) for name in never)
    assert any(not torch.equal(hosts[0][-1][name], hosts[1][-1][name]) for name in hosts[0][-1])
    assert graphs[-1] == graphs[-2]  # none that an epoch alone brings
