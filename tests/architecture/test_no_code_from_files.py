"""No file that is read can run code: nothing in the source unpickles, evaluates text or loads programs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from source_tree import SRC, imported_modules, plant, read_sources

MODULES = frozenset(
    {
        "pickle", "_pickle", "cPickle", "pickletools", "dill", "cloudpickle", "joblib", "shelve", "marshal",
        "jsonpickle", "yaml", "runpy", "code", "codeop",
    }
)  # fmt: skip
MODULE_PREFIXES = ("torch.distributed.checkpoint", "torch.hub", "torch.package", "torch.jit")
CALLS = frozenset({"eval", "exec", "compile", "__import__"})
DOTTED = re.compile(
    r"(?:torch|dcp)\.(?:load|save|jit\.load|hub\.\w+|export\.load)|yaml\.\w*load\w*|np\.loads|os\.(?:system|popen)"
)
OBJECTS = re.compile(r"(?:all_gather|broadcast|gather|scatter|send|recv)_object(?:_list)?")
KEYWORDS = {("allow_pickle", True), ("weights_only", False), ("shell", True)}
REVIEWED = {
    # Published CIFAR-10 batches are pickles; every name in one resolves to an inert class of that file.
    ("data/cifar10.py", "imports pickle"),
    ("data/cifar10.py", "imports pickletools"),
    # The file that the same call has just written, to compare it with the network.
    ("runtime/export_programs.py", "uses torch.export.load"),
}


def find_code_paths(root: Path) -> list[str]:
    """Name every place that could run code out of a file or message."""
    return sorted(
        {
            f"{file.name}:{line} {what}"
            for file in read_sources(root)
            for line, what in (*_bad_imports(file.tree), *_bad_uses(file.tree))
            if (file.name, what) not in REVIEWED
        }
    )


def _bad_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for line, module in imported_modules(tree):
        name = module.split(".")[0]
        if name in MODULES:
            yield line, f"imports {name}"
        elif module.startswith(MODULE_PREFIXES) or module in ("torch.load", "torch.save"):
            yield line, f"imports {module}"


def _bad_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if DOTTED.fullmatch(dotted) or OBJECTS.fullmatch(node.attr):
                yield node.lineno, f"uses {dotted}"
        elif isinstance(node, ast.Name) and OBJECTS.fullmatch(node.id):
            yield node.lineno, f"uses {node.id}"
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                yield node.lineno, f"calls {node.func.id}"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if isinstance(value, bool) and (keyword.arg, value) in KEYWORDS:
                    yield node.lineno, f"passes {keyword.arg}={value}"


def test_no_source_file_runs_code_out_of_a_file() -> None:
    assert find_code_paths(SRC) == []


def test_each_reviewed_exception_still_exists() -> None:
    found = {
        (file.name, what)
        for file in read_sources(SRC)
        for _, what in (*_bad_imports(file.tree), *_bad_uses(file.tree))
    }
    assert found == REVIEWED


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import pickle", "imports pickle"),
        ("from pickle import loads", "imports pickle"),
        ("import dill as d", "imports dill"),
        ("import joblib", "imports joblib"),
        ("import marshal", "imports marshal"),
        ("import yaml", "imports yaml"),
        ("import torch.distributed.checkpoint as dcp", "imports torch.distributed.checkpoint"),
        ("from torch.distributed.checkpoint import load", "imports torch.distributed.checkpoint.load"),
        ("from torch import load", "imports torch.load"),
        ("torch.load('x')", "uses torch.load"),
        ("torch.save(x, 'x')", "uses torch.save"),
        ("torch.jit.load('x')", "uses torch.jit.load"),
        ("torch.hub.load('x')", "uses torch.hub.load"),
        ("torch.export.load('x')", "uses torch.export.load"),
        ("dcp.load({})", "uses dcp.load"),
        ("yaml.load(x)", "uses yaml.load"),
        ("yaml.unsafe_load(x)", "uses yaml.unsafe_load"),
        ("dist.broadcast_object_list([])", "uses dist.broadcast_object_list"),
        ("torch.distributed.all_gather_object([], 1)", "uses torch.distributed.all_gather_object"),
        ("dist.scatter_object_list([], [])", "uses dist.scatter_object_list"),
        ("gather_object(1)", "uses gather_object"),
        ("eval('1')", "calls eval"),
        ("exec('1')", "calls exec"),
        ("compile('1', 'x', 'exec')", "calls compile"),
        ("__import__('x')", "calls __import__"),
        ("np.load('x', allow_pickle=True)", "passes allow_pickle=True"),
        ("read('x', weights_only=False)", "passes weights_only=False"),
        ("subprocess.run('x', shell=True)", "passes shell=True"),
        ("os.system('x')", "uses os.system"),
    ],
)
def test_a_planted_violation_is_found(line: str, what: str, tmp_path: Path) -> None:
    plant(tmp_path, {"data/a.py": f"def f():\n    {line}\n"})
    assert f"data/a.py:2 {what}" in find_code_paths(tmp_path)


def test_what_only_resembles_one_passes(tmp_path: Path) -> None:
    harmless = (
        "import re\nmodel.eval()\nre.compile('x')\ntorch.compile(model)\nsafetensors.torch.load(data)\n"
        "np.load('x', allow_pickle=False)\nread('x', weights_only=True)\nlearner.load(state)\n"
    )
    plant(tmp_path, {"data/a.py": harmless})
    assert find_code_paths(tmp_path) == []
