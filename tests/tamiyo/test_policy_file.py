from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from esper.leyline import BLUEPRINT_FAMILIES, CheckpointError, ConfigError, ForeignCheckpointError
from esper.tamiyo import policy_file
from esper.tamiyo.action_layout import ActionLayout
from esper.tamiyo.network import NetworkConfig, build_network
from esper.tamiyo.policy_file import load_policy, save_policy
from tamiyo.network.network_cases import FLAT, LAYOUT, SMALL, make_inputs, make_network

PLAIN = ActionLayout(op_names=("LEFT", "RIGHT"), uses={"op": (True, True)})
ON_FEATURES = replace(SMALL, kind="flat", flat_features=4)


def weights_file(folder: Path) -> Path:
    (path,) = folder.glob("policy-*.safetensors")
    return path


def edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change policy.json in place."""
    path = folder / "policy.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights and make the hash fit: what a hash cannot find."""
    path = weights_file(folder)
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(folder, lambda document: document.update(weights_sha256=digest))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_policy(tmp_path / "policy", make_network(spread=0.2), SMALL, {"episodes": 12})
    return tmp_path / "policy"


@pytest.mark.parametrize(
    "config",
    [SMALL, FLAT, replace(FLAT, factorisation="factored"), replace(SMALL, is_recurrent=False, core_layers=3)],
)
def test_a_loaded_policy_is_the_saved_one_bit_for_bit(tmp_path: Path, config: NetworkConfig) -> None:
    network = make_network(config, spread=0.2)
    save_policy(tmp_path, network, config, {"run": "a", "scores": [0.5, None], "nested": {"x": True}})
    loaded = load_policy(tmp_path)
    assert loaded.config == config
    assert loaded.metadata == {"run": "a", "scores": [0.5, None], "nested": {"x": True}}
    assert loaded.network.layout == network.layout
    assert loaded.network.layout.heads == network.layout.heads
    inputs, starts = make_inputs(3), torch.ones(3, dtype=torch.bool)
    first, second = (
        n.act(inputs, n.initial_memory(3), starts, is_greedy=True) for n in (network, loaded.network)
    )
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.log_probs, second.log_probs)
    assert torch.equal(first.value, second.value)


def test_a_loaded_policy_can_go_on_learning(saved: Path) -> None:
    network = load_policy(saved).network
    assert not network.training
    before = network.value_layer.weight.detach().clone()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    inputs, starts = make_inputs(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    values = network.evaluate(
        inputs, torch.zeros(2, 3, 7, dtype=torch.int64), network.initial_memory(2), starts
    ).values
    torch.autograd.backward(values.sum())
    optimizer.step()
    assert not torch.equal(network.value_layer.weight, before)


def test_loading_neither_reads_nor_moves_the_global_stream(saved: Path) -> None:
    before = torch.get_rng_state()
    load_policy(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_over_plain_features_has_no_part_in_the_observation_contract(tmp_path: Path) -> None:
    save_policy(tmp_path, build_network(ON_FEATURES, PLAIN, seed=0), ON_FEATURES, {})
    edit(tmp_path, lambda document: document.update(contract={}, contract_sha256="0"))
    assert load_policy(tmp_path).network.layout == PLAIN


def test_the_folder_holds_two_files_and_the_state_of_the_newest_save(tmp_path: Path) -> None:
    for seed in range(3):
        save_policy(tmp_path, make_network(seed=seed), SMALL, {"seed": seed})
    (tmp_path / "notes.txt").write_text("mine")
    assert load_policy(tmp_path).metadata == {"seed": 2}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["notes.txt", weights_file(tmp_path).name, "policy.json"]
    assert (tmp_path / "policy.json").stat().st_size + weights_file(tmp_path).stat().st_size < 100_000


@pytest.mark.parametrize("call", range(1, 9))
def test_a_save_that_dies_at_any_call_leaves_a_whole_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    save_policy(tmp_path, make_network(seed=0), SMALL, {"seed": 0})
    count = 0

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == call:
                raise OSError("the disk is full")
            return original(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        if call <= 7:
            with pytest.raises(OSError, match="disk is full"):
                save_policy(tmp_path, make_network(seed=1), SMALL, {"seed": 1})
        else:
            save_policy(tmp_path, make_network(seed=1), SMALL, {"seed": 1})
    found = load_policy(tmp_path)
    seed = found.metadata["seed"]
    assert seed in (0, 1)
    expected = make_network(seed=int(str(seed))).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.network.state_dict().items())
    save_policy(tmp_path, make_network(seed=2), SMALL, {"seed": 2})
    assert len(list(tmp_path.iterdir())) == 2, "leftovers are removed by the next save"


# ---------------------------------------------------------------------- refusals


def test_a_missing_folder_and_missing_weights_are_told_apart(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ForeignCheckpointError, match="no such file; expected a folder made by save_policy"):
        load_policy(tmp_path / "nowhere")
    weights_file(saved).unlink()
    with pytest.raises(CheckpointError, match="weights of the policy are missing"):
        load_policy(saved)


@pytest.mark.parametrize("place", [0, 8, 200, -1])
def test_a_single_flipped_bit_of_the_weights_is_found(saved: Path, place: int) -> None:
    data = bytearray(weights_file(saved).read_bytes())
    data[place] ^= 1
    weights_file(saved).write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged: SHA-256"):
        load_policy(saved)


def test_weights_that_are_no_safetensors_are_refused_even_with_a_fitting_hash(saved: Path) -> None:
    weights_file(saved).write_bytes(b"junk")
    digest = hashlib.sha256(b"junk").hexdigest()
    edit(saved, lambda document: document.update(weights_sha256=digest))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_policy(saved)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", CheckpointError, "not the JSON that was saved"),
        ('{"format_version": NaN}', CheckpointError, "NaN is not a JSON number"),
        ("[" * 100_000, CheckpointError, "not the JSON that was saved"),
        ("[]", ForeignCheckpointError, "no format_version"),
        ("{}", ForeignCheckpointError, "no format_version"),
        ('{"format_version": 2}', ForeignCheckpointError, "format version 2, this version reads 1"),
        ('{"format_version": 1}', ForeignCheckpointError, "contract: Field required"),
    ],
)
def test_a_document_that_is_not_ours_is_refused(
    saved: Path, text: str, error: type[CheckpointError], message: str
) -> None:
    (saved / "policy.json").write_text(text)
    with pytest.raises(error, match=message):
        load_policy(saved)


def test_another_observation_contract_is_refused_with_its_first_difference(saved: Path) -> None:
    def rename(document: dict[str, object]) -> None:
        contract = document["contract"]
        assert isinstance(contract, dict)
        contract["slots"][0][0] = "stgae"

    edit(saved, rename)
    with pytest.raises(ForeignCheckpointError, match=r"other observations: slots\[0\] was stgae one_hot"):
        load_policy(saved)


def test_a_contract_id_that_does_not_fit_its_description_is_refused(saved: Path) -> None:
    edit(saved, lambda document: document.update(contract_sha256="0" * 64))
    with pytest.raises(ForeignCheckpointError, match="the file was edited"):
        load_policy(saved)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("core_size", 11, r"tensor 'core\.\S+' has shape .*, expected"),
        ("core_size", "10", "config.core_size: Input should be a valid integer"),
        ("core_size", True, "config.core_size: Input should be a valid integer"),
        ("core_size", 0, r"config: .*core_size=0: must be in"),
        ("kind", "flat", "do not fit: network.flat_slots=0"),
        ("core_layers", 1, "tensor 'core.lstm.bias_hh_l1' is unknown"),
        ("core_layers", 3, "tensor 'core.lstm.bias_hh_l2' is missing"),
        ("new_field", 3, "config.new_field: Unexpected keyword argument"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    saved: Path, field: str, value: object, message: str
) -> None:
    def change(document: dict[str, object]) -> None:
        config = document["config"]
        assert isinstance(config, dict)
        config[field] = value

    edit(saved, change)
    with pytest.raises(ForeignCheckpointError, match=message):
        load_policy(saved)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "layout",
            {"op_names": ["A"], "uses": [], "argument_sizes": [], "argument_names": []},
            "do not fit: heads",
        ),
        ("layout", {"op_names": ["A"]}, "layout.uses"),
        ("layout", [], "layout: "),
        ("families", ["noop", "mood"], "are not the first ones of"),
        ("families", ["noop"], "encoder.families.table.weight' has shape"),
        ("metadata", 3, "metadata: "),
    ],
)
def test_a_document_with_another_layout_or_other_families_is_refused(
    saved: Path, field: str, value: object, message: str
) -> None:
    edit(saved, lambda document: document.update({field: value}))
    with pytest.raises(ForeignCheckpointError, match=message):
        load_policy(saved)


@pytest.mark.parametrize("name", ["../policy.safetensors", "/etc/passwd", "policy.txt", ""])
def test_weights_are_never_read_from_elsewhere(saved: Path, name: str) -> None:
    edit(saved, lambda document: document.update(weights=name))
    with pytest.raises(CheckpointError, match="expected a file beside it"):
        load_policy(saved)


def test_tensors_of_another_name_shape_or_dtype_are_refused(saved: Path) -> None:
    original = weights_file(saved).read_bytes()
    bias = "value_layer.bias"
    for change, message in (
        (lambda t: t.pop(bias), "'value_layer.bias' is missing"),
        (lambda t: t.update({"mood": torch.zeros(1)}), "'mood' is unknown"),
        (lambda t: t.update({bias: torch.zeros(2)}), r"has shape \(2,\), expected \(1,\)"),
        (lambda t: t.update({bias: torch.zeros(1, dtype=torch.int64)}), r"is torch.int64, expected float32"),
    ):
        weights_file(saved).write_bytes(original)
        rewrite_weights(saved, change)
        with pytest.raises(ForeignCheckpointError, match=message):
            load_policy(saved)


def test_a_policy_from_before_a_family_was_added_still_loads(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = (*BLUEPRINT_FAMILIES, "brand_new")
    monkeypatch.setattr(policy_file, "BLUEPRINT_FAMILIES", families)
    network = load_policy(saved).network
    inputs = make_inputs(1)
    inputs["slot_families"][:] = len(families)
    value = network.compute_values(inputs, network.initial_memory(1), torch.ones(1, dtype=torch.bool))
    assert value.isfinite().all()
    save_policy(saved, network, SMALL, {})
    assert load_policy(saved).network.layout == LAYOUT


def test_files_over_the_limits_are_neither_read_nor_written(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_file, "MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(CheckpointError, match="larger than 1000 bytes"):
        load_policy(saved)
    with pytest.raises(ConfigError, match="at most 1000 can be saved"):
        save_policy(saved, make_network(), SMALL, {})
    monkeypatch.setattr(policy_file, "MAX_JSON_BYTES", 100)
    with pytest.raises(CheckpointError, match=r"policy.json: larger than 100 bytes"):
        load_policy(saved)


def test_a_network_is_not_saved_under_another_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not fit its configuration: tensor 'core\."):
        save_policy(tmp_path / "policy", make_network(), replace(SMALL, core_size=11), {})
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match="plain data with finite numbers"):
        save_policy(tmp_path / "policy", make_network(), SMALL, {"x": value})  # type: ignore[dict-item]
    assert not (tmp_path / "policy").exists()
