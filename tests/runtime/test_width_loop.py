"""Width growth from end to end: in a loop of one's own, by hand and by a rule, and out as plain layers."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import build_seeded
from esper.leyline import Action, BlendForm, ConfigError, LifecycleOp
from esper.runtime.api import grow, propose
from esper.runtime.controller import Controller
from esper.runtime.growable import Growable
from esper.runtime.save_exported import save_exported
from runtime.own_models import item_losses, train_batches
from runtime.plain_hosts import Tokens
from tolaria.loop_toys import TRAIN, VALIDATION, Script, advance, fossilize

LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "esper" or name.startswith("esper."):
            raise ImportError("esper is not allowed here")
sys.meta_path.insert(0, Refuse())
import torch
module, sample, expected = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    logits = module(**sample)["logits"]
assert not [name for name in sys.modules if name.startswith("esper")]
torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
"""


class Narrow(nn.Module):
    """Too few units for its task: more of them help."""

    def __init__(self, units: int = 2) -> None:
        super().__init__()
        self.fc1, self.norm = nn.Linear(TRAIN[0].shape[1], units), nn.BatchNorm1d(units)
        self.fc2 = nn.Linear(units, int(TRAIN[1].max()) + 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.relu(self.norm(self.fc1(x))))
        return out


def _narrow(policy: object = "never", units: int = 2) -> Growable:
    host = build_seeded(lambda: Narrow(units), 3)
    return grow(host, sample=TRAIN[0][:2], at="fc1->fc2", policy=policy)  # type: ignore[arg-type]


def _run(grown: Growable, controller: Controller, optimizer: torch.optim.Optimizer, epochs: int) -> list[str]:
    told = []
    for _ in range(epochs):
        told += [str(event) for event in controller.act()]
        grown.train()
        for x, y in train_batches():
            loss = F.cross_entropy(grown(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            controller.step(loss.detach())
        told += [str(event) for event in controller.observe(evaluate=item_losses)]
    return told


def test_units_added_by_hand_learn_blend_and_leave_in_plain_layers() -> None:
    grown = _narrow(units=4)
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-2)
    controller = Controller(grown, optimizer, epochs=12)
    _run(grown, controller, optimizer, 2)
    slot = grown["fc1->fc2"]
    assert "(width) GERMINATED" in str(slot.germinate("width"))
    _run(grown, controller, optimizer, 2)
    assert any(p.count_nonzero() for name, p in slot.named_parameters() if "second" in name)
    slot.blend(steps=4)
    _run(grown, controller, optimizer, 4)
    slot.fossilize()
    rows = {row.path: row for row in grown.summary().rows}
    assert rows["fc1->fc2"].stage == "FOSSILIZED"
    plain = grown.eval().export(merge=True)
    assert isinstance(plain, Narrow)
    assert plain.fc1.out_features == plain.norm.num_features == plain.fc2.in_features == 6
    with torch.no_grad():
        torch.testing.assert_close(plain(VALIDATION[0]), grown(VALIDATION[0]), rtol=0, atol=1e-5)
    wider = Narrow(6)
    wider.load_state_dict(plain.state_dict())


def test_a_culled_seed_leaves_host_and_optimiser_as_they_were() -> None:
    grown = _narrow()
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-2)
    controller = Controller(grown, optimizer)
    _run(grown, controller, optimizer, 1)
    num_groups, names = len(optimizer.param_groups), list(grown.state_dict())
    grown["fc1->fc2"].germinate("width")
    _run(grown, controller, optimizer, 1)
    assert len(optimizer.param_groups) > num_groups
    grown["fc1->fc2"].cull()
    _run(grown, controller, optimizer, 1)
    assert len(optimizer.param_groups) == num_groups
    assert list(grown.state_dict()) == names
    plain = grown.export()
    assert isinstance(plain, Narrow)
    assert plain.fc1.out_features == 2


def test_incubation_changes_no_bit_of_the_hosts_training() -> None:
    lives = []
    for births in (0, 1):
        grown = _narrow()
        optimizer = torch.optim.SGD(grown.parameters(), lr=0.05, momentum=0.9)
        controller = Controller(grown, optimizer)
        if births:
            grown["fc1->fc2"].germinate("width")
        _run(grown, controller, optimizer, 2)
        lives.append({name: tensor.clone() for name, tensor in grown.host.state_dict().items()})
    assert all(torch.equal(lives[0][name], tensor) for name, tensor in lives[1].items())


@pytest.mark.slow
def test_the_heuristic_plants_units_and_judges_them_like_any_seed() -> None:
    grown = _narrow("heuristic", units=8)
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-2)
    controller = Controller(grown, optimizer, epochs=40)
    told = _run(grown, controller, optimizer, 40)
    told += [str(event) for event in controller.finish()]
    born = [line for line in told if "GERMINATED" in line]
    assert born
    assert all("(width)" in line or "(width_small)" in line for line in born)
    assert any("BLENDING" in line for line in told)
    plain = grown.eval().export(merge=True, allow_unfinished=True)
    with torch.no_grad():
        torch.testing.assert_close(plain(VALIDATION[0]), grown(VALIDATION[0]), rtol=0, atol=1e-5)


def test_a_policy_that_asks_for_another_form_is_refused_and_all_goes_on() -> None:
    birth = Action(
        op=LifecycleOp.GERMINATE, slot="fc1->fc2", blueprint="width", blend=BlendForm.GATE, tempo_epochs=1
    )
    grown = _narrow(Script([birth]))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.05)
    controller = Controller(grown, optimizer)
    told = _run(grown, controller, optimizer, 2)
    assert any("use 'add'" in line for line in told)
    assert grown["fc1->fc2"].stage == "DORMANT"
    with pytest.raises(ConfigError, match="use 'add'"):
        grown["fc1->fc2"].germinate("width", blend="valve")
    with pytest.raises(ConfigError, match="does not fit slot 'fc1->fc2'"):
        grown["fc1->fc2"].germinate("mlp")


def test_scripted_life_is_kept_by_measured_worth() -> None:
    birth = Action(op=LifecycleOp.GERMINATE, slot="fc1->fc2", blueprint="width", tempo_epochs=1)
    life = [birth, None, None, advance("fc1->fc2"), None, None, fossilize("fc1->fc2")]
    grown = _narrow(Script(life), units=4)
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-2)
    controller = Controller(grown, optimizer, epochs=10)
    told = _run(grown, controller, optimizer, 7)
    assert any("TRAINING -> BLENDING" in line for line in told)
    report = grown.model.reports()[0]
    assert report.family == "width"
    assert report.contribution is not None


def _tokens() -> dict[str, Tensor]:
    ids = torch.randint(20, (3, 5), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones(3, 5, dtype=torch.int64)}


@pytest.mark.slow
def test_a_folded_network_loads_where_esper_cannot_be_imported(tmp_path: Path) -> None:
    sample = _tokens()
    grown = grow(Tokens(), sample=sample, at="layers.*.mlp.0->layers.*.mlp.2")
    assert grown.slot_ids == tuple(f"layers.{n}.mlp.0->layers.{n}.mlp.2" for n in (0, 1))
    for slot_id in grown.slot_ids:
        grown[slot_id].germinate("width_small")
        for parameter in grown[slot_id].parameters():
            nn.init.normal_(parameter, std=0.3)
        grown[slot_id].blend(steps=0)
        grown[slot_id].fossilize()
    with torch.no_grad():
        expected = grown.eval()(**sample)["logits"]
    file = tmp_path / "folded.pt"
    torch.save((grown.export(merge=True), sample, expected), file)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(file)],
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ""])
def test_a_folded_network_is_written_like_any_other(tmp_path: Path, suffix: str) -> None:
    grown = _narrow(units=4)
    grown["fc1->fc2"].germinate("width")
    for parameter in grown["fc1->fc2"].parameters():
        nn.init.normal_(parameter, std=0.5)
    grown["fc1->fc2"].blend(steps=0)
    grown["fc1->fc2"].fossilize()
    saved = save_exported(grown.eval().export_record(), tmp_path / f"folded{suffix}", TRAIN[0][:3])
    assert saved.max_difference <= 1e-5


def test_proposals_name_pairs_when_asked_and_not_otherwise() -> None:
    host = Narrow(4)
    plain = propose(copy.deepcopy(host), TRAIN[0][:2])
    wide = propose(host, TRAIN[0][:2], width=True)
    assert "fc1->fc2" not in {item.point.slot_id for item in plain}
    assert {item.point.slot_id for item in wide} >= {item.point.slot_id for item in plain}
