"""Every source file has its test file, under the same room."""

from __future__ import annotations

from pathlib import Path

from source_tree import REPO, SRC, SourceFile, plant, read_file, read_sources


def _mirrors(file: SourceFile) -> tuple[str, ...]:
    """Where the tests of a file may lie: kasmina/hosts/cnn.py in kasmina/[hosts/]test_[hosts_]cnn.py."""
    *folders, name = file.name.removesuffix(".py").split("/")
    room, inner = folders[:1], folders[1:]
    return (
        "/".join([*room, *inner, f"test_{name}.py"]),
        "/".join([*room, f"test_{name}.py"]),
        "/".join([*room, "_".join(["test", *inner, name]) + ".py"]),
    )


def find_untested(root: Path, tests: Path) -> list[str]:
    """Name source files without a mirror that no test module's docstring names by its path either."""
    named = "\n".join(
        read_file(path, tests).text.split('"""')[1]
        for path in tests.rglob("test_*.py")
        if path.read_text(encoding="utf-8").startswith('"""')
    )
    return [
        file.name
        for file in read_sources(root)
        if file.path.name not in ("__init__.py", "__main__.py")
        and not any((tests / mirror).exists() for mirror in _mirrors(file))
        and file.name not in named
    ]


def test_every_source_file_has_a_test_file() -> None:
    assert find_untested(SRC, REPO / "tests") == []


def test_a_file_without_tests_is_found(tmp_path: Path) -> None:
    names = (
        "data/a.py",
        "data/b.py",
        "kasmina/hosts/c.py",
        "kasmina/hosts/d.py",
        "kasmina/e.py",
        "data/lost.py",
    )
    plant(tmp_path / "src", dict.fromkeys(names, ""))
    for name, text in {
        "data/test_a.py": "",
        "data/test_contract.py": '"""The contract; covers data/b.py."""\n',
        "kasmina/test_hosts_c.py": "",
        "kasmina/hosts/test_d.py": "",
        "kasmina/test_e.py": "",
        "other/test_lost.py": "",
    }.items():
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert find_untested(tmp_path / "src", tmp_path / "tests") == ["data/lost.py"]
