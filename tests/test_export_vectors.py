"""Vectors as files of others: every row, its number and its name, from a folder and from an index."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import command
from index_rows import DIM, card, rows, sounds, unit, write_vectors

from polymnia.export import sinks
from polymnia.export.vectors import Wanted, export_vectors
from polymnia.index.schema import schema
from polymnia.index.store import Index
from polymnia.types import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty sounds in two parts, and the words and two windows of one of them."""
    odd = rows(
        ['a "b",\n\\ c', "s00001", "s00001"],
        unit(3, 7),
        modality=["text", "audio", "audio"],
        window=[-1, 0, 1],
        caption=["rain", None, None],
        source="a.wav",
        root="/home/somebody",
        start=[None, 0.0, 1.5],
    )
    return write_vectors(tmp_path / "vectors", [sounds(0, 25), sounds(25, 40), odd], card())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_vectors() -> np.ndarray:
    return np.concatenate([*(unit(1, n) for n in range(40)), unit(3, 7)])


def test_an_npy_holds_all_rows_in_order_and_says_which_is_which(folder: Path, tmp_path: Path) -> None:
    said = export_vectors(folder, tmp_path / "out.npy")
    assert "43 vectors of 16 numbers, of the encoder first" in said[0]
    found = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert found.dtype == np.float32 and np.array_equal(found, all_vectors())
    names = lines(tmp_path / "out.ids.jsonl")
    assert [n["id"] for n in names] == [f"s{n:05d}" for n in range(40)] + ['a "b",\n\\ c', "s00001", "s00001"]
    assert names[40]["caption"] == "rain" and names[42] == {
        "key": "s00001#audio#1",
        "id": "s00001",
        "modality": "audio",
        "window": 1,
        "start": 1.5,
        "source": "a.wav",
        "made": "embedded",
    }
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["rows"], told["card"]["signature"], told["card"]["dim"]) == (43, "first", 16)
    assert {p.name for p in tmp_path.iterdir()} == {"vectors", "out.npy", "out.ids.jsonl", "out.json"}


def test_one_parquet_has_every_column_and_the_card(folder: Path, tmp_path: Path) -> None:
    export_vectors(folder, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == schema(DIM).names and table.num_rows == 43
    assert np.array_equal(np.stack(table["vector"].to_numpy()), all_vectors())
    assert table["root"].to_pylist()[42] == "/home/somebody"
    assert json.loads(table.schema.metadata[b"polymnia"])["card"]["signature"] == "first"


def test_faiss_finds_by_inner_product_and_its_ids_are_line_numbers(folder: Path, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    export_vectors(folder, tmp_path / "out.faiss", Wanted(whole=True))
    index = faiss.read_index(str(tmp_path / "out.faiss"))
    names = lines(tmp_path / "out.ids.jsonl")
    assert index.ntotal == len(names) == 41 and index.metric_type == faiss.METRIC_INNER_PRODUCT
    wanted = all_vectors()[:41] @ unit(1, 12)[0]
    scores, found = index.search(unit(1, 12), 5)
    assert found[0].tolist() == np.argsort(-wanted)[:5].tolist() and names[found[0, 0]]["id"] == "s00012"
    assert np.abs(scores[0] - np.sort(wanted)[::-1][:5]).max() < 1e-5
    index.remove_ids(np.array([3]))
    assert names[index.search(unit(1, 12), 1)[1][0, 0]]["id"] == "s00012"


def test_rows_of_a_modality_or_without_windows_or_that_pass_a_filter(folder: Path, tmp_path: Path) -> None:
    export_vectors(folder, tmp_path / "a.npy", Wanted(modality="text"))
    assert [n["id"] for n in lines(tmp_path / "a.ids.jsonl")] == ['a "b",\n\\ c']
    with pytest.raises(UserError, match="filters are for an index"):
        export_vectors(folder, tmp_path / "b.npy", Wanted(where="duration < 3"))
    with pytest.raises(UserError, match="has no such rows"):
        export_vectors(folder, tmp_path / "b.npy", Wanted(modality="image"))
    assert not list(tmp_path.glob("b.*")) and not list(tmp_path.glob(".*"))


def test_an_index_is_written_for_one_encoder_at_a_time(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", card())
    index.add([sounds(0, 30, duration=2.0)], card())
    index.add_encoder(card("second"))
    export_vectors(tmp_path / "index", tmp_path / "alone.npy")
    index.add([sounds(30, 50, "second", duration=9.0)], card("second"))
    with pytest.raises(UserError, match=r"first \(.*\), second \(.*\), which are not comparable: say which"):
        export_vectors(tmp_path / "index", tmp_path / "out.npy")
    for number, (wanted, ids) in enumerate(
        [(Wanted("sec"), range(30, 50)), (Wanted("first", where="duration < 3 AND id < 's00005'"), range(5))]
    ):
        export_vectors(tmp_path / "index", tmp_path / f"{number}.npy", wanted)
        names = [n["id"] for n in lines(tmp_path / f"{number}.ids.jsonl")]
        assert sorted(names) == [f"s{n:05d}" for n in ids]
        vectors = np.concatenate([unit(1, int(name[1:])) for name in names])
        assert np.array_equal(np.load(tmp_path / f"{number}.npy"), vectors)
    with pytest.raises(UserError, match="has no rows of the encoder third"):
        export_vectors(tmp_path / "index", tmp_path / "out.npy", Wanted("third"))


def test_batches_of_any_size_make_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "BATCH", 7)
    write_vectors(tmp_path / "v", [sounds(n, n + 1) for n in range(20)], card())
    for suffix in ("npy", "parquet"):
        export_vectors(tmp_path / "v", tmp_path / f"out.{suffix}")
    assert np.array_equal(np.load(tmp_path / "out.npy"), all_vectors()[:20])


@pytest.mark.parametrize("suffix", ["npy", "parquet", "faiss"])
def test_a_number_or_a_name_that_changed_on_the_disk_is_found_and_nothing_is_kept(
    suffix: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = sinks.SINKS[f".{suffix}"]
    put = kind.put

    def faulty(self: Any, batch: Any) -> None:
        put(self, batch if self.rows else sounds(1, 1 + batch.num_rows))

    monkeypatch.setattr(kind, "put", faulty)
    with pytest.raises(UserError, match=rf"out\.{suffix} does not hold what was written into it"):
        export_vectors(folder, tmp_path / f"out.{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == ["vectors"]


def test_a_name_alone_that_changed_is_found_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = sinks.Npy.finish

    def faulty(self: Any) -> None:
        finish(self)
        path = self.path.with_suffix(".ids.jsonl")
        path.write_text(path.read_text().replace("s00007", "s00070"))

    monkeypatch.setattr(sinks.Npy, "finish", faulty)
    with pytest.raises(UserError, match="does not hold what was written"):
        export_vectors(folder, tmp_path / "out.npy")


def test_a_header_that_was_not_written_is_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks.Npy, "end", lambda self: None)
    with pytest.raises(UserError, match=r"out\.npy says that it holds \(0, 16\) of float32"):
        export_vectors(folder, tmp_path / "out.npy")


def test_what_is_there_is_not_touched_and_what_is_no_source_or_format_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.ids.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"out\.ids\.jsonl is there already"):
        export_vectors(folder, tmp_path / "out.npy")
    assert (tmp_path / "out.ids.jsonl").read_text() == "mine"
    with pytest.raises(UserError, match=r"ends in none of \.npy, \.parquet, \.faiss"):
        export_vectors(folder, tmp_path / "out.csv")
    with pytest.raises(UserError, match="is not there: give a folder"):
        export_vectors(tmp_path / "none", tmp_path / "a.npy")
    with pytest.raises(UserError, match="is no index"):
        export_vectors(tmp_path, tmp_path / "a.npy")


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, vectors: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks.Npy, "write", full)
    with pytest.raises(UserError, match=r"out\.npy cannot be written \(No space left on device\)"):
        export_vectors(folder, tmp_path / "out.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["vectors"]


def test_the_command_says_what_is_not_complete_and_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_vectors(tmp_path / "v", [sounds(0, 3)], card(), complete=False)
    said = command("export", "vectors", tmp_path / "v", tmp_path / "out.npy", "--whole")
    assert said.code == 0 and "3 vectors" in said.out and "is not complete" in said.out
    monkeypatch.setitem(sys.modules, "faiss", None)
    said = command("export", "vectors", tmp_path / "v", tmp_path / "out2.faiss")
    assert "pip install faiss-cpu" in said.error
