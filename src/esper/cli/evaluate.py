"""esper evaluate --policy P [P ...] [--against Q] [--episodes N | --seeds S] [--likeliest]: compare them.

Each policy grows the same fresh hosts of a task, one per seed; they are compared by pairs on the test split,
with intervals, parameters and FLOPs. P is auto, never, random, heuristic, greedy, schedule, schedule:FILE,
pretrained, the folder of a trained policy or your own package.module:Class. A trained policy draws its
choices as it did in training: one that plants with one chance in five at every step would, taken at its
likeliest, never plant. Settings of the hosts are flags as in `esper train`.

Example: esper evaluate --policy runs/my-policy/policy heuristic --task digits --seeds 0-9
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from esper.cli.arguments import asks_for_help
from esper.cli.config_flags import build_config_parser, parse_request, resolve_request, write_flag_help
from esper.cli.output import Table, report_note, write_json, write_tables, write_text
from esper.leyline import ConfigError, ExitCode, MetricSpec
from esper.runtime.evaluation import Comparison, PolicyResult, compare_policies, parse_seeds
from esper.runtime.tasks import task_spec
from esper.simic import EpisodeResult, PairedInterval

_EPISODES = 10


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong, or a policy or data cannot be loaded.
    """
    parser = build_config_parser("evaluate", __doc__)
    parser.add_argument(
        "--policies", "--policy", nargs="+", metavar="P", dest="policies", help="what to evaluate"
    )
    parser.add_argument(
        "--against", default="never", metavar="Q", help="base of the differences; default: never"
    )
    parser.add_argument(
        "--episodes", type=int, metavar="N", help=f"hosts: seeds 0 to N - 1; default: {_EPISODES}"
    )
    parser.add_argument("--seeds", metavar="S", help="hosts by seed, such as 0-9 or 20,30-34")
    parser.add_argument(
        "--likeliest",
        action="store_true",
        dest="is_greedy",
        help="take a trained policy's likeliest choices; default: draw them, as it was trained",
    )
    parser.add_argument("--json", action="store_true", dest="is_json", help="print everything as JSON")
    if asks_for_help(args):
        write_text(parser.format_help())
        known = [token for token in args if token not in ("-h", "--help")]
        write_flag_help(parser.prog, parse_request(parser, known)[1])
        return int(ExitCode.OK)
    given, request = parse_request(parser, args)
    if not given.policies:
        raise ConfigError("esper evaluate: --policy says what to evaluate, e.g. --policy heuristic")
    seeds = _choose_seeds(given.episodes, given.seeds)
    resolved = resolve_request(request)
    references = [given.against, *(p for p in given.policies if p != given.against)]
    comparison = compare_policies(
        resolved.config,
        references,
        seeds,
        is_greedy=given.is_greedy,
        on_episode=partial(_tell, task_spec(resolved.config.task.name).metric),
        on_notice=report_note,
    )
    if given.is_json:
        write_json(comparison.to_json())
    else:
        write_tables((render_comparison(comparison),))
    return int(ExitCode.OK)


def _choose_seeds(episodes: int | None, text: str | None) -> tuple[int, ...]:
    if text is not None:
        if episodes is not None:
            raise ConfigError("--episodes counts seeds from 0, --seeds names them: give one of the two")
        return parse_seeds(text)
    count = _EPISODES if episodes is None else episodes
    if count < 1:
        raise ConfigError(f"--episodes {count}: must be >= 1")
    return tuple(range(count))


def _tell(metric: MetricSpec, name: str, episode: EpisodeResult) -> None:
    value = metric.shown(episode.test_metric)
    report_note(f"{name}: host {episode.seed} done, {_name_metric(metric)} {value:.4f}")


def _name_metric(metric: MetricSpec) -> str:
    """A metric that is turned around inside is named, so that nobody reads it the wrong way."""
    return "test metric" if metric.is_higher_better else f"test {metric.name}"


def render_comparison(comparison: Comparison) -> Table:
    """Return the table: one row per policy, the base first."""
    metric = task_spec(comparison.task).metric
    inside = ", as minus its log" if metric.is_exponential else ""
    columns = (
        "policy",
        _name_metric(metric),
        f"less {comparison.policies[0].name}{inside} [95 %]",
        "objective, same [95 %]",
        "parameters",
        "FLOPs",
        "kept",
    )
    return Table(
        title=f"{comparison.task}: {len(comparison.seeds)} hosts, test split",
        columns=columns,
        rows=tuple(_render_row(policy, metric) for policy in comparison.policies),
        numbers=frozenset(columns[1:]),
    )


def _render_row(result: PolicyResult, metric: MetricSpec) -> tuple[str, ...]:
    return (
        result.name,
        f"{metric.shown(result.mean('test_metric')):.4f}",
        _show(result.test_difference),
        _show(result.objective_difference),
        f"x{result.size_ratio:.2f}",
        f"x{result.flops_ratio:.2f}",
        f"{result.mean('num_fossils'):.1f}",
    )


def _show(interval: PairedInterval | None) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.4f} (one host)"
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
