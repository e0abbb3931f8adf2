from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from data.formats import write_cifar, write_emoji, write_fashion
from esper.data.catalog import cache_folder, check, dataset_record, list_datasets, locate
from esper.data.records import DATASET_RECORDS
from esper.leyline import DataError, UnknownNameError


@pytest.fixture(autouse=True)
def _no_other_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ESPER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_places_are_searched_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cached = write_emoji(tmp_path / "cache" / "esper" / "data" / "emoji9")
    assert locate("emoji9") == cached
    named = write_emoji(tmp_path / "named" / "emoji9")
    monkeypatch.setenv("ESPER_DATA", str(tmp_path / "named"))
    assert locate("emoji9") == named
    given = write_emoji(tmp_path / "given" / "emoji9")
    assert locate("emoji9", tmp_path / "given") == given


def test_incomplete_folder_is_passed_over(tmp_path: Path) -> None:
    cached = write_emoji(tmp_path / "cache" / "esper" / "data" / "emoji9")
    (write_emoji(tmp_path / "given" / "emoji9") / "emoji9_rows.npz").unlink()
    assert locate("emoji9", tmp_path / "given") == cached


def test_missing_set_says_where_it_looked_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESPER_DATA", str(tmp_path / "named"))
    (tmp_path / "given" / "emoji9").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        locate("emoji9", tmp_path / "given")
    text = str(caught.value)
    assert f"{tmp_path}/given/emoji9: lacks emoji9.npz, emoji9_rows.npz" in text
    assert f"{tmp_path}/named/emoji9: no such folder" in text
    assert f"{tmp_path}/cache/esper/data/emoji9: no such folder" in text
    assert "To get it: put emoji9.npz" in text


def test_system_folder_of_fashion_mnist_is_in_the_search() -> None:
    assert dataset_record("fashion_mnist").system_folders == (Path("/usr/share/datasets/fashion-mnist"),)
    assert "apt-get install dataset-fashion-mnist" in dataset_record("fashion_mnist").how_to_get


def test_plain_files_are_accepted_for_packed_ones(tmp_path: Path) -> None:
    folder = write_fashion(tmp_path / "fashion-mnist", is_packed=False)
    assert locate("fashion_mnist", tmp_path) == folder


@pytest.mark.parametrize(
    ("folder", "is_binary"), [("cifar-10-batches-bin", True), ("cifar-10-batches-py", False)]
)
@pytest.mark.parametrize("name", ["cifar10", "cifar10_deep"])
def test_both_layouts_of_cifar10_are_found(tmp_path: Path, name: str, folder: str, is_binary: bool) -> None:
    assert locate(name, _write(tmp_path, folder, is_binary)) == tmp_path / folder


def _write(root: Path, folder: str, is_binary: bool) -> Path:
    write_cifar(root / folder, num_records=1, is_binary=is_binary)
    return root


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fashion_mnist'"):
        locate("fashion-mnist")


def test_data_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for call in (lambda: locate("emoji9", tmp_path / "none"), lambda: list_datasets(tmp_path / "none")):
        with pytest.raises(DataError, match="does not exist"):
            call()


def test_generated_set_has_no_files() -> None:
    with pytest.raises(DataError, match="is generated"):
        locate("synthetic")
    assert check("synthetic") == ()


def test_listing_tells_the_state_of_each_set(tmp_path: Path) -> None:
    write_emoji(tmp_path / "emoji9")
    states = {status.name: (status.state, status.path) for status in list_datasets(tmp_path)}
    assert list(states) == sorted(record.name for record in DATASET_RECORDS)
    assert states["digits"][0] == "embedded"
    assert states["synthetic"] == ("generated", None)
    assert states["emoji9"] == ("found", tmp_path / "emoji9")
    assert states["cifar10"] == ("missing", None)


def test_embedded_file_passes_its_check() -> None:
    findings = check("digits")
    assert [finding.message for finding in findings] == ["checksum matches", "readable; no checksum is known"]
    assert all(finding.is_ok for finding in findings)


def test_check_finds_lengths_checksums_and_missing_files(tmp_path: Path) -> None:
    folder = write_emoji(tmp_path / "emoji9")
    (folder / "emoji9_rows.npz").write_bytes(bytes(5_544))
    messages = [finding.message for finding in check("emoji9", tmp_path)]
    assert messages[0].endswith("bytes; expected 7320807")
    assert messages[1].startswith("sha256 is")
    assert messages[2] == "missing"
    assert not any(finding.is_ok for finding in check("emoji9", tmp_path))


def test_check_finds_a_truncated_gzip_file(tmp_path: Path) -> None:
    path = write_fashion(tmp_path / "fashion-mnist") / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(10_008), mtime=0)[:-4])
    assert "unreadable" in check("fashion_mnist", tmp_path)[3].message


def test_check_of_the_python_layout_compares_md5(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", num_records=1, is_binary=False)
    assert all(finding.message.startswith("md5 is") for finding in check("cifar10", tmp_path))


def test_relative_cache_variable_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "esper" / "data"


def test_unknown_home_folder_skips_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None
    with pytest.raises(DataError, match="was not found"):
        locate("emoji9")


def test_folder_that_cannot_be_read_counts_as_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_self: Path) -> bool:
        raise PermissionError("refused")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DataError, match="lacks"):
        locate("emoji9", _write(tmp_path, "emoji9", True))
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(DataError, match="does not exist"):
        locate("emoji9", tmp_path)


def test_a_pattern_stands_for_the_first_file_that_fits(tmp_path: Path) -> None:
    folder = tmp_path / "TinyStories"
    folder.mkdir()
    for name in ("train-1.parquet", "train-0.parquet"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"lacks valid\*\.parquet"):
        locate("tinystories", tmp_path)
    (folder / "validation-0.parquet").write_bytes(b"x")
    assert locate("tinystories", tmp_path) == folder
    assert [finding.file for finding in check("tinystories", tmp_path)] == [
        str(folder / "train-0.parquet"), str(folder / "validation-0.parquet"),
    ]  # fmt: skip


def test_a_text_of_ones_own_is_given_and_not_looked_for() -> None:
    states = {status.name: status.state for status in list_datasets()}
    assert states["text"] == "given"
    assert check("text") == ()
    with pytest.raises(DataError, match=r"--task\.text\.file"):
        locate("text")
