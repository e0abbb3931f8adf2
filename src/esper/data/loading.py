"""From the name of a set to its three parts: find, read, choose the training rows, compute the constants."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from esper.data.catalog import dataset_record, locate
from esper.data.cifar10 import CIFAR10_CLASSES, load_cifar10
from esper.data.digits import load_digits
from esper.data.images import EMOJI9_CLASSES, FASHION_MNIST_CLASSES, load_emoji9, load_fashion_mnist
from esper.data.records import DATASET_RECORDS
from esper.data.splits import ArraySplit, TaskData, choose_rows, compute_channel_stats, with_source
from esper.data.synthetic import SyntheticConfig, build_synthetic
from esper.data.text import TextConfig, Texts, build_windows, read_austen, read_own, read_tinystories
from esper.leyline import ConfigError

DATASET_NAMES: tuple[str, ...] = tuple(record.name for record in DATASET_RECORDS)
"""Every name that `load_dataset` knows."""

FASHION_MNIST_TRAIN_ROWS = 10_000
"""Training rows of fashion_mnist by default: growth studies train dozens of hosts on it."""

TEXT_NAMES = ("austen", "tinystories", "text")
"""Sets whose items are windows of tokens."""

_MIB = 1 << 20
_Parts = tuple[ArraySplit, ArraySplit, ArraySplit]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What of a set is loaded."""

    num_train_rows: int | None = None
    """Rows of the training part, >= 1, a fixed pseudo-random choice. None: the set's own default, which is
    10,000 for fashion_mnist and every row for the others; 55,000 gives all of fashion_mnist."""
    is_base_only: bool = False
    """emoji9 only: leave out the skin-tone variants. False: the published split, so that results compare."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """synthetic only: the teacher and the counts."""
    text: TextConfig = field(default_factory=TextConfig)
    """Texts only: what a token is and how many make an item."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If `num_train_rows` < 1.
        """
        if self.num_train_rows is not None and self.num_train_rows < 1:
            raise ConfigError(f"num_train_rows={self.num_train_rows}: must be >= 1, or None for the default")


def load_dataset(name: str, data_dir: Path | None = None, options: LoadOptions | None = None) -> TaskData:
    """Return a data set in three parts with its normalisation constants and credits.

    Args:
        name: One of `DATASET_NAMES`.
        data_dir: Folder with one sub-folder per set; None searches the usual places.
        options: What to load; None means `LoadOptions()`.

    Raises:
        UnknownNameError: If there is no such set.
        ConfigError: If an option does not fit the set.
        DataError: If the set is missing or damaged.

    Example:
        >>> digits = load_dataset("digits")
        >>> len(digits.train.inputs), len(digits.validation.inputs), len(digits.test.inputs)
        (1077, 360, 360)
    """
    record = dataset_record(name)
    chosen = LoadOptions() if options is None else options
    if chosen.is_base_only and name != "emoji9":
        raise ConfigError(f"is_base_only: {name} has no skin-tone variants; only emoji9 takes it")
    if chosen.synthetic != SyntheticConfig() and name != "synthetic":
        raise ConfigError(f"synthetic: {name} is read, not generated; only the set synthetic takes it")
    _check_text(name, chosen.text)
    root = _find_root(name, data_dir, chosen)
    (train, validation, test), class_names = (
        build_windows(name, _read_texts(name, Path(root), chosen.text), chosen.text)
        if name in TEXT_NAMES
        else _read_parts(name, Path(root), chosen)
    )
    train = _choose_train(name, train, chosen.num_train_rows)
    train, validation, test = (
        with_source(part, f"{part.source}@{root}") for part in (train, validation, test)
    )
    mean, std = compute_channel_stats(train)
    return TaskData(
        name=name,
        train=train,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        class_names=class_names,
        licence=record.licence,
        credit=record.credit,
        citation=record.citation,
    )


def _check_text(name: str, text: TextConfig) -> None:
    if name not in TEXT_NAMES and text != TextConfig():
        raise ConfigError(f"text: {name} is no text; the sets {', '.join(TEXT_NAMES)} take it")
    if name == "text" and text.file is None:
        raise ConfigError(
            "text.file: name the text to learn, e.g. --task.text.file book.txt (.txt, .jsonl, .parquet, or a "
            "folder of them)"
        )
    if name != "text" and text.file is not None:
        raise ConfigError(f"text.file={text.file!r}: {name} reads files of its own; choose the task text")


def _find_root(name: str, data_dir: Path | None, options: LoadOptions) -> str:
    if name == "synthetic":
        return ""
    if options.text.file is not None:
        return str(Path(options.text.file).expanduser().absolute())
    return str(locate(name, data_dir).absolute())


def _read_texts(name: str, root: Path, config: TextConfig) -> Texts:
    max_bytes = int(config.max_mb * _MIB)
    if name == "austen":
        return read_austen(root)
    return read_tinystories(root, max_bytes) if name == "tinystories" else read_own(root, max_bytes)


def _read_parts(name: str, folder: Path, options: LoadOptions) -> tuple[_Parts, tuple[str, ...]]:
    match name:
        case "digits":
            return load_digits(folder), tuple(str(digit) for digit in range(10))
        case "fashion_mnist":
            return load_fashion_mnist(folder), FASHION_MNIST_CLASSES
        case "emoji9":
            return load_emoji9(folder, is_base_only=options.is_base_only), EMOJI9_CLASSES
        case "cifar10" | "cifar10_deep":
            return load_cifar10(folder), CIFAR10_CLASSES
        case _:
            config = options.synthetic
            return build_synthetic(config), tuple(f"class {label}" for label in range(config.num_classes))


def _choose_train(name: str, train: ArraySplit, num_rows: int | None) -> ArraySplit:
    """Return the training part with the rows asked for, or with the default number of rows."""
    if num_rows is None:
        if name != "fashion_mnist" or train.num_items <= FASHION_MNIST_TRAIN_ROWS:
            return train
        num_rows = FASHION_MNIST_TRAIN_ROWS
    # cifar10_deep is the same data: both names must choose the same rows.
    stream = "cifar10" if name == "cifar10_deep" else name
    return train.rows(choose_rows(stream, train.num_items, num_rows), f"{train.source}/{num_rows}-rows")
