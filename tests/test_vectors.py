"""Vectors on disk: whole or not there, of one encoder, and names that come back byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polymnia.data.names import escape, unescape
from polymnia.index.schema import WHOLE, EncoderCard, key, schema
from polymnia.index.vectors import parts, read_stamps, read_vectors, write_about, write_part
from polymnia.types import UserError

CARD = EncoderCard("c0ffee", 3, "runs/a", 2, "AT", ("audio", "text"), "real-mini")


def rows(names: list[str], encoder: str = "c0ffee", dim: int = 3) -> pa.Table:
    """A row a name, its vector counting up."""
    plain = {"modality": "audio", "window": WHOLE, "encoder": encoder, "made": "embedded"}
    made = [{"key": key(n, "audio"), "id": n, **plain, "vector": [float(i)] * dim} for i, n in enumerate(names)]
    return pa.Table.from_pylist(made, schema(dim))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parts, with a gap between their numbers."""
    write_about(tmp_path, CARD, complete=True, counts={"items": 3})
    write_part(tmp_path / "part-00000.parquet", rows(["a", "b%0A"]), {"a#audio": "x"}, CARD)
    write_part(tmp_path / "part-00007.parquet", rows(["c"]), {"c#audio": "z"}, CARD)
    return tmp_path


def test_what_was_written_is_read_in_the_order_of_the_parts(folder: Path):
    found = read_vectors(folder)
    assert found.card == CARD and found.complete and found.rows == 3 and found.about["counts"] == {"items": 3}
    table = pa.Table.from_batches(list(found))
    assert table.schema.equals(schema(3), check_metadata=True)
    assert table["id"].to_pylist() == ["a", "b%0A", "c"] and table["key"].to_pylist()[2] == "c#audio"
    assert table["vector"].to_pylist() == [[0.0] * 3, [1.0] * 3, [0.0] * 3]
    assert list(parts(folder)) == [0, 7] and read_stamps(folder / "part-00007.parquet") == {"c#audio": "z"}


def test_a_part_is_read_by_anything_that_reads_parquet(folder: Path):
    table = pq.read_table(folder / "part-00000.parquet")
    assert np.stack(table["vector"].to_numpy()).tolist() == [[0.0] * 3, [1.0] * 3]


def test_a_folder_without_vectors_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no vectors: it has no vectors.json"):
        read_vectors(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "vectors.json is damaged"),
        ("[1]", "vectors.json is damaged"),
        ('{"format": 99}', "format 99, this version reads 1: install a newer"),
        ('{"format": 1}', "not the card of an encoder"),
        ('{"format": 1, "card": {"dim": 3}}', "not the card of an encoder"),
    ],
)
def test_a_table_of_contents_that_cannot_be_read_is_named(folder: Path, text: str, message: str):
    (folder / "vectors.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_vectors(folder)


def test_parts_of_another_encoder_or_size_or_maker_are_refused(folder: Path):
    place = folder / "part-00007.parquet"
    write_part(place, rows(["c"], "beef"), {}, replace(CARD, signature="beef"))
    with pytest.raises(UserError, match="part-00007.parquet is of another encoder"):
        list(read_vectors(folder))
    write_part(place, rows(["c"], dim=4), {}, replace(CARD, dim=4))
    with pytest.raises(UserError, match="columns are not those of vectors of 3 numbers"):
        list(read_vectors(folder))
    for told in (None, {"polymnia": "[]"}, {"polymnia": "{}"}, {"polymnia": "no JSON"}):
        pq.write_table(rows(["c"]).replace_schema_metadata(told), place)
        with pytest.raises(UserError, match="was not written by `polymnia embed`"):
            list(read_vectors(folder))
    for told, message in (('{"format": 9}', "of format 9, this version reads 1"), ('{"format": 1}', "has no stamps")):
        pq.write_table(rows(["c"]).replace_schema_metadata({"polymnia": told}), place)
        with pytest.raises(UserError, match=message):
            read_stamps(place)


def test_a_part_that_was_cut_off_is_named(folder: Path):
    place = folder / "part-00000.parquet"
    whole = place.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):
        place.write_bytes(whole[:size])
        with pytest.raises(UserError, match="part-00000.parquet is damaged"):
            list(read_vectors(folder))


def test_a_write_that_fails_leaves_the_old_part_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(_: pa.Table, where: Path, **__: object) -> None:
        where.write_bytes(b"PAR1 and half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        write_part(folder / "part-00000.parquet", rows(["z"]), {}, CARD)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_keys_of_different_rows_differ_even_where_ids_look_like_keys():
    found = [key(i, m, w) for i in ("a", "a#audio", "a#audio#1") for m in ("audio", "text") for w in (WHOLE, 0, 1)]
    assert len(set(found)) == len(found)


def test_a_card_comes_back_from_its_json():
    assert EncoderCard.from_json(CARD.to_json(), "here") == CARD
    assert json.loads(CARD.to_json())["modalities"] == ["audio", "text"]


def test_without_pyarrow_the_extra_is_named():
    code = "import sys; sys.modules['pyarrow'] = None; import polymnia.index.vectors"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: vectors on disk need pyarrow" in done.stderr and "pip install 'polymnia[index]'" in done.stderr


# --- names


@given(st.binary())
@example(b"caf\xe9.wav")
@example(b"100%25\n\x7f\xc2\x85\xe2\x80\xa8")
@example("café €.wav".encode())
@example(b"\xed\xa0\x80 a surrogate in UTF-8, which UTF-8 forbids")
def test_any_name_becomes_a_line_of_utf8_and_comes_back(raw: bytes):
    text = escape(raw)
    assert unescape(text) == raw
    text.encode("utf-8")
    assert len(text.splitlines()) <= 1 and all(c.isprintable() or ord(c) > 0x9F for c in text)
    assert pa.array([text]).to_pylist() == [text]


@given(st.binary(), st.binary())
def test_two_names_never_have_one_text(one: bytes, other: bytes):
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"birds/robin 1.wav", "birds/robin 1.wav"),
        ("дождь/雨.wav".encode(), "дождь/雨.wav"),
        (b"50%.wav", "50%25.wav"),
        (b"two\nlines.wav", "two%0Alines.wav"),
        (b"latin-\xe9.wav", "latin-%E9.wav"),
    ],
)
def test_only_what_is_strange_in_a_name_is_written_otherwise(raw: bytes, text: str):
    assert escape(raw) == text


def test_a_name_from_the_file_system_comes_back(tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/\xff\n.wav"
    open(path, "wb").close()
    (name,) = (escape(os.fsencode(n)) for n in os.listdir(tmp_path))
    assert name == "%FF%0A.wav" and os.path.exists(os.fsencode(tmp_path) + b"/" + unescape(name))
