from __future__ import annotations

from esper.data.records import DATASET_RECORDS


def test_every_record_states_licence_credit_and_source() -> None:
    for record in DATASET_RECORDS:
        assert record.licence
        assert record.credit
        assert record.how_to_get


def test_names_and_checksums_are_well_formed() -> None:
    assert len({record.name for record in DATASET_RECORDS}) == len(DATASET_RECORDS)
    files = [file for record in DATASET_RECORDS for layout in record.layouts for file in layout.files]
    for file in files:
        assert len(file.sha256) in (0, 64)
        assert len(file.md5) in (0, 32)
        assert file.num_bytes is None or file.num_bytes > 0


def test_every_required_file_can_be_verified() -> None:
    for record in DATASET_RECORDS:
        if record.name == "tinystories":
            continue  # published in several forms, none of them with a checksum
        for layout in record.layouts:
            for file in layout.files:
                assert file.num_bytes or file.sha256 or file.md5 or not file.is_required


def test_credit_that_a_licence_demands_names_the_artists() -> None:
    credits = {record.name: record.credit for record in DATASET_RECORDS}
    assert "Twitter, Inc." in credits["emoji9"]
    assert "CC BY 4.0" in credits["emoji9"]
