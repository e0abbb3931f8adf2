"""The page about one's own model quotes messages: each is one that the code has."""

from __future__ import annotations

import ast
import re

from source_tree import REPO, SRC, read_sources

PAGE = REPO / "docs" / "your-own-model.md"


def collect_messages(tree: ast.AST) -> set[str]:
    """Return every text of a module; what is filled in is `...`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
            found.add("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def find_unknown(page: str, messages: set[str]) -> list[str]:
    """Name the messages in a page's last table that no text of the code contains."""
    quoted = re.findall(r"^\| `(.+?)` \|", page.partition("## Messages")[2], re.MULTILINE)
    return [text for text in quoted if not any(text in message for message in messages)]


def test_every_quoted_message_is_one_of_the_code() -> None:
    messages = {text for file in read_sources(SRC) for text in collect_messages(file.tree)}
    page = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"^\| `", page.partition("## Messages")[2], re.MULTILINE)) > 25
    assert find_unknown(page, messages) == []


def test_a_message_that_is_not_there_is_found() -> None:
    messages = collect_messages(ast.parse("raise ValueError(f'slot {slot!r} is ' f'gone: {why}')"))
    page = "## Messages\n| `slot ... is gone: ...` | a |\n| `slot ... is here` | b |\n"
    assert find_unknown(page, messages) == ["slot ... is here"]
