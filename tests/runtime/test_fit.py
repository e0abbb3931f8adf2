"""`esper.fit`: runtime/fit_config.py, runtime/fit_batches.py, runtime/fit_loop.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper.kasmina import build_seeded
from esper.leyline import CheckpointError, ConfigError, GovernorGaveUpError, SeedStage
from esper.runtime.api import grow
from esper.runtime.fit import fit
from esper.runtime.fit_batches import measure_accuracy
from esper.runtime.fit_config import FitConfig
from esper.runtime.fit_loop import FitResult, IntervalReport
from esper.runtime.growable import Growable
from esper.tolaria import GovernorConfig
from runtime.own_models import TokenModel, grow_net, token_batches, train_batches, validation_batches
from tolaria.loop_toys import TRAIN, VALIDATION, Net, Script, advance, fossilize, germinate

LIFE = [germinate(), None, None, advance(), None, None, fossilize()]


def _loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*TRAIN), batch_size=32, shuffle=True)


def _fit(grown: Growable, **changes: object) -> FitResult:
    settings: dict[str, object] = {
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda named: torch.optim.AdamW(named, lr=3e-3),
        "epochs": 8,
        "progress": False,
    }
    settings |= changes
    train = settings.pop("train", train_batches())
    return fit(grown, train, settings.pop("validation", validation_batches()), **settings)  # type: ignore[arg-type]


def test_a_model_is_trained_as_a_plain_loop_trains_it() -> None:
    grown = grow_net()
    _fit(grown, epochs=3)
    host = build_seeded(Net, 0).train()
    optimizer = torch.optim.AdamW(host.named_parameters(), lr=3e-3)
    for _ in range(3):
        for x, y in train_batches():
            optimizer.zero_grad()
            F.cross_entropy(host(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    expected = host.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in grown.host.state_dict().items())


def test_a_seed_grows_through_fit_and_every_interval_is_reported() -> None:
    grown = grow_net(policy=Script(LIFE))
    result = _fit(grown, metrics={"accuracy": measure_accuracy})
    assert [report.interval for report in result.history] == list(range(1, 9))
    assert set(result.metrics) == {"loss", "accuracy"}
    assert 0.0 <= result.metrics["accuracy"] <= 1.0
    lines = [str(event) for report in result.history for event in report.events]
    assert any("GERMINATED" in line for line in lines)
    assert result.flops["seed_train"] > 0
    assert result.history[0].num_params == grown.model.host_params + 280
    assert grown.controller is None


@pytest.mark.parametrize("incubation", ["shadow", "residual"])
def test_seeds_incubate_by_their_true_loss_unless_told_otherwise(incubation: str) -> None:
    grown = grow_net(policy=Script(LIFE))
    changes = {} if incubation == "shadow" else {"incubation": incubation}
    bill = _fit(grown, **changes).flops
    assert (bill.get("incubation", 0) > 0) is (incubation == "shadow")


def test_what_was_not_kept_is_gone_at_the_end_and_the_model_can_leave() -> None:
    grown = grow_net(policy=Script([None, None, germinate()]), norm=True)
    _fit(grown, epochs=4)
    assert not any(slot.state.stage.is_live for slot in grown.model.each_slot())
    plain = grown.export()
    with torch.no_grad():
        assert torch.allclose(plain(TRAIN[0]), grown.eval()(TRAIN[0]), atol=1e-5)


@pytest.mark.parametrize("interval", [None, 2, 3])
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path, interval: int | None) -> None:
    def run(folder: Path | None, stop_at: int | None, *, resume: bool, seed: int = 0) -> Growable:
        torch.set_rng_state(torch.Generator().manual_seed(7).get_state())
        grown = grow_net(policy=Script(LIFE), norm=True, seed=seed)
        _fit(
            grown,
            train=_loader(),
            validation=DataLoader(TensorDataset(*VALIDATION), batch_size=50),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8),
            folder=folder,
            resume=resume,
            interval_batches=interval,
            callbacks=[lambda report: "stop" if report.interval == stop_at else None],
        )
        return grown

    whole = run(None, None, resume=False)
    run(tmp_path, 5, resume=False)
    resumed = run(tmp_path, None, resume=True, seed=4)
    expected = whole.model.state_dict()
    assert set(resumed.model.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_resuming_where_nothing_was_saved_begins_and_a_finished_one_does_nothing(tmp_path: Path) -> None:
    first = _fit(grow_net(), epochs=2, folder=tmp_path, resume=True)
    again = _fit(grow_net(seed=1), epochs=2, folder=tmp_path, resume=True)
    assert len(first.history) == 2
    assert again.history == ()
    assert again.metrics == {}


def test_another_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    _fit(grow_net(norm=True), epochs=1, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"host\.body\.1"):
        _fit(grow_net(), epochs=2, folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval_batches": 2}, r"counts batches as \[4, 4, 1\], this one as \[4, 2, 1\]"),
        ({"train": train_batches(16)}, r"counts batches as \[4, 4, 1\], this one as \[8, 8, 1\]"),
        ({"metric": "accuracy"}, "of the metric 'loss, lower is better', .*'accuracy, higher is better'"),
    ],
)
def test_a_training_of_another_pace_or_metric_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    _fit(grow_net(), epochs=1, folder=tmp_path)
    with pytest.raises(CheckpointError, match=message):
        _fit(grow_net(), epochs=2, folder=tmp_path, resume=True, **changes)


def test_every_callback_is_called_also_after_one_that_stops() -> None:
    said: list[int] = []
    _fit(grow_net(), callbacks=[lambda report: "stop", lambda report: said.append(report.interval)])
    assert said == [1]


def test_decisions_may_come_every_few_batches() -> None:
    grown = grow_net(policy=Script(LIFE))
    result = _fit(grown, epochs=2, interval_batches=1)
    assert len(result.history) == 8
    assert grown.model.slot("body").state.stage in (SeedStage.FOSSILIZED, SeedStage.CULLED, SeedStage.DORMANT)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    whole, parts = grow_net(), grow_net()
    _fit(whole, epochs=2, train=train_batches(32), optimizer=lambda named: torch.optim.SGD(named, lr=0.1))
    _fit(
        parts,
        epochs=2,
        train=train_batches(8),
        optimizer=lambda named: torch.optim.SGD(named, lr=0.1),
        accumulation=4,
    )
    for name, value in whole.host.state_dict().items():
        assert torch.allclose(value, parts.host.state_dict()[name], atol=1e-6), name


def test_a_model_with_arguments_by_name_and_its_own_loss_is_trained_by_it() -> None:
    host = build_seeded(TokenModel, 0)
    batches = token_batches(4, seed=0)
    grown = grow(host, sample=batches[0], at=["layers.*"], policy="never")
    result = _fit(grown, train=batches, validation=token_batches(2, seed=1), loss=None, epochs=6)
    assert result.history[-1].train_loss < result.history[0].train_loss


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_keeps_parameters_and_trains(amp: str) -> None:
    grown = grow_net(policy=Script(LIFE))
    result = _fit(grown, amp=amp, clip_norm=1.0)
    assert result.metrics["loss"] < 1.1
    assert all(p.dtype is torch.float32 and bool(p.isfinite().all()) for p in grown.parameters())


def test_a_training_that_fails_goes_back_and_gives_up_after_the_allowed_rollbacks() -> None:
    grown, calls = grow_net(), iter(range(1000))

    def sick(outputs: object, targets: object) -> Tensor:
        loss = F.cross_entropy(outputs, targets)  # type: ignore[arg-type]
        # From the third pass on, in training alone: evaluations ask for losses without gradients.
        return loss * float("nan") if torch.is_grad_enabled() and next(calls) >= 8 else loss

    said: list[IntervalReport] = []
    with pytest.raises(GovernorGaveUpError, match="failed again after 2 rollbacks: non_finite"):
        _fit(grown, loss=sick, callbacks=[said.append], governor=GovernorConfig(max_rollbacks=2))
    assert [report.interval for report in said] == [1, 2]


def test_a_model_that_learns_its_training_rows_by_heart_is_not_rolled_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [(TRAIN[0][:24], TRAIN[1][:24])]
    result = _fit(grow_net(), train=rows, epochs=150, interval_batches=5, progress=True,
                  optimizer=lambda named: torch.optim.Adam(named, lr=0.05))  # fmt: skip
    losses = [report.metrics["loss"] for report in result.history]
    assert losses[-1] > 5.0 * min(losses)
    assert result.history[-1].train_loss < 0.01
    assert "rolled back" not in capsys.readouterr().err
    assert len(result.history) == 30


def test_a_seed_that_breaks_the_host_is_culled_and_training_ends_well() -> None:
    grown = grow_net(policy=Script([germinate(), None, None, advance()]))
    broken: list[int] = []

    def break_seed(report: IntervalReport) -> None:
        if report.interval == 4 and not broken:
            broken.append(1)
            with torch.no_grad():
                next(iter(grown["body"].parameters())).fill_(float("nan"))

    result = _fit(grown, epochs=8, callbacks=[break_seed])
    assert result.history[-1].interval == 8
    assert grown["body"].stage != "BLENDING"
    assert all(bool(p.isfinite().all()) for p in grown.parameters())


def test_a_seed_that_was_culled_for_a_rollback_does_not_come_back_with_the_next_one() -> None:
    grown = grow_net(policy=Script([germinate(), None, None, advance()]))
    calls = iter(range(1000))

    def sick(outputs: object, targets: object) -> Tensor:
        loss = F.cross_entropy(outputs, targets)  # type: ignore[arg-type]
        # The fifth interval breaks through its seed, and what is trained in its place breaks by itself.
        return loss * float("nan") if torch.is_grad_enabled() and next(calls) in (20, 21, 22, 23) else loss

    def break_seed(report: IntervalReport) -> None:
        if report.interval == 4 and grown["body"].parameters():
            with torch.no_grad():
                next(iter(grown["body"].parameters())).fill_(float("nan"))

    stages: list[str] = []
    watch: list[Callable[[IntervalReport], object]] = [
        break_seed,
        lambda report: stages.append(grown["body"].stage),
    ]
    _fit(grown, epochs=8, loss=sick, callbacks=watch, governor=GovernorConfig(max_rollbacks=3))
    assert stages[3] == "PROBATIONARY"
    assert not {"TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED"} & set(stages[4:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"epochs": 0}, "epochs=0: must be >= 1"),
        ({"amp": "fp8"}, "amp='fp8': must be one of off, bf16, fp16"),
        ({"interval_batches": 0}, "interval_batches=0"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"incubation": "straight"}, "incubation='straight': must be 'shadow' or 'residual'"),
        ({"clip_nrom": 1.0}, "no setting 'clip_nrom'.*clip_norm"),
        ({"scheduler_every": "batch"}, "must be 'epoch' or 'step'"),
        ({"train": []}, "has no batches or no length: expected a DataLoader"),
        ({"train": iter(train_batches())}, "has no batches or no length"),
        ({"validation": []}, "the validation loader gave no batch"),
        ({"train": [torch.zeros(4, 6)]}, r"a loader gave Tensor: expected \(inputs, targets\)"),
        ({"train": [(1, 2, 3)]}, r"a loader gave tuple of 3: expected"),
        ({"loss": None}, "the model returned Tensor without a loss: pass loss= to fit"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes: dict[str, object], message: str) -> None:
    grown = grow_net()
    with pytest.raises(ConfigError, match=message):
        _fit(grown, **changes)
    assert grown.controller is None


def test_what_cannot_grow_is_not_fitted() -> None:
    with pytest.raises(
        ConfigError, match=r"fit\(\) trains what esper\.grow returns, got Linear: grow it first"
    ):
        fit(nn.Linear(2, 2), [], [], optimizer=lambda named: torch.optim.SGD(named, lr=1.0))  # type: ignore[arg-type]


def test_a_loader_that_is_shorter_than_it_says_is_named() -> None:
    class Short(list[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return super().__len__() + 2

    with pytest.raises(ConfigError, match="says it has 6 batches and gave fewer"):
        _fit(grow_net(), train=Short(train_batches()))


def test_accuracy_is_known_where_shapes_fit_and_asked_for_elsewhere() -> None:
    assert measure_accuracy(torch.eye(3), torch.tensor([0, 1, 0])).tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ConfigError, match="pass metrics="):
        measure_accuracy(torch.eye(3), torch.eye(3))


def test_progress_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    _fit(grow_net(), epochs=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1" in err


@pytest.mark.parametrize(
    "make",
    [lambda: nn.CrossEntropyLoss(), lambda: nn.CrossEntropyLoss(reduction="sum"), lambda: F.cross_entropy],
)
def test_validation_means_are_means_over_items_or_batches(make: Callable[[], Callable[..., Tensor]]) -> None:
    result = _fit(grow_net(), loss=make(), epochs=1)
    assert result.history[0].metrics["loss"] > 0.0


def test_a_configuration_may_be_handed_over_whole() -> None:
    assert len(_fit(grow_net(), epochs=None, config=FitConfig(epochs=2)).history) == 2
    with pytest.raises(ConfigError, match="was given config= and epochs, amp beside it"):
        _fit(grow_net(), epochs=2, amp="bf16", config=FitConfig(epochs=2))


def test_a_training_in_which_nothing_grew_says_why_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    _fit(grow_net(policy="heuristic"), epochs=2, progress=True)
    assert "nothing has grown: wait: " in capsys.readouterr().err.splitlines()[-1]
    _fit(grow_net(policy=Script(LIFE)), epochs=2, progress=True)
    assert "refused: GERMINATE body" in capsys.readouterr().err
    _fit(grow_net(policy=Script(LIFE)), epochs=8, progress=True)
    assert "nothing has grown" not in capsys.readouterr().err
