"""python scripts/checkpoint_corpus.py: stopped runs of the present format, for every later version to open.

Writes tests/tolaria/checkpoint/corpus/format-N/: a run and the training of a policy, each stopped half way,
as small as they can be. Run it when the format number rises, or, before the first release, when what a
checkpoint holds has changed; folders of released formats are never written again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from esper.leyline import InterruptedRunError
from esper.runtime.experiment import CheckpointConfig, EnvsConfig, ExperimentConfig
from esper.runtime.policy_run import train_policy
from esper.runtime.presets import digits
from esper.runtime.run import run_experiment
from esper.simic import TrainingConfig
from esper.tamiyo import NetworkConfig
from esper.tolaria.checkpoint import FORMAT_VERSION
from source_tree import REPO

CORPUS = REPO / "tests" / "tolaria" / "checkpoint" / "corpus"
SMALL = NetworkConfig(hidden_size=4, token_size=4, family_size=2, attention_heads=1, core_size=4)
KEPT = ("config.toml", "meta.json", "status.json", "events-0.jsonl", "checkpoints")


def build_growing() -> ExperimentConfig:
    """Return a host of few weights that the forced cycle grows; it is stopped while one seed lives."""
    config = digits()
    host = replace(
        config.host,
        epochs=4,
        gates=replace(config.host.gates, min_incubation_epochs=1, min_gradient_ratio=0.0),
    )
    return replace(
        config,
        policy="cycle",
        model=replace(config.model, base_channels=2, num_blocks=2),
        task=replace(config.task, num_train_rows=64),
        host=host,
        telemetry=replace(config.telemetry, progress="none", has_report=False),
        checkpoint=CheckpointConfig(every_epochs=0),
    )


def build_training() -> ExperimentConfig:
    """Return a training of one round; it is stopped within its rollout."""
    return replace(
        build_growing(),
        policy="ppo",
        envs=EnvsConfig(num_envs=1, num_hosts=1, start_fractions=(0.0,)),
        network=SMALL,
        training=TrainingConfig(num_updates=1),
    )


def write_corpus(folder: Path) -> None:
    """Write the stopped runs of the present format into a folder that does not exist yet."""
    os.environ |= {"ESPER_ALLOW_FAULTS": "1", "FAULTS": "sigterm@event=EpochCompleted,step=2"}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        growing, training = Path("host-run"), Path("policy-training")  # no path of a machine gets in
        try:
            run_experiment(build_growing(), run_dir=growing, provenance={})
        except InterruptedRunError as stop:
            print(stop)
        os.environ["FAULTS"] = "sigterm@point=boundary,call=3"
        try:
            train_policy(build_training(), run_dir=training, provenance={})
        except InterruptedRunError as stop:
            print(stop)
        for run in (growing, training):
            for name in KEPT:
                source, target = run / name, folder / run.name / name
                target.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if source.is_dir() else shutil.copyfile
                copy(source, target)


if __name__ == "__main__":
    target = CORPUS / f"format-{FORMAT_VERSION}"
    shutil.rmtree(target, ignore_errors=True)
    write_corpus(target)
    print(f"wrote {target}")
