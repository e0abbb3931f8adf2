"""A user's own classes by "package.module:Class": imported, called, and held to their contract.

Only what a configuration or a command line names is imported, and never from inside a run directory or a
checkpoint. No entry point is looked up, and no checkpoint and no policy file names code. Whatever goes wrong
becomes one `ConfigError` of one line; the user's own exception is its cause.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from esper.kasmina import BlueprintSpec
from esper.leyline import ConfigError, EsperError, TamiyoPolicy, suggest
from esper.runtime.run_records import CONFIG_NAME, META_NAME
from esper.simic import (
    RewardConfig,
    RewardTerm,
    RewardTermSpec,
    WeightedTerm,
    parse_extra_term,
    require_reward_term,
)
from esper.tamiyo import require_policy

REFERENCE_FORM = "package.module:Class"
_RUN_MARKS = ((META_NAME, CONFIG_NAME), ("MANIFEST.json", "state.json"))
"""A folder with the files of one of these rows is a run or a checkpoint."""
_MAX_LISTED = 12
"""Names that a message lists; of more only the nearest ones are worth reading."""
_MAX_SHOWN = 300
"""Characters of a user's exception that a message repeats."""


def split_reference(reference: str, *, what: str) -> tuple[str, str]:
    """Return (module, class name) of a reference; imports nothing.

    Args:
        reference: Such as "package.module:Class".
        what: The setting that holds it, for messages.

    Raises:
        ConfigError: If it does not have that form.
    """
    module, _, name = reference.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"{what} {reference!r}: expected {REFERENCE_FORM}, e.g. my_module:MyClass")
    return module, name


def load_class(reference: str, *, what: str) -> type:
    """Import the class that a reference names.

    The current directory is importable, as `python -m` would have it, but as the last place that is searched,
    so that a file in it takes the name of no installed module. Python's safe path mode (`python -P` or
    PYTHONSAFEPATH) leaves the directory out.

    Args:
        reference: Such as "package.module:Class".
        what: The setting that holds it, for messages.

    Raises:
        ConfigError: If the reference is malformed, there is no such module, it lies inside a run directory,
            importing it fails, or it holds no such class.
    """
    module, name = _import_named(reference, what)
    found: object = getattr(module, name, None)
    if isinstance(found, type):
        return found
    classes = [key for key, value in vars(module).items() if _is_own_class(value, module)]
    raise _refuse_found(f"{what} {reference!r}", module, name, "class", classes)


def load_blueprint(reference: str) -> BlueprintSpec:
    """Import the blueprint that a reference names; declaring it has held it to the contract.

    Args:
        reference: Such as "package.module:name", where `name` stands under `@esper.blueprint`.

    Raises:
        ConfigError: As `load_class`, or if the blueprint does not keep the contract.
    """
    module, name = _import_named(reference, "blueprints")
    found: object = getattr(module, name, None)
    if isinstance(found, BlueprintSpec):
        return found
    known = [key for key, value in vars(module).items() if isinstance(value, BlueprintSpec)]
    raise _refuse_found(f"blueprints {reference!r}", module, name, "blueprint", known)


def _import_named(reference: str, what: str) -> tuple[ModuleType, str]:
    module_name, name = split_reference(reference, what=what)
    _make_folder_importable()
    _refuse_code_of_a_run(module_name, f"{what} {reference!r}")
    return _import_module(module_name, f"{what} {reference!r}"), name


def _refuse_found(where: str, module: ModuleType, name: str, kind: str, known: Sequence[str]) -> ConfigError:
    """Return the refusal of a name that is not there, or is of another kind."""
    place = f"{where}: {module.__name__} ({getattr(module, '__file__', None) or 'no file'})"
    if hasattr(module, name):
        found = type(getattr(module, name)).__name__
        return ConfigError(f"{place} has {name}, but it is a {found}; expected a {kind}")
    return ConfigError(f"{place} has no {kind} {name}: {_suggest(name, known)}")


def build_own_policy(reference: str, *, seed: int) -> TamiyoPolicy:
    """Build a user's policy, called as `Class(seed=seed)`, and hold it to the contract of policies.

    Args:
        reference: Such as "package.module:Class".
        seed: Of whatever it draws.

    Raises:
        ConfigError: If it cannot be imported or called like that, or breaks the contract.
    """
    where = f"policy {reference!r}"
    cls = load_class(reference, what="policy")
    with _naming_failures(f"{where} in its contract test"):
        require_policy(_call(cls, where, seed=seed))
    policy = _call(cls, where, seed=seed)  # a second one, whose memory no test has touched
    assert isinstance(policy, TamiyoPolicy)
    return policy


def build_own_terms(config: RewardConfig) -> tuple[WeightedTerm, ...]:
    """Build a user's reward terms, each called as `Class()`, and hold them to the contract of terms.

    Args:
        config: `extra_terms` names them, each with its weight.

    Raises:
        ConfigError: If one cannot be imported or called like that, or breaks the contract.
    """
    return tuple(
        WeightedTerm(_build_term(reference), weight)
        for reference, weight in map(parse_extra_term, config.extra_terms)
    )


def describe_failure(error: BaseException) -> str:
    """Return an exception of a user's code in one line: type, text, and the place in the user's own file."""
    text = " ".join(str(error).split())
    shown = text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
    name = type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{name}: {shown}{place}" if shown else f"{name}{place}"


# ---------------------------------------------------------------------- modules


def _make_folder_importable() -> None:
    """Let modules beside the run be found; what they import later must be found, too, so the entry stays."""
    folder = str(Path.cwd())
    if not sys.flags.safe_path and folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()  # a file may have been written after its folder was last searched


def _refuse_code_of_a_run(name: str, where: str) -> None:
    """Refuse a module that came with somebody's run or checkpoint, before anything of it is run."""
    package = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(package)  # of a top-level name: imports nothing
    except (ImportError, ValueError):
        return  # importing it says why
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    for place in places:
        for folder in () if place is None else Path(place).resolve().parents:
            if any(all((folder / name).is_file() for name in marks) for marks in _RUN_MARKS):
                raise ConfigError(
                    f"{where}: {place} lies in {folder}, a run or checkpoint: code is never taken from "
                    "there; read it, then copy it beside your configuration"
                )


def _import_module(name: str, where: str) -> ModuleType:
    try:
        with _naming_failures(f"{where}: importing {name}"):
            return importlib.import_module(name)
    except ConfigError as refusal:
        error = refusal.__cause__
        if not isinstance(error, ModuleNotFoundError) or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module was found; something inside it failed
        parent, _, last = str(error.name).rpartition(".")
        raise ConfigError(
            f"{where}: there is no module {error.name!r}: {_suggest(last, _list_modules(parent))}; "
            f"searched are the installed packages and {Path.cwd()}"
        ) from error


def _is_own_class(value: object, module: ModuleType) -> bool:
    """Whether it is a class that the module itself defines, not one that it imported."""
    return isinstance(value, type) and value.__module__ == module.__name__


def _list_modules(parent: str) -> list[str]:
    """Name what could have been meant: the modules of a package, or those of the current directory."""
    folders = getattr(sys.modules.get(parent), "__path__", ()) if parent else (str(Path.cwd()),)
    return [module.name for module in pkgutil.iter_modules(list(folders))]


def _suggest(got: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    if len(names) > _MAX_LISTED:
        names = difflib.get_close_matches(got, names, n=_MAX_LISTED) or names[:_MAX_LISTED]
    return suggest(got, names)


# ---------------------------------------------------------------------- calling


@contextlib.contextmanager
def _naming_failures(where: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one refusal; ours pass as they are."""
    try:
        yield
    except EsperError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where} raises {describe_failure(error)}") from error


def _call(cls: type, where: str, **arguments: object) -> object:
    given = ", ".join(f"{name}={value}" for name, value in arguments.items())
    wanted = "".join(f", {name}: {type(value).__name__}" for name, value in arguments.items())
    form = f"def __init__(self{', *' if wanted else ''}{wanted}) -> None"
    try:
        inspect.signature(cls).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: it is called as {cls.__name__}({given}), which it does not accept ({error}); write "
            f"`{form}`"
        ) from error
    with _naming_failures(f"{where}: {cls.__name__}({given})"):
        try:
            made: object = cls(**arguments)
        except EsperError as error:
            raise ConfigError(f"{where}: {error}") from error
    return made


def _build_term(reference: str) -> RewardTerm:
    where = f"reward.extra_terms {reference!r}"
    term = _call(load_class(reference, what="reward.extra_terms"), where)
    with _naming_failures(f"{where}: its spec"):
        spec = getattr(term, "spec", None)
    if not isinstance(spec, RewardTermSpec) or not callable(getattr(term, "compute", None)):
        raise ConfigError(
            f"{where}: a reward term has `spec`, a RewardTermSpec, and `compute(facts, memory)`; spec is a "
            f"{type(spec).__name__}"
        )
    with _naming_failures(f"{where} in its contract test"):
        return require_reward_term(term)  # type: ignore[arg-type]


def _is_users(filename: str) -> bool:
    """Whether a line of a traceback is the user's, not ours, not Python's, not an installed package's."""
    places = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    foreign = (Path(__file__).parents[1], *(Path(places[name]) for name in names))
    path = Path(filename)
    return not filename.startswith("<") and not any(path.is_relative_to(folder) for folder in foreign)
