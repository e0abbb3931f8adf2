"""The records of the data sets: files, lengths, checksums, licences, credits, how to get them. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from esper.data.digits import DIGITS_FOLDER


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of a set."""

    name: str
    """With a `*` it is a pattern, and the first file that it fits, by name, stands for all of them."""
    other_names: tuple[str, ...] = ()
    """Names under which the same content is accepted, such as the unpacked form."""
    num_bytes: int | None = None
    """Length of the decompressed content; None where not known."""
    sha256: str = ""
    """Of the decompressed content; empty where not known."""
    md5: str = ""
    """Where only an MD5 is published: against accidents, not against malice."""
    is_required: bool = True
    """False for a licence text: its absence is a finding, but the set can be read."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetLayout:
    """One form in which a set comes: folder names and the files in them."""

    folders: tuple[str, ...]
    """Sub-folders of a data folder, in the order in which they are tried."""
    files: tuple[FileRecord, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """Everything that is known about a set without reading it."""

    name: str
    layouts: tuple[DatasetLayout, ...]
    """Forms in the order of preference; none for a generated set."""
    licence: str
    credit: str
    """The line to show wherever items of the set are shown."""
    citation: str
    how_to_get: str
    """One sentence for the error message."""
    system_folders: tuple[Path, ...] = ()
    """Absolute folders where a system package puts the files."""
    embedded_folder: Path | None = None
    """Folder inside the package, for the set that comes with it."""
    is_given: bool = False
    """Whether the user names the file, so that there is nothing to look for."""


def _idx(stem: str, num_bytes: int, sha256: str) -> FileRecord:
    return FileRecord(name=f"{stem}.gz", other_names=(stem,), num_bytes=num_bytes, sha256=sha256)


AUSTEN_NAME = "austen.txt"

TINYSTORIES_FILES = (
    ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"),
    ("TinyStories-train.txt", "TinyStories-valid.txt"),
    ("train*.jsonl", "valid*.jsonl"),
    ("train*.parquet", "valid*.parquet"),
)
"""Patterns of the files of training and validation stories, in the order of preference."""

_CIFAR10_BATCHES = (
    ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
    ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
    ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
    ("data_batch_4", "634d18415352ddfa80567beed471001a"),
    ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ("test_batch", "40351d587109b95175f43aff81a1287e"),
)

_CIFAR10_LAYOUTS = (
    DatasetLayout(
        folders=("cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"),
        files=tuple(FileRecord(name=f"{stem}.bin", num_bytes=30_730_000) for stem, _ in _CIFAR10_BATCHES),
    ),
    DatasetLayout(
        folders=("cifar-10-batches-py", "cifar10", "cifar10/cifar-10-batches-py"),
        files=tuple(FileRecord(name=stem, md5=md5) for stem, md5 in _CIFAR10_BATCHES),
    ),
)


def _cifar10(name: str) -> DatasetRecord:
    return DatasetRecord(
        name=name,
        layouts=_CIFAR10_LAYOUTS,
        licence="no licence is stated by its makers; research use with citation is customary",
        credit="Images: CIFAR-10 (A. Krizhevsky, V. Nair, G. Hinton).",
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        how_to_get="get the binary version (cifar-10-binary.tar.gz) from "
        "https://www.cs.toronto.edu/~kriz/cifar.html "
        "and unpack it in a folder named by --data-dir or ESPER_DATA, so that it holds cifar-10-batches-bin/",
    )


DATASET_RECORDS: tuple[DatasetRecord, ...] = (
    DatasetRecord(
        name="digits",
        layouts=(
            DatasetLayout(
                folders=(),
                files=(
                    FileRecord(
                        name="digits.csv.gz",
                        num_bytes=264_712,
                        sha256="6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
                    ),
                    FileRecord(name="digits.LICENSE.txt", is_required=False),
                ),
            ),
        ),
        licence="BSD-3-Clause",
        credit="Digits: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, as shipped by "
        "scikit-learn.",
        citation="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
        "Repository, "
        "1998",
        how_to_get="it is part of this package; reinstall the package",
        embedded_folder=DIGITS_FOLDER,
    ),
    DatasetRecord(
        name="fashion_mnist",
        layouts=(
            DatasetLayout(
                folders=("fashion-mnist", "fashion_mnist"),
                files=(
                    _idx(
                        "train-images-idx3-ubyte",
                        47_040_016,
                        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    ),
                    _idx(
                        "train-labels-idx1-ubyte",
                        60_008,
                        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                    ),
                    _idx(
                        "t10k-images-idx3-ubyte",
                        7_840_016,
                        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                    ),
                    _idx(
                        "t10k-labels-idx1-ubyte",
                        10_008,
                        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                    ),
                ),
            ),
        ),
        licence="MIT",
        credit="Images: Fashion-MNIST, copyright 2017 Zalando SE.",
        citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking "
        "Machine "
        "Learning Algorithms, arXiv 1708.07747, 2017",
        how_to_get="on Debian or Ubuntu run `sudo apt-get install dataset-fashion-mnist`; or put the four "
        "IDX files of "
        "https://github.com/zalandoresearch/fashion-mnist in fashion-mnist/ below a folder named by "
        "--data-dir or "
        "ESPER_DATA",
        system_folders=(Path("/usr/share/datasets/fashion-mnist"),),
    ),
    DatasetRecord(
        name="emoji9",
        layouts=(
            DatasetLayout(
                folders=("emoji9",),
                files=(
                    FileRecord(
                        name="emoji9.npz",
                        num_bytes=7_320_807,
                        sha256="ee2760583f758797da166c951c089b48e1f428ae90e63735909a28686e62fc84",
                    ),
                    FileRecord(
                        name="emoji9_rows.npz",
                        num_bytes=5_544,
                        sha256="13ffec72469b32011fd765209747363f0748fd947b2e1b229f8366b8615c0a01",
                    ),
                    FileRecord(
                        name="LICENSE-APACHE-2.0.txt",
                        num_bytes=11_358,
                        sha256="cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
                        is_required=False,
                    ),
                ),
            ),
        ),
        licence="Apache-2.0 (Noto Emoji) and CC BY 4.0 (Twemoji)",
        credit="Emoji images: Noto Emoji (Google, Apache-2.0) and Twemoji ((c) Twitter, Inc. and other "
        "contributors, "
        "CC BY 4.0), resized.",
        citation="Noto Emoji, https://github.com/googlefonts/noto-emoji; Twemoji, "
        "https://github.com/jdecked/twemoji",
        how_to_get="put emoji9.npz and emoji9_rows.npz in emoji9/ below a folder named by --data-dir or "
        "ESPER_DATA",
    ),
    _cifar10("cifar10"),
    _cifar10("cifar10_deep"),
    DatasetRecord(
        name="austen",
        layouts=(
            DatasetLayout(
                folders=("austen",),
                files=(
                    FileRecord(
                        name=AUSTEN_NAME,
                        num_bytes=4_025_034,
                        sha256="ff4250a469524dbfeda7e414bfa9af1bdafc8464cedd6ea7c44b165c931200b1",
                    ),
                ),
            ),
        ),
        licence="public domain (texts), MIT (the R package janeaustenr they were taken from)",
        credit="Text: the six novels of Jane Austen, from the R package janeaustenr by Julia Silge.",
        citation="J. Silge, janeaustenr 1.0.0, https://github.com/juliasilge/janeaustenr",
        how_to_get="join the six novels of the R package janeaustenr (Debian: r-cran-janeaustenr), in the "
        "order of their titles, with an empty line between them, and put them as austen/austen.txt below a "
        "folder named by --data-dir or ESPER_DATA",
    ),
    DatasetRecord(
        name="tinystories",
        layouts=tuple(
            DatasetLayout(
                folders=("tinystories", "TinyStories", "tinystories/data", "TinyStories/data"),
                files=(FileRecord(name=train), FileRecord(name=valid)),
            )
            for train, valid in TINYSTORIES_FILES
        ),
        licence="CDLA-Sharing-1.0",
        credit="Stories: TinyStories by R. Eldan and Y. Li, written by GPT-3.5 and GPT-4.",
        citation="R. Eldan, Y. Li, TinyStories: How Small Can Language Models Be and Still Speak Coherent "
        "English?, arXiv 2305.07759, 2023",
        how_to_get="put TinyStoriesV2-GPT4-train.txt and TinyStoriesV2-GPT4-valid.txt, or the .parquet "
        "files, of https://huggingface.co/datasets/roneneldan/TinyStories in tinystories/ below a folder "
        "named by --data-dir or ESPER_DATA",
    ),
    DatasetRecord(
        name="text",
        layouts=(),
        licence="that of your file",
        credit="Text: your own file.",
        citation="",
        how_to_get="name your file, for example --task.text.file book.txt",
        is_given=True,
    ),
    DatasetRecord(
        name="synthetic",
        layouts=(),
        licence="none needed",
        credit="Synthetic teacher-student data.",
        citation="",
        how_to_get="it is generated",
    ),
)
"""Every set, in the order in which they are shown."""
