"""Policies by what a command line calls them: a name, a schedule in a file, a folder, a user's own class.

```
never, random, heuristic, greedy, schedule, cycle     rules, built by name
auto                                                  the one of them that does best today
pretrained                                            the shipped policy; refused where there is none
schedule:FILE.json                                    a list of scheduled actions
FOLDER                                                a trained policy: policy.json and its weights
package.module:Class                                  a user's own, called as Class(seed=...)
```
The first line that fits decides; only the last one imports anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal, final

from esper.leyline import (
    Action,
    AlphaCurve,
    BlendForm,
    ConfigError,
    LifecycleOp,
    TamiyoPolicy,
    UnknownNameError,
    suggest,
)
from esper.runtime.experiment import TRAINABLE_NAMES, ExperimentConfig
from esper.runtime.own_blueprints import add_to_rotation, is_reference
from esper.runtime.user_code import REFERENCE_FORM, build_own_policy, load_blueprint, split_reference
from esper.tamiyo import (
    POLICY_NAMES,
    FixedSchedulePolicy,
    RecurrentPolicy,
    ScheduledAction,
    build_policy,
    load_policy,
)
from esper.tamiyo.policy_file import POLICY_FILE

AUTO = "auto"
AUTO_POLICY = "heuristic"
"""What `AUTO` stands for: the policy that is best in the published comparison at the default prices."""
PRETRAINED = "pretrained"
PRETRAINED_FOLDER = "pretrained_policy"
"""Package data folder of the shipped policy."""
SCHEDULE_PREFIX = "schedule:"
MAX_SCHEDULE_BYTES = 2**20
SCORED_POLICY = "greedy"
"""The policy that only waits on hosts without scores."""
SCORE_EVERY = 5
"""Intervals between the scores of its hosts where the settings ask for none: each costs FLOPs, and in the 40
intervals of a life on digits they are still taken seven times before the end."""
SCORES_NOTICE = (
    f"policy {SCORED_POLICY} plants by scores and host.measuring.score_every is 0: its hosts are "
    f"scored every {SCORE_EVERY} intervals, FLOPs counted"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChoice:
    """A policy and what to call it in a table."""

    name: str
    policy: TamiyoPolicy
    fingerprint: str | None = None
    """SHA-256 of a trained policy's description, which pins its weights; None for all others."""


def resolve_auto(reference: str) -> str:
    """Return a reference in which `AUTO` is replaced by what it stands for."""
    return AUTO_POLICY if reference == AUTO else reference


def lacks_scores(reference: str, config: ExperimentConfig) -> bool:
    """Return whether a policy could only wait on these hosts, because nobody measures what it reads."""
    return reference == SCORED_POLICY and config.host.measuring.score_every == 0


def add_scores(config: ExperimentConfig, reference: str) -> ExperimentConfig:
    """Return the settings with scores, if the policy lacks them; hosts of other policies pay for none."""
    if not lacks_scores(reference, config):
        return config
    measuring = replace(config.host.measuring, score_every=SCORE_EVERY)
    return replace(config, host=replace(config.host, measuring=measuring))


def refuse_without_scores(reference: str, config: ExperimentConfig) -> None:
    """Refuse a policy that could only wait on these hosts.

    Raises:
        ConfigError: Naming the setting that turns scores on.
    """
    if lacks_scores(reference, config):
        raise ConfigError(
            f"host.measuring.score_every=0: policy {reference} plants by scores and would only wait; set it "
            f"to >= 1, e.g. {SCORE_EVERY}"
        )


def check_reference(reference: str, *, may_train: bool = True) -> None:
    """Refuse what `find_policy` could not find and what cannot be trained; reads no file, imports nothing.

    Args:
        reference: As listed above.
        may_train: Whether names of policies that are to be trained are fine.

    Raises:
        UnknownNameError: If it names nothing.
        ConfigError: If it looks like a folder or a class but is none.
    """
    trainable = TRAINABLE_NAMES if may_train else ()
    if reference not in trainable:
        _classify(reference, others=trainable)


def find_policy(reference: str, config: ExperimentConfig, *, seed: int, is_greedy: bool) -> PolicyChoice:
    """Return the policy that a reference stands for.

    Args:
        reference: As listed above.
        config: Rules of the heuristic, prices of the greedy policy, and the calendar of schedules.
        seed: Of the draws of policies that draw.
        is_greedy: Whether a trained policy takes its likeliest choices instead of drawing.

    Raises:
        UnknownNameError: If it names nothing.
        EsperError: If a file is missing, damaged or of another contract.
    """
    reference = resolve_auto(reference)
    kind = _classify(reference)
    if kind == "name":
        own = map(load_blueprint, filter(is_reference, config.blueprints))
        rules = add_to_rotation(config.heuristic, own)
        policy = build_policy(reference, seed=seed, config=rules, greedy=config.greedy)
        return PolicyChoice(name=reference, policy=policy)
    if kind == "pretrained":
        with resources.as_file(resources.files("esper.runtime") / PRETRAINED_FOLDER) as folder:
            if not (folder / POLICY_FILE).exists():
                raise ConfigError("this build ships no pretrained policy; give the folder of a trained one")
            return _load(folder, PRETRAINED, seed=seed, is_greedy=is_greedy)
    if kind == "schedule":
        path = Path(reference.removeprefix(SCHEDULE_PREFIX))
        policy = FixedSchedulePolicy(read_schedule(path), config.heuristic)
        return PolicyChoice(name=f"schedule {path.stem}", policy=policy)
    if kind == "class":
        return PolicyChoice(name=reference, policy=build_own_policy(reference, seed=seed))
    path = Path(reference)
    inner = path if (path / POLICY_FILE).exists() else path / "policy"
    return _load(inner, path.name or path.resolve().name, seed=seed, is_greedy=is_greedy)


def _classify(
    reference: str, others: tuple[str, ...] = ()
) -> Literal["name", "pretrained", "schedule", "folder", "class"]:
    """Return which line of the table a reference is; `others` are names that are fine elsewhere."""
    if reference in POLICY_NAMES or reference == AUTO:
        return "name"
    if reference == PRETRAINED:
        return "pretrained"
    if reference.startswith(SCHEDULE_PREFIX):
        return "schedule"
    if _is_folder(reference):
        return "folder"
    if ":" in reference:
        split_reference(reference, what="policy")
        return "class"
    if "/" in reference:
        raise ConfigError(f"policy {reference!r}: there is no such folder; the current one is {Path.cwd()}")
    forms = (f"{SCHEDULE_PREFIX}FILE", "the folder of a policy", REFERENCE_FORM)
    raise UnknownNameError("policy", reference, (*POLICY_NAMES, AUTO, PRETRAINED, *others, *forms))


def _is_folder(reference: str) -> bool:
    try:
        return bool(reference) and Path(reference).is_dir()
    except (OSError, ValueError):  # too long for a name, or not one at all
        return False


def _load(folder: Path, name: str, *, seed: int, is_greedy: bool) -> PolicyChoice:
    policy = RecurrentPolicy(load_policy(folder).network, seed=seed, is_greedy=is_greedy)
    fingerprint = hashlib.sha256((folder / POLICY_FILE).read_bytes()).hexdigest()
    return PolicyChoice(name=name, policy=policy, fingerprint=fingerprint)


def read_schedule(path: Path) -> tuple[ScheduledAction, ...]:
    """Return the entries of a schedule file: a JSON list of tables.

    Example:
        [{"epoch": 3, "op": "GERMINATE", "slot": "block2", "blueprint": "conv_light", "tempo_epochs": 3}]

    Raises:
        ConfigError: If the file cannot be read, or an entry has a wrong key or value.
    """
    try:
        if path.stat().st_size > MAX_SCHEDULE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_SCHEDULE_BYTES} bytes, which no schedule is")
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"schedule {path} cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: expected a list of entries, found {type(entries).__name__}")
    return tuple(_read_entry(entry, f"{path}, entry {place}") for place, entry in enumerate(entries))


_KEYS = ("epoch", "until_epoch", "op", "slot", "blueprint", "blend", "curve", "tempo_epochs", "alpha_target")


def _read_entry(entry: object, where: str) -> ScheduledAction:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: expected a table, found {entry!r:.80}")
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}: {suggest(str(key), _KEYS)}")
    defaults = Action()
    try:
        action = Action(
            op=LifecycleOp(entry.get("op")),
            slot=_read_text(entry, "slot"),
            blueprint=_read_text(entry, "blueprint"),
            blend=BlendForm(entry.get("blend", defaults.blend.value)),
            curve=AlphaCurve(entry.get("curve", defaults.curve.value)),
            tempo_epochs=_read_int(entry, "tempo_epochs", defaults.tempo_epochs),
            alpha_target=float(str(entry.get("alpha_target", defaults.alpha_target))),
        )
        last = entry.get("until_epoch")
        until = None if last is None else _read_int(entry, "until_epoch", 0)
        return ScheduledAction(epoch=_read_int(entry, "epoch", -1), action=action, until_epoch=until)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _read_text(entry: Mapping[str, object], key: str) -> str | None:
    value = entry.get(key)
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"{key}={value!r}: expected text")


def _read_int(entry: Mapping[str, object], key: str, default: int) -> int:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key}={value!r}: expected a whole number")
    return value
