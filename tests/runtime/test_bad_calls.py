"""Bad input at every public call: one sentence that says what, where, and what it takes instead.

Among what is asked here are the checks of `runtime/fit_checks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import esper
from esper.leyline import EsperError
from esper.nissa import RunLog
from esper.runtime.growable import Growable
from nissa.sample_run import numbered, run_events
from runtime.own_models import grow_net, item_losses, train_batches, validation_batches
from tolaria.loop_toys import TRAIN, Net

X = TRAIN[0][:2]


def grow(**changes: object) -> Growable:
    return esper.grow(changes.pop("model", Net()), **({"sample": X} | changes))  # type: ignore[arg-type]


def control(**changes: object) -> esper.Controller:
    grown = grow_net()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    return esper.Controller(grown, changes.pop("optimizer", optimizer), **changes)  # type: ignore[arg-type]


def fit(**changes: object) -> object:
    settings: dict[str, object] = {
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda named: torch.optim.SGD(named, lr=0.1),
        "epochs": 1,
        "progress": False,
    } | changes
    grown = settings.pop("grown", None) or grow_net()
    loaders = settings.pop("train", train_batches()), settings.pop("validation", validation_batches())
    return esper.fit(grown, *loaders, **settings)  # type: ignore[arg-type]


def compare(**changes: object) -> object:
    settings: dict[str, object] = {
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda named: torch.optim.SGD(named, lr=0.1),
        "sample": X,
        "seeds": 1,
        "epochs": 1,
    } | changes
    make = settings.pop("make_model", Net)
    return esper.compare(make, train_batches(), validation_batches(), **settings)  # type: ignore[arg-type]


def in_a_loop(call: Callable[[esper.Controller], object]) -> Callable[[], object]:
    """Return a call of a controller whose interval has trained one step."""

    def run() -> object:
        grown = grow_net()
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
        controller = esper.Controller(grown, optimizer)
        optimizer.step()
        return call(controller)

    return run


def observe_with(evaluate: object) -> Callable[[esper.Controller], object]:
    return lambda controller: controller.observe(evaluate=evaluate)  # type: ignore[arg-type]


def step_with(loss: object) -> Callable[[esper.Controller], object]:
    return lambda controller: controller.step(loss)  # type: ignore[arg-type]


def plant(**changes: object) -> object:
    return grow_net()["body"].germinate(**({"blueprint": "mlp_small"} | changes))  # type: ignore[arg-type]


def in_flight() -> Growable:
    grown = grow_net()
    grown["body"].germinate("mlp_small")
    return grown


def declare(build: Callable[[object], object], name: str = "own", needs: str = "flat") -> object:
    return esper.blueprint(name, needs=needs)(build)  # type: ignore[arg-type]


def opened() -> esper.RunReport:
    records = tuple(numbered(run_events()))
    return esper.RunReport(
        path=Path("run"), log=RunLog(headers=(), records=records), info=None, coalitions=None
    )


CALLS: tuple[tuple[str, Callable[[], object], str], ...] = (
    ("grow: model", lambda: grow(model=None), "model is a NoneType: expected a torch.nn.Module"),
    ("grow: twice", lambda: grow(model=grow()), "can grow already"),
    ("grow: nothing there", lambda: grow(model=nn.Identity()), r"name some by at="),
    ("grow: compiled", lambda: grow(model=torch.compile(Net())), "already compiled.*first"),
    ("grow: wrapped", lambda: grow(model=nn.DataParallel(Net())), "DataParallel.*host.module"),
    ("grow: sample", lambda: grow(sample="x"), r"sample is a str: expected one batch as Net takes it"),
    ("grow: shape", lambda: grow(sample=torch.zeros(2, 5)), r"Net does not take inputs of shape \(5,\)"),
    ("grow: glob", lambda: grow(at=["bodi"]), "at='bodi' fits no module.*did you mean 'body'"),
    ("grow: no glob", lambda: grow(at=[1]), r"at=\[1\]: expected globs"),
    ("grow: a number", lambda: grow(at=3), "at=3: expected globs"),
    ("grow: pair", lambda: grow(at=["body.0->head"]), "cannot grow wider"),
    ("grow: blueprint", lambda: grow(blueprints=["mpl"]), "unknown blueprint 'mpl': did you mean 'mlp'"),
    ("grow: one blueprint", lambda: grow(blueprints="mpl"), "did you mean 'mlp'"),
    ("grow: class", lambda: grow(blueprints=[nn.Linear]), "under @esper.blueprint"),
    ("grow: policy", lambda: grow(policy="heuristc"), "unknown policy 'heuristc': did you mean 'heuristic'"),
    ("grow: ppo", lambda: grow(policy="ppo"), "trains a policy on many hosts"),
    ("grow: greedy", lambda: grow(policy="greedy"), "plants by scores"),
    ("grow: no policy", lambda: grow(policy=3), "policy is a int: expected a name such as 'heuristic'"),
    ("grow: budget", lambda: grow(budget={"params": 2}), r"budget is a dict: expected esper\.Budget\("),
    ("grow: layout", lambda: grow(layout="nhcw"), "unknown layout 'nhcw': did you mean 'nhwc'"),
    ("grow: seed", lambda: grow(seed=-1), "seed=-1: expected a whole number >= 0"),
    ("grow: seed's kind", lambda: grow(seed="a"), "seed='a': expected a whole number"),
    ("budget: params", lambda: esper.Budget(params=0.5), "budget.params=0.5: .* >= 1, e.g. 1.3"),
    ("budget: flops", lambda: esper.Budget(flops=float("nan")), "budget.flops=nan"),
    ("budget: seeds", lambda: esper.Budget(seeds=-1), "budget.seeds=-1: must be >= 0"),
    ("propose: model", lambda: esper.propose(None, X), "model is a NoneType"),  # type: ignore[arg-type]
    ("propose: sample", lambda: esper.propose(Net(), torch.zeros(2, 3)), "does not take inputs"),
    ("slot", lambda: grow_net()["bodi"], "unknown slot 'bodi': did you mean 'body'"),
    ("germinate: blueprint", lambda: plant(blueprint="mpl_small"), "did you mean 'mlp_small'"),
    ("germinate: blend", lambda: plant(blend="addd"), "unknown blend 'addd': did you mean 'add'"),
    ("germinate: twice", lambda: in_flight()["body"].germinate("mlp"), "legal next stages: BLENDING, CULLED"),
    ("blend: nobody counts", lambda: in_flight()["body"].blend(steps=3), r"blend\(steps=0\)"),
    ("blend: steps", lambda: in_flight()["body"].blend(steps=-1), "steps=-1: must be >= 0"),
    ("blend: shape", lambda: in_flight()["body"].blend(steps=0, shape="cosin"), "did you mean 'cosine'"),
    ("fossilize: empty", lambda: grow_net()["body"].fossilize(), "in stage DORMANT; legal next stages"),
    ("cull: empty", lambda: grow_net()["body"].cull(), "cannot cull slot 'body' in stage DORMANT"),
    ("export: in flight", lambda: in_flight().export(), r"still in flight: body.*allow_unfinished=True"),
    ("compile: mode", lambda: grow_net().compile(mode="fast"), "unknown mode 'fast'"),
    ("save: suffix", lambda: esper.save_exported(Net(), "net.pth", X), r"\.pt2"),
    ("save: what", lambda: esper.save_exported(3, "net.pt2", X), "got int"),  # type: ignore[arg-type]
    ("controller: model", lambda: esper.Controller(Net(), None), "what esper.grow returns, got Net"),  # type: ignore[arg-type]
    ("controller: optimiser", lambda: control(optimizer="sgd"), "str is no torch.optim.Optimizer"),
    (
        "controller: another's optimiser",
        lambda: control(optimizer=torch.optim.SGD(Net().parameters(), lr=0.1)),
        "holds none of the model's 6 trainable tensors: make it of grown.parameters",
    ),
    (
        "controller: one group",
        lambda: control(optimizer=torch.optim.LBFGS(grow_net().parameters())),
        "holds none|LBFGS cannot follow",
    ),
    ("controller: scheduler", lambda: control(scheduler="cosine"), "str is no torch.optim.lr_scheduler"),
    ("controller: policy", lambda: control(policy="heurstic"), "did you mean 'heuristic'"),
    ("controller: metric", lambda: control(metric="quality"), "say higher_is_better=True or False"),
    ("controller: scale", lambda: control(metric_scale=-1.0), "metric_scale=-1.0: must be finite and > 0"),
    ("controller: epochs", lambda: control(epochs=0), "horizon=0: must be >= 1"),
    ("controller: threshold", lambda: control(keep_threshold=-1.0), "keep_threshold=-1.0: must be"),
    ("controller: accumulation", lambda: control(accumulation=0), "accumulation=0: must be >= 1"),
    ("controller: scaler", lambda: control(scaler=3), "scaler is a int: expected a torch.amp.GradScaler"),
    ("controller: loss", lambda: control(loss_fn=3), "loss_fn is a int: expected a function"),
    ("act: twice", in_a_loop(lambda c: c.act()), "the order is act, train, observe"),
    ("observe: nothing", in_a_loop(lambda c: c.observe()), "needs metrics, or evaluate="),
    ("observe: no step", lambda: control().observe(1.0), "without an optimiser step"),
    ("observe: text", in_a_loop(lambda c: c.observe("good")), "'good' .str.: expected a finite number"),
    ("observe: nan", in_a_loop(lambda c: c.observe(float("nan"))), "expected a finite number"),
    ("observe: another", in_a_loop(lambda c: c.observe({"acc": 0.3})), "'acc', not the metric 'loss'"),
    ("observe: evaluate", in_a_loop(observe_with(3)), "evaluate is a int: expected a function"),
    ("step: text", in_a_loop(step_with("low")), r"step\(\) was given 'low': expected the batch's loss"),
    ("step: many", in_a_loop(lambda c: c.step(torch.zeros(3))), r"a tensor of shape \[3\]"),
    ("unscale", in_a_loop(lambda c: c.unscale()), "pass scaler="),
    ("loss", in_a_loop(lambda c: c.loss(X)), "pass loss_fn="),
    ("load", lambda: control().load("nowhere"), "no checkpoint in nowhere"),
    ("save: a file", lambda: control().save(Path(__file__)), "is a file: name a folder"),
    ("fit: model", lambda: fit(grown=Net()), "got Net: grow it first"),
    ("fit: loss", lambda: fit(loss="ce"), "loss is a str: expected a function .outputs, targets."),
    ("fit: no loss", lambda: fit(loss=None), "pass loss= to fit"),
    ("fit: optimiser", lambda: fit(optimizer=None), "optimizer is NoneType: expected"),
    ("fit: optimiser made", lambda: fit(optimizer=lambda named: None), "optimizer returned NoneType"),
    ("fit: scheduler", lambda: fit(scheduler="cosine"), "scheduler is a str: expected a function"),
    ("fit: metrics", lambda: fit(metrics={"f1": 3}), r"metrics\['f1'\] is a int"),
    ("fit: callback", lambda: fit(callbacks=[3]), r"callbacks\[0\] is a int"),
    ("fit: validation", lambda: fit(validation=None), "validation loader is a NoneType: expected"),
    ("fit: epochs", lambda: fit(epochs=1.5), "epochs=1.5: must be a whole number"),
    ("fit: folder", lambda: fit(folder=Path(__file__)), "is a file: name a folder"),
    ("compare: arm", lambda: compare(arms=["grow", "nevr"]), "unknown arm 'nevr': did you mean 'never'"),
    ("compare: model", lambda: compare(make_model=Net()), "make_model is a Net: expected a function"),
    ("compare: made", lambda: compare(make_model=lambda: None), "model is a NoneType"),
    ("compare: wider", lambda: compare(arms=["grow", "wider"]), "needs make_wider="),
    ("compare: seeds", lambda: compare(seeds=0), "seeds=0: must be >= 1"),
    ("compare: optimiser", lambda: compare(optimizer=3), "optimizer is int: expected"),
    ("blueprint: layout", lambda: declare(lambda spec: None, needs="3d"), "needs='3d': did you mean '2d'"),
    ("blueprint: nothing", lambda: declare(lambda spec: None), "returns NoneType .*expected an nn.Module"),
    ("blueprint: contract", lambda: declare(lambda spec: nn.Identity()), "delta is not 0 at birth"),
    ("open_run: folder", lambda: esper.open_run("runs/none"), "runs/none holds no events"),
    ("open_run: a number", lambda: esper.open_run(3), "path is a int: expected a run directory"),  # type: ignore[arg-type]
    ("runreport: figure", lambda: opened().plot("timline"), "no figure 'timline'; it has timeline"),
    ("blueprint: name", lambda: declare(lambda spec: nn.Identity(), name=""), "neither may be empty"),
)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("call", "message"), [pytest.param(c, m, id=name) for name, c, m in CALLS])
def test_a_bad_call_is_refused_in_one_sentence(
    call: Callable[[], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EsperError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_every_public_call_is_among_them() -> None:
    covered = {name.partition(":")[0] for name, _, _ in CALLS}
    other_names = {"growable": "slot", "save_exported": "save"}
    assert {other_names.get(name.lower(), name.lower()) for name in esper.__all__} <= covered


def test_after_a_refused_call_the_loop_goes_on() -> None:
    grown = grow_net()
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    with pytest.raises(EsperError):
        esper.Controller(grown, optimizer, scaler=3)  # type: ignore[arg-type]
    controller = esper.Controller(grown, optimizer)
    optimizer.step()
    with pytest.raises(EsperError):
        controller.observe("good")
    controller.observe(evaluate=item_losses)
    assert controller.epoch == 1
