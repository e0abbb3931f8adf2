"""A trained policy on disk: a folder with its weights as safetensors and everything else as JSON.

```
policy.json                     format, contract, configuration, layout, metadata, hash of the weights
policy-<hash>.safetensors       the weights; named by content, so that the old pair stays whole until the new
                                one is: a crash at any moment leaves one of the two
```
Loading runs no code from the file. The hash finds accidents; it does not authenticate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from esper.leyline import (
    BLUEPRINT_FAMILIES,
    CheckpointError,
    ConfigError,
    ForeignCheckpointError,
    JsonValue,
)
from esper.tamiyo.action_layout import ActionLayout
from esper.tamiyo.inputs import describe_contract, find_contract_difference, observation_contract
from esper.tamiyo.network.actor import RecurrentActorCritic
from esper.tamiyo.network.build import lay_out_network
from esper.tamiyo.network.config import NetworkConfig

POLICY_FORMAT_VERSION = 1
POLICY_FILE = "policy.json"
MAX_JSON_BYTES = 4 * 2**20
"""Largest policy.json that is written or read: a contract takes a few KB, the rest is metadata."""
MAX_WEIGHTS_BYTES = 2**30
"""Largest file of weights that is written or read; a network of the default size has under 2 MB."""

_TEMPORARY = ".tmp-policy-"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedLayout:
    """An `ActionLayout` as pairs: the order of heads is that of columns, and JSON tables have no order."""

    op_names: tuple[str, ...]
    uses: tuple[tuple[str, tuple[bool, ...]], ...]
    argument_sizes: tuple[tuple[str, int], ...]
    argument_names: tuple[tuple[str, tuple[str, ...]], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """What policy.json holds."""

    format_version: int
    contract: dict[str, object]
    contract_sha256: str
    families: tuple[str, ...]
    """Blueprint families that have a vector of their own in the weights."""
    config: NetworkConfig
    layout: _SavedLayout
    metadata: dict[str, object]
    weights: str
    """Name of the file beside it."""
    weights_sha256: str


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedPolicy:
    """What a policy folder holds."""

    network: RecurrentActorCritic
    """On the CPU, in evaluation mode (which changes nothing: there is no dropout)."""
    config: NetworkConfig
    metadata: Mapping[str, object]
    """What the trainer wrote: plain data."""


def save_policy(
    folder: Path, network: RecurrentActorCritic, config: NetworkConfig, metadata: Mapping[str, JsonValue]
) -> None:
    """Write a policy; one that stands in the folder is replaced only once the new one is whole.

    Args:
        folder: Made if it is missing.
        network: The policy.
        config: What it was built from.
        metadata: Plain data about the training, without NaN.

    Raises:
        ConfigError: If the network does not fit the configuration, or something is too large or not JSON.
        OSError: If a file cannot be written; a policy that stood in the folder is still whole then.

    Example:
        >>> import tempfile
        >>> layout, config = build_growth_layout(observation.space), NetworkConfig()
        >>> network = build_network(config, layout, seed=0)
        >>> folder = Path(tempfile.mkdtemp()) / "policy"
        >>> save_policy(folder, network, config, {"task": "digits"})
        >>> load_policy(folder).config == config
        True
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    problem = _find_misfit(
        tensors, lay_out_network(config, network.layout, num_families=_count_families(tensors))
    )
    if problem is not None:
        raise ConfigError(f"the network does not fit its configuration: {problem}")
    weights = safetensors.torch.save(tensors)
    digest = hashlib.sha256(weights).hexdigest()
    name = f"policy-{digest[:16]}.safetensors"
    layout = network.layout
    text = _dump_document(
        _Document(
            format_version=POLICY_FORMAT_VERSION,
            contract={**describe_contract()},
            contract_sha256=observation_contract(),
            families=BLUEPRINT_FAMILIES[: _count_families(tensors)],
            config=config,
            layout=_SavedLayout(
                op_names=layout.op_names,
                uses=tuple(layout.uses.items()),
                argument_sizes=tuple(layout.argument_sizes.items()),
                argument_names=tuple(layout.argument_names.items()),
            ),
            metadata={**metadata},
            weights=name,
            weights_sha256=digest,
        )
    )
    for what, size, limit in (
        (name, len(weights), MAX_WEIGHTS_BYTES),
        (POLICY_FILE, len(text), MAX_JSON_BYTES),
    ):
        if size > limit:
            raise ConfigError(f"{what}: {size} bytes, at most {limit} can be saved")
    folder.mkdir(parents=True, exist_ok=True)
    _replace_file(folder / name, weights)
    _replace_file(folder / POLICY_FILE, text)
    for old in (*folder.glob("policy-*.safetensors"), *folder.glob(f"{_TEMPORARY}*")):
        if old.name != name:
            old.unlink()


def load_policy(folder: Path) -> LoadedPolicy:
    """Read a policy that `save_policy` wrote.

    Args:
        folder: Where it was saved.

    Raises:
        ForeignCheckpointError: If there is no policy, or it has another format version, another observation
            contract (the first difference is named), a configuration that is not ours, or other tensors.
        CheckpointError: If a file is damaged, too large, or the weights are missing.

    Example:
        >>> import tempfile
        >>> layout, config = build_growth_layout(observation.space), NetworkConfig()
        >>> folder = Path(tempfile.mkdtemp()) / "policy"
        >>> save_policy(folder, build_network(config, layout, seed=0), config, {"task": "digits"})
        >>> type(load_policy(folder)).__name__
        'LoadedPolicy'
    """
    path = folder / POLICY_FILE
    document = _read_document(path)
    if document.config.flat_features == 0:  # a network over plain features has no part in the contract
        _check_contract(document, path)
    if document.families != BLUEPRINT_FAMILIES[: len(document.families)]:
        raise ForeignCheckpointError(
            f"{path}: families {document.families} are not the first ones of {BLUEPRINT_FAMILIES}"
        )
    tensors = _read_weights(folder, document)
    try:
        layout = _build_layout(document.layout)
        network = lay_out_network(document.config, layout, num_families=len(document.families))
    except ValueError as error:
        raise ForeignCheckpointError(f"{path}: configuration and layout do not fit: {error}") from error
    problem = _find_misfit(tensors, network)
    if problem is not None:
        raise ForeignCheckpointError(f"{folder}: the weights do not fit the configuration: {problem}")
    network.load_state_dict(tensors, assign=True)
    return LoadedPolicy(network=network.eval(), config=document.config, metadata=document.metadata)


# ---------------------------------------------------------------------- what fits what


def _count_families(tensors: Mapping[str, Tensor]) -> int:
    """Families that have a vector in these weights: a policy may be older than the newest family."""
    table = tensors.get("encoder.families.table.weight")
    return 0 if table is None else len(table) - 1


def _find_misfit(tensors: Mapping[str, Tensor], network: RecurrentActorCritic) -> str | None:
    """Name the first tensor that is missing, unknown, or of another shape or dtype."""
    expected = network.state_dict()
    for name in sorted(set(expected) | set(tensors)):
        if name not in tensors:
            return f"tensor {name!r} is missing"
        if name not in expected:
            return f"tensor {name!r} is unknown"
        got, wanted = tensors[name], expected[name]
        if got.shape != wanted.shape:
            return f"tensor {name!r} has shape {tuple(got.shape)}, expected {tuple(wanted.shape)}"
        if got.dtype not in (torch.float32, torch.float64):
            return f"tensor {name!r} is {got.dtype}, expected float32 (or float64)"
    return None


def _check_contract(document: _Document, path: Path) -> None:
    difference = find_contract_difference(document.contract)
    if difference is None and document.contract_sha256 != observation_contract():
        difference = "its description is ours, but its id is not: the file was edited"
    if difference is not None:
        raise ForeignCheckpointError(
            f"{path}: the policy was trained on other observations: {difference}; train it anew, or use the "
            "version that saved it"
        )


# ---------------------------------------------------------------------- reading


def _read_document(path: Path) -> _Document:
    if not path.is_file():
        raise ForeignCheckpointError(f"{path}: there is no such file; expected a folder made by save_policy")
    data = _read_bytes(path, MAX_JSON_BYTES)
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not the JSON that was saved: {error}") from error
    if not isinstance(value, dict) or "format_version" not in value:
        raise ForeignCheckpointError(f"{path}: not a policy: it has no format_version")
    if value["format_version"] != POLICY_FORMAT_VERSION:
        raise ForeignCheckpointError(
            f"{path}: format version {value['format_version']!r}, this version reads "
            f"{POLICY_FORMAT_VERSION}; use the version that saved it"
        )
    try:
        return TypeAdapter(_Document).validate_json(data, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ForeignCheckpointError(f"{path}: {place}: {first['msg']}, got {first['input']!r}") from error


def _read_weights(folder: Path, document: _Document) -> dict[str, Tensor]:
    name, digest = document.weights, document.weights_sha256
    if name != Path(name).name or not name.endswith(".safetensors"):
        raise CheckpointError(f"{folder / POLICY_FILE}: weights={name!r}, expected a file beside it")
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path}: the weights of the policy are missing")
    data = _read_bytes(path, MAX_WEIGHTS_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise CheckpointError(f"{path}: damaged: SHA-256 {found}, expected {digest}")
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error


def _read_bytes(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{path}: larger than {limit} bytes")
    return data


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _build_layout(saved: _SavedLayout) -> ActionLayout:
    return ActionLayout(
        op_names=saved.op_names,
        uses=dict(saved.uses),
        argument_sizes=dict(saved.argument_sizes),
        argument_names=dict(saved.argument_names),
    )


# ---------------------------------------------------------------------- writing


def _dump_document(document: _Document) -> bytes:
    try:
        text = json.dumps(dataclasses.asdict(document), indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metadata of a policy: must be plain data with finite numbers: {error}") from error
    return text.encode("ascii") + b"\n"


def _replace_file(path: Path, data: bytes) -> None:
    """Put a durable file in the place of `path`: a reader sees the old or the new one, whole."""
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
