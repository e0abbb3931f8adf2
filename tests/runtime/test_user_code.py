"""A user's own classes: found beside the run, held to their contracts, and refused in one clear line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.leyline import ConfigError, TamiyoPolicy
from esper.runtime.training import EnvBuilder
from esper.runtime.user_code import (
    build_own_policy,
    build_own_terms,
    describe_failure,
    load_class,
    split_reference,
)
from esper.simic import RewardConfig
from esper.tamiyo.action_layout import BLUEPRINT_HEAD, HEAD_OPS, OP_HEAD
from runtime.learning import tiny_training
from runtime.own_code import POLICIES, POLICY_MODULE, TERM_MODULE, TERMS
from source_tree import SRC

_BROKEN = {
    "own_syntax": "def broken(:\n    pass\n",
    "own_name": "x = 1\ny = missing\n",
    "own_needs": "import no_such_package.inside\n",
    "own_exit": "raise SystemExit('no arguments given')\n",
    "own_silent": "raise KeyError\n",
    "own_long": "raise ValueError('x' * 10_000)\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory with a user's modules; search path and modules are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    sources = {**_BROKEN, POLICY_MODULE: POLICIES, TERM_MODULE: TERMS}
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "inner.py").write_text("class A: ...\n", encoding="utf-8")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_a_module_beside_the_run_is_found_as_the_last_place_that_is_searched(folder: Path) -> None:
    before = list(sys.path)
    found = load_class(f"{POLICY_MODULE}:PlantOnce", what="policy")
    assert found.__name__ == "PlantOnce"
    assert sys.path == [*before, str(folder)]
    load_class("own_package.inner:A", what="policy")
    assert sys.path == [*before, str(folder)]


def test_a_file_beside_the_run_takes_the_name_of_no_installed_module(folder: Path) -> None:
    (folder / "colorsys.py").write_text("class Mine: ...\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"colorsys \(.*python.*\) has no class Mine"):
        load_class("colorsys:Mine", what="policy")


def test_a_file_that_was_just_written_is_found(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no module 'own_late'"):
        load_class("own_late:A", what="policy")
    (folder / "own_late.py").write_text("class A: ...\n", encoding="utf-8")
    assert load_class("own_late:A", what="policy").__name__ == "A"


@pytest.mark.parametrize(
    "text", ["", "a", "a:", ":A", "a:b:C", "a.:A", ".a:A", "a-b:A", "a:A.B", "a/b:A", "a:A()", "1a:A", "a: A"]
)
def test_a_malformed_reference_imports_nothing(text: str, folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"^policy {re.escape(repr(text))}: expected package\.module:Class"
    ):
        load_class(text, what="policy")
    assert str(folder) not in sys.path


@pytest.mark.battery("T50")
@pytest.mark.parametrize("marks", [("meta.json", "config.toml"), ("MANIFEST.json", "state.json")])
@pytest.mark.parametrize("name", ["own_planted.py", "own_planted/__init__.py"])
def test_code_inside_a_run_or_checkpoint_is_never_imported(
    name: str, marks: tuple[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / "run"
    module = run / name
    module.parent.mkdir(parents=True)
    module.write_text("open('canary', 'w').close()\nclass A: ...\n", encoding="utf-8")
    for mark in marks:
        (run / mark).write_text("{}", encoding="utf-8")
    monkeypatch.chdir(run)
    with pytest.raises(ConfigError, match="a run or checkpoint: code is never taken from there"):
        load_class("own_planted:A", what="policy")
    assert not (run / "canary").exists()
    (run / marks[1]).unlink()
    assert load_class("own_planted:A", what="policy").__name__ == "A"
    assert (run / "canary").exists()


def test_a_reference_is_split() -> None:
    assert split_reference("a.b_c:D", what="policy") == ("a.b_c", "D")


@pytest.mark.battery("T50")
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("own_policis:PlantOnce", "there is no module 'own_policis': did you mean 'own_policies'?"),
        ("no_such_package.deep:A", "there is no module 'no_such_package'"),
        ("own_package.iner:A", "there is no module 'own_package.iner': did you mean 'inner'?"),
        ("own_policies.deep:A", "there is no module 'own_policies.deep'"),
        ("own_policies:PlantOne", "has no class PlantOne: did you mean 'PlantOnce'?"),
        ("own_policies:Action", ""),
        ("own_policies:number", "has number, but it is a int; expected a class"),
        ("own_syntax:A", "importing own_syntax raises SyntaxError: invalid syntax (own_syntax.py, line 1)"),
        (
            "own_name:A",
            "raises NameError: name 'missing' is not defined ({}/own_name.py, line 2, in <module>)",
        ),
        (
            "own_needs:A",
            "raises ModuleNotFoundError: No module named 'no_such_package' ({}/own_needs.py, line",
        ),
        ("own_exit:A", "raises SystemExit: no arguments given ({}/own_exit.py, line 1"),
        ("own_silent:A", "raises KeyError ({}/own_silent.py, line 1, in <module>)"),
        ("own_long:A", "xxx... ({}/own_long.py, line 1"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_that_says_why(reference: str, message: str, folder: Path) -> None:
    if not message:
        assert load_class(reference, what="policy").__name__ == "Action"
        return
    with pytest.raises(ConfigError) as caught:
        load_class(reference, what="policy")
    text = str(caught.value)
    assert text.startswith(f"policy {reference!r}: ")
    assert message.format(folder) in text
    assert "\n" not in text
    assert len(text) < 1000


def test_only_near_names_are_listed_where_there_are_many(folder: Path) -> None:
    names = [f"Class{number:03d}" for number in range(200)]
    (folder / "own_many.py").write_text("".join(f"class {n}: ...\n" for n in names), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_class("own_many:Clas007", what="policy")
    assert "did you mean 'Class007'?" in str(caught.value)
    assert str(caught.value).count("Class0") <= 13


# ---------------------------------------------------------------------- policies


def test_a_policy_gets_its_seed_and_comes_untouched_from_its_contract_test(folder: Path) -> None:
    policy = build_own_policy(f"{POLICY_MODULE}:PlantOnce", seed=7)
    assert isinstance(policy, TamiyoPolicy)
    assert vars(policy) == {"seed": 7, "has_planted": False}


@pytest.mark.battery("T50")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Forgets", "policy Forgets breaks its contract: a host that seeds help: memory: restore was given"),
        (
            "Crashes",
            "in its contract test raises ZeroDivisionError: division by zero ({}/own_policies.py, line",
        ),
        ("Wants", "called as Wants(seed=7), which it does not accept (missing a required argument: 'rate')"),
        ("Refuses", "Refuses(seed=7) raises ValueError: not today ({}/own_policies.py, line"),
        ("RefusesPolitely", "policy 'own_policies:RefusesPolitely': own.rate=3: must be < 1"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(name: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build_own_policy(f"{POLICY_MODULE}:{name}", seed=7)
    assert message.format(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_form_of_the_constructor_is_told() -> None:
    with pytest.raises(ConfigError, match=re.escape("write `def __init__(self, *, seed: int) -> None`")):
        build_own_policy("esper.tamiyo:NeverGrow", seed=0)


# ---------------------------------------------------------------------- reward terms


def _rewards(*terms: str) -> RewardConfig:
    return RewardConfig(extra_terms=terms)


def test_a_term_comes_with_its_weight_and_none_without_the_setting(folder: Path) -> None:
    (item,) = build_own_terms(_rewards(f"{TERM_MODULE}:FirstSeed=0.5"))
    assert (item.term.spec.name, item.weight) == ("first_seed", 0.5)
    assert build_own_terms(RewardConfig()) == ()


@pytest.mark.battery("T50")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PaysNothingDone", "'first_seed' breaks its contract: a host that never grows: gives 0.5"),
        ("Crashes", "in its contract test raises ZeroDivisionError: division by zero ({}/own_terms.py, line"),
        ("HasNoSpec", "a reward term has `spec`, a RewardTermSpec, and `compute(facts, memory)`"),
        ("NeedsArguments", "called as NeedsArguments(), which it does not accept"),
        ("Nothing", "has no class Nothing"),
    ],
)
def test_a_term_that_does_not_fit_is_refused(name: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build_own_terms(_rewards(f"{TERM_MODULE}:{name}=0.5"))
    assert message.format(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (("Governor=0.1",), "governor: each name may occur once, and built-in terms have these"),
        (("Contribution=0.1",), "contribution: each name may occur once, and built-in terms have these"),
        (("FirstSeed=0.1", "FirstSeed=0.2"), "first_seed: each name may occur once"),
        (("FirstSeed=5",), "the reward could reach 1.15 in one step, allowed is 1"),
    ],
)
def test_names_that_clash_and_bounds_that_break_are_refused(
    terms: tuple[str, ...], message: str, folder: Path
) -> None:
    config = replace(tiny_training(), reward=_rewards(*(f"{TERM_MODULE}:{term}" for term in terms)))
    with pytest.raises(ConfigError, match=message):
        EnvBuilder(config)


def test_a_term_of_the_configuration_is_paid_under_its_own_name(folder: Path) -> None:
    config = replace(tiny_training(), reward=_rewards(f"{TERM_MODULE}:FirstSeed=0.5"))
    env = EnvBuilder(config).build((0, 1))
    env.reset(torch.ones(2, dtype=torch.bool))
    heads = list(HEAD_OPS)
    actions = torch.zeros(2, len(heads), dtype=torch.long)
    actions[1, heads.index(OP_HEAD)] = env.layout.op_names.index("GERMINATE")
    actions[1, heads.index(BLUEPRINT_HEAD)] = 1  # 0 is the control that adds nothing
    shares = [env.step(actions).terms["first_seed"].tolist() for _ in range(2)]
    assert shares[0] == pytest.approx([0.0, 0.05 * 0.5])
    assert shares[1] == [0.0, 0.0]


@pytest.mark.battery("T50")
def test_nothing_else_in_the_package_imports_by_name_and_no_entry_point_is_looked_up() -> None:
    found = {
        path.relative_to(SRC / "esper").as_posix()
        for path in sorted((SRC / "esper").rglob("*.py"))
        if re.search(r"import_module|__import__|entry_points|runpy|exec_module", path.read_text("utf-8"))
    }
    # The front's own names, the command's own module, a user's own class, and an export to be compared.
    assert found == {"__init__.py", "cli/main.py", "runtime/user_code.py", "runtime/export_run.py"}


def test_an_exception_without_a_line_of_the_users_has_no_place() -> None:
    assert describe_failure(ValueError("a\n b")) == "ValueError: a b"
