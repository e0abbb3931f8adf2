"""python scripts/rewards_page.py [--check]: docs/rewards.md from the reward terms and modes themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

from esper.simic.rewards.config import REWARD_MODES, RewardConfig
from esper.simic.rewards.modes import MODE_SUMMARIES, build_rubric, build_terms
from esper.simic.rewards.rubric import RewardTermSpec, Rubric
from generated import NOTE, settle
from source_tree import REPO

PAGE = REPO / "docs" / "rewards.md"
TESTS = REPO / "tests" / "simic" / "rewards"
INTRO = """# Rewards

An episode is one host trained once. What it comes to, on the validation split and never on the test split, is

```text
J = metric_T - lambda_p log(1 + added / host parameters) - lambda_f (FLOPs spent / FLOPs of never growing - 1)
```

The metric is turned so that higher is better, and the prices `lambda_p` and `lambda_f` count in units of the
metric's scale, a difference that is large for the task, so that one setting serves every task. The reward of
a step is computed after the interval that the action caused. It is a sum of terms:

```text
share of a term = scale x weight x value          reward of the step = sum of the shares, exactly
```

Every value has a range, so the largest reward of a mode is known before the first step: a configuration
under which a step could pay more than `reward.bound` (1 by default) is refused. Nothing is normalised or
clipped afterwards; a learner may do that with returns, and then knows it.

Where a level is paid, either its change is paid at every step or all of it on the last one. Both sum up to
the level at the end less the level at the start, clipped levels included, so nothing is gained by going up
and down. With a discount below 1 a lead that is lost again leaves a little behind, always less than keeping
it. A host that failed gives back what it had gained, keeps what it had lost, and pays the governor's price.
"""
OWN_TERMS = """## Terms of your own

A term is a class with a `spec` and `compute(facts, memory)`. It sees the facts of one step (the
observations before and after, the action, the governor's verdict, the metric of the host that never
grows) and a memory of its own that is empty when an episode begins, and never a model or the test split.
`check_reward_term(term)` says whether it keeps the contract: within its range on any observation, broken
measurements included; 0 on every step of a host that never grows, unless its spec says otherwise; the
same value for the same facts and memory; a memory of plain JSON data, so that a resumed run is exact. The
built-in terms pass the same check.

`reward.extra_terms` names such classes with their weights:
[Your own policy, reward, seed](your-own-code.md).
"""


def build_page(tests: Path = TESTS) -> str:
    """Return the page; `tests` is the folder where each term has its tests."""
    return "\n".join([NOTE, INTRO, _terms(tests), _modes(), OWN_TERMS])


def find_test(term: str, tests: Path) -> str:
    """Return the id of the first test that is named after a term: test_<term>_...

    Raises:
        LookupError: If there is none.
    """
    for path in sorted(tests.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and _names_term(node.name, term):
                return f"tests/simic/rewards/{path.name}::{node.name}"
    raise LookupError(f"no test of reward term {term!r}: name one test_{term}_... under {tests}")


def _names_term(test: str, term: str) -> bool:
    """Whether a test is named after a term; the number of a check may stand before it: test_a34_<term>_..."""
    first, _, rest = test.removeprefix("test_").partition("_")
    is_numbered = first[:1].isalpha() and first[1:].isdigit()
    return test.startswith(f"test_{term}_") or (is_numbered and rest.startswith(f"{term}_"))


def _terms(tests: Path) -> str:
    items = build_terms(RewardConfig(), discount=1.0)
    rows = [_row(item.term.spec, find_test(name, tests)) for name, item in items.items()]
    text = (
        "Values before weight and scale, with the default settings. The last column names a test that shows\n"
        "what the term does; every term is also held to the contract below."
    )
    head = "| term | value | unit | range | why | test |"
    return "\n".join(["## Terms", "", text, "", head, "|---" * 6 + "|", *rows, ""])


def _row(spec: RewardTermSpec, test: str) -> str:
    span = f"[{spec.low:g}, {spec.high:g}]"
    cells = (f"`{spec.name}`", spec.formula, spec.unit, span, spec.why, f"`{test}`")
    return "| " + " | ".join(_cell(text) for text in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _modes() -> str:
    parts = ["## Modes", ""]
    for mode in REWARD_MODES:
        config = RewardConfig(mode=mode)
        parts += _mode(mode, config, build_rubric(config, discount=1.0))
    return "\n".join(parts)


def _mode(mode: str, config: RewardConfig, rubric: Rubric) -> Iterable[str]:
    rows = [
        f"| `{item.term.spec.name}` | {item.weight:g} | {rubric.largest_share(item):.4g} |"
        for item in rubric.terms
    ]
    return [
        f"### {mode}",
        "",
        f"{MODE_SUMMARIES[mode]} No step can pay more than {rubric.largest_total:.4g} either way, at the "
        f"scale {config.scale:g}.",
        "",
        "| term | weight | largest share of a step |",
        "|---|---|---|",
        *rows,
        "",
    ]


if __name__ == "__main__":
    raise SystemExit(settle(PAGE, build_page(), is_check="--check" in sys.argv[1:]))
