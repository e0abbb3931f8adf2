from __future__ import annotations

from esper.kasmina.topology import describe_topology, hash_topology
from esper.leyline import BlendForm, SeedStage
from kasmina.growing import grow, make_clock, make_model, stir


def test_equal_models_have_equal_hashes_whatever_their_weights() -> None:
    one, other = make_model(), make_model()
    stir(other)
    assert one.topology_hash() == other.topology_hash()


def test_every_growth_move_changes_the_hash() -> None:
    hashes = {make_model().topology_hash()}
    for stage in (s for s in SeedStage if s.has_seed):
        model = make_model()
        grow(model, "block2", stage)
        hashes.add(model.topology_hash())
    assert len(hashes) == 6


def test_hash_tells_slot_blueprint_blend_and_clock_apart() -> None:
    hashes = set()
    for slot, blueprint, blend in (
        ("block1", "norm", BlendForm.ADD),
        ("block2", "norm", BlendForm.ADD),
        ("block2", "depthwise", BlendForm.ADD),
        ("block2", "norm", BlendForm.VALVE),
    ):
        model = make_model()
        grow(model, slot, SeedStage.TRAINING, blueprint=blueprint, blend=blend)
        hashes.add(model.topology_hash())
        model.tick(make_clock(1))
        hashes.add(model.topology_hash())
    assert len(hashes) == 8


def test_description_lists_slots_and_parameters() -> None:
    model = make_model()
    states, named = [slot.state for slot in model.each_slot()], dict(model.named_parameters())
    described = describe_topology(states, named)
    assert isinstance(described, dict)
    slots, parameters = described["slots"], described["parameters"]
    assert isinstance(slots, dict)
    assert isinstance(parameters, list)
    assert list(slots) == list(model.slot_ids)
    assert len(parameters) == len(named)
    assert hash_topology(states, named) == model.topology_hash()
