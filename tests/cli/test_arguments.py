from __future__ import annotations

import pytest

from esper.cli.arguments import CommandParser, asks_for_help, split_verb
from esper.leyline import ConfigError


def _parser() -> CommandParser:
    parser = CommandParser("demo", "esper demo: try it.")
    parser.add_argument("--run-dir")
    parser.add_argument("--count", type=int)
    return parser


def test_known_arguments_are_parsed() -> None:
    assert _parser().parse_all(["--run-dir", "d", "--count", "3"]).count == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--run-dri", "d"], "did you mean '--run-dir'"),
        (["--run", "d"], "unknown argument '--run'"),  # an abbreviation would change meaning with a new flag
        (["--count", "x"], "esper demo: argument --count: invalid int value: 'x'; see `esper demo --help`"),
        (["--count"], "expected one argument"),
    ],
)
def test_a_wrong_argument_is_one_config_error(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _parser().parse_all(args)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_begins_with_the_words_of_the_docstring() -> None:
    assert _parser().format_help().startswith("usage: esper demo\n\nTry it.\n\noptions:\n")
    assert CommandParser("demo", None).format_help().startswith("usage: esper demo [-h]\n\noptions:\n")


def test_a_verb_is_split_off() -> None:
    assert split_verb("runs", ["ls", "x"], ("ls", "show")) == ("ls", ["x"])


@pytest.mark.parametrize(
    ("args", "message"),
    [([], "give one of ls, show"), (["shwo"], "did you mean 'show'"), (["--json"], "unknown")],
)
def test_a_missing_or_unknown_verb_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_verb("runs", args, ("ls", "show"))


@pytest.mark.parametrize(("args", "asked"), [(["-h"], True), (["ls", "--help"], True), (["ls"], False)])
def test_help_is_seen_anywhere(args: list[str], asked: bool) -> None:
    assert asks_for_help(args) is asked
