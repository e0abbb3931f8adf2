"""Every block of Python or shell on a page is run by a test, or the page says why not; how many is said here.

Shows `scripts/docs_code.py`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from docs_code import MARK, all_pages, find_unrun, pages, run_page, runnable_program
from source_tree import REPO

UNRUN = {
    "README.md": 6,
    "docs/dashboard.md": 2,
    "docs/getting-started/operator.md": 1,
    "docs/getting-started/practitioner.md": 1,
    "docs/index.md": 1,
    "docs/language-models.md": 1,
    "docs/long-jobs.md": 2,
    "docs/models.md": 1,
    "docs/several-processes.md": 3,
    "docs/testing.md": 3,
    "docs/watching.md": 1,
}
"""Page -> blocks that no test runs; pages of measurements, which say so at their top, are not counted."""
MEASUREMENTS = frozenset({"docs/performance.md", "docs/results.md"})


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(REPO), ids=lambda page: page.name)
def test_marked_code_runs(page: Path) -> None:
    answer = run_page(page)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_block_is_run_or_says_why_not() -> None:
    assert [f"{block.page}:{block.line}" for block in find_unrun(REPO) if block.why is None] == []


def test_the_blocks_that_no_test_runs_are_these_many() -> None:
    unrun = find_unrun(REPO)
    told = "\n".join(f"{block.page}:{block.line} {block.why}" for block in unrun)
    counted = Counter(block.page for block in unrun if block.page not in MEASUREMENTS)
    assert dict(counted) == UNRUN, told


def test_most_blocks_run() -> None:
    num_run = sum(page.read_text(encoding="utf-8").count(MARK) for page in all_pages(REPO))
    assert num_run > 3 * sum(UNRUN.values())


@pytest.mark.parametrize("name", ["practitioner", "researcher", "operator"])
def test_each_user_has_a_page_with_commands_that_run(name: str) -> None:
    text = (REPO / "docs" / "getting-started" / f"{name}.md").read_text(encoding="utf-8")
    assert f"{MARK}\n```bash\nesper " in text
    assert f"getting-started/{name}.md" in (REPO / "README.md").read_text(encoding="utf-8")
    assert f"getting-started/{name}.md" in (REPO / "docs" / "index.md").read_text(encoding="utf-8")


def write(tmp_path: Path, text: str) -> Path:
    """Write a page and return it."""
    page = tmp_path / "README.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_marked_blocks_of_a_page_are_one_program(tmp_path: Path) -> None:
    block = "{mark}\n```python\n{code}\n```\n"
    page = write(
        tmp_path,
        "# Title\n" + block.format(mark=MARK, code="a = 20") + block.format(mark=MARK, code="print(a + 1)"),
    )
    assert run_page(page).stdout == "21\n"
    page = write(tmp_path, "# Title\n" + block.format(mark=MARK, code="\nraise ValueError('broken')"))
    answer = run_page(page)
    assert answer.returncode == 1
    assert "line 5" in answer.stderr


def test_shell_runs_between_python_and_stops_at_its_first_failure(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        f"{MARK}\n```python\nopen('a', 'w').write('one')\n```\n"
        f"{MARK}\n```bash\ncat a; echo; cd examples\n```\n"
        f"{MARK}\n```bash\npython -c 'print(2)'; false; echo 3\n```\n",
    )
    answer = run_page(page)
    assert answer.stdout == "one\n2\n"
    assert answer.returncode == 1
    assert "false" in answer.stderr


@pytest.mark.parametrize("text", [MARK, f"{MARK}\n```text\nx\n```\n", f"{MARK}\n```python\nx\n"])
def test_a_mark_without_a_closed_block_of_code_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="marks"):
        runnable_program(text)


def test_blocks_without_a_mark_are_found_also_those_that_call_themselves_text(tmp_path: Path) -> None:
    write(
        tmp_path,
        "```python\nx\n```\n```text\nesper doctor\n```\n```text\nepoch 1\n```\n"
        f"{MARK}\n```bash\nls\n```\n<!-- not run: needs a queue -->\n```bash\nsbatch x\n```\n",
    )
    found = [(block.line, block.why) for block in find_unrun(tmp_path)]
    assert found == [(1, None), (4, None), (15, "needs a queue")]


def test_a_page_of_measurements_says_it_once(tmp_path: Path) -> None:
    write(tmp_path, "<!-- what has no mark is not run: hours -->\n```bash\nls\n```\n")
    assert [block.why for block in find_unrun(tmp_path)] == ["hours"]
