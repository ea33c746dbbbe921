"""What an index keeps: rows by their keys, cards in the same commit as rows, versions; what it refuses."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from index_rows import DIM, card, rows, sounds, unit

from polymnia.index import rows as intake
from polymnia.index.about import Settings
from polymnia.index.database import FullError
from polymnia.index.schema import FORMAT, schema
from polymnia.index.store import Added, Index
from polymnia.index.versions import SLACK
from polymnia.types import UserError


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "index", card())


def content(index: Index) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for batch in index.rows(pa.schema(index.table.schema).names) for row in batch.to_pylist()}


# --- adding


def test_rows_come_back_as_they_were_given(index: Index):
    batch = rows(["a", "b\n'é"], unit(2), topic=["x", None], duration=[1.5, None], bytes=7, entry=3, doubt=0.25)
    assert index.add([batch], card()) == Added(new=2)
    assert content(index) == {row["key"]: row for row in batch.to_pylist()}
    assert Index.open(index.uri).cards == {"first": card()} and Index.open(index.uri).dim == DIM


def test_what_is_there_as_it_is_stays_and_what_has_changed_is_replaced(index: Index):
    index.add([sounds(0, 10)], card())
    version = index.version
    assert index.add([sounds(0, 10)], card()) == Added(same=10) and index.version == version
    moved = sounds(5, 12, topic="rain")
    assert index.add([moved], card()) == Added(new=2, replaced=5)
    assert index.add([sounds(0, 5), moved], card()) == Added(same=12)
    assert index.count() == 12 and index.count("topic = 'rain'") == 7
    other = rows(["s00003"], unit(1, 77))
    assert index.add([other], card()) == Added(replaced=1)
    assert content(index)["s00003#audio"]["vector"] == pytest.approx(unit(1, 77)[0].tolist())


def test_of_rows_with_one_key_the_last_counts(index: Index):
    twice = pa.Table.from_batches([rows(["a"], unit(1, 1)), rows(["a"], unit(1, 2))]).combine_chunks().to_batches()
    assert index.add(twice, card()) == Added(new=1)
    assert content(index)["a#audio"]["vector"] == pytest.approx(unit(1, 2)[0].tolist())


def test_commits_are_bounded_and_those_before_an_error_stay(index: Index, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intake, "MOST", 4)
    told: list[Added] = []
    index.add([sounds(0, 3), sounds(3, 10)], card(), told.append)
    assert [t.new for t in told] == [4, 8, 10] and [v.rows for v in index.versions()] == [0, 4, 8, 10]

    def broken() -> Any:
        yield sounds(10, 15)
        raise UserError("the folder is torn here")

    with pytest.raises(UserError, match="torn here"):
        index.add(broken(), card())
    assert Index.open(index.uri).count() == 14
    assert index.add([sounds(0, 15)], card()) == Added(new=1, same=14)


def test_windows_of_an_earlier_state_of_a_file_go_with_it(index: Index, monkeypatch: pytest.MonkeyPatch):
    def clip(windows: int, changed: int, seed: int) -> pa.RecordBatch:
        n = windows + 1
        return rows(["a"] * n, unit(n, seed), window=[-1, *range(windows)], changed=changed, bytes=9)

    index.add([clip(5, 1, 1), rows(["a"], unit(1), modality="image", changed=1), rows(["b"], unit(1, 3))], card())
    assert index.add([clip(2, 2, 2)], card()) == Added(replaced=3, removed=3)
    assert sorted(content(index)) == ["a#audio", "a#audio#0", "a#audio#1", "a#image", "b#audio"]
    # Windows of one state that come in several commits are no earlier state of each other.
    monkeypatch.setattr(intake, "MOST", 2)
    assert index.add([clip(4, 3, 4)], card()) == Added(new=3, replaced=2, removed=1)
    assert index.count("id = 'a'") == 6


def test_two_that_add_the_same_at_once_leave_each_row_once(index: Index, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intake, "MOST", 10)
    done: list[Added] = []

    def add() -> None:
        done.append(Index.open(index.uri).add([sounds(0, 60)], card()))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(d.new for d in done) == 60 and sum(d.same for d in done) == 120
    assert index.refresh().count() == 60 and len(content(index)) == 60


# --- what is refused


def test_a_file_of_another_folder_does_not_take_the_place_of_one_of_the_same_name(tmp_path: Path):
    def of(root: str, size: int, seed: int) -> pa.RecordBatch:
        told = rows(["001.wav"], unit(1, seed)).to_pylist()
        return pa.RecordBatch.from_pylist([r | {"root": root, "bytes": size} for r in told], schema=schema(DIM))

    index = Index.create(tmp_path / "index", card())
    index.add([of("/jan", 10, 1)], card())
    with pytest.raises(UserError, match=r"'001.wav' of /feb has the name of another file, of /jan.*--replace"):
        index.add([of("/feb", 20, 2)], card())
    assert [r["root"] for b in index.rows(["root"]) for r in b.to_pylist()] == ["/jan"]
    assert index.add([of("/moved", 10, 1)], card()).replaced == 1  # the same file, in a folder that was moved
    assert index.add([of("/moved", 30, 3)], card()).replaced == 1  # a file that was changed where it is
    assert index.add([of("/feb", 20, 2)], card(), over=True).replaced == 1


def test_vectors_of_another_encoder_are_refused_with_the_way_out(index: Index):
    index.add([sounds(0, 2)], card())
    other = card("second", run="runs/other", task=3)
    with pytest.raises(UserError, match=r"encoder second \(runs/other, task 3\).* index upgrade .*of their own"):
        index.add([sounds(2, 4, "second")], other)
    with pytest.raises(UserError, match="of the encoder second, the index is of first"):
        index.add([sounds(2, 4, "second")], card())  # a folder whose card does not fit its rows
    with pytest.raises(UserError, match="have 8 numbers, those of the index 16"):
        index.add([rows(["a"], unit(1, 0, 8))], card())
    with pytest.raises(UserError, match="holds vectors of 16 numbers, those of runs/other have 8"):
        index.add_encoder(card("third", 8, run="runs/other"))
    assert content(index) == {row["key"]: row for row in sounds(0, 2).to_pylist()}


def test_an_index_may_hold_several_encoders_when_it_is_told_so(index: Index):
    index.add([sounds(0, 4)], card())
    index.add_encoder(card("second", task=2))
    assert index.add([sounds(2, 6, "second")], card("second", task=2)) == Added(new=2, replaced=2)
    again = Index.open(index.uri)
    assert again.cards == {"first": card(), "second": card("second", task=2)}
    assert again.spaces == {"first": 2, "second": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda b: rows(["a"], unit(1) * 1.1), "a#audio has a vector of length 1.1"),
     (lambda b: rows(["a"], unit(1) * np.float32(np.nan)), "a vector of length nan"),
     (lambda b: rows(["a"], np.zeros((1, DIM), np.float32)), "a vector of length 0"),
     (lambda b: b.drop_columns(["topic"]), "not in the columns of vectors: look at topic"),
     (lambda b: rows(["a"], unit(1), modality="smell", key="a#smell"), "modality 'smell'; there are audio"),
     (lambda b: b.set_column(0, "key", pa.nulls(1, pa.string())), "field 'key' with null values"),
     (lambda b: b.set_column(8, "end", pa.array(["x"])), "not in the columns of vectors")],
)  # fmt: skip
def test_rows_that_are_no_vectors_are_refused(index: Index, change: Any, message: str):
    with pytest.raises(UserError, match=message):
        index.add([change(rows(["a"], unit(1)))], card())
    assert Index.open(index.uri).count() == 0


def test_a_place_where_something_is_is_not_written_over(index: Index, tmp_path: Path):
    with pytest.raises(UserError, match="is an index already: add to it"):
        Index.create(index.uri, card())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match=r"is not empty \(it has thesis.tex\)"):
        Index.create(tmp_path / "full", card())
    with pytest.raises(UserError, match="no folder can be made there"):
        Index.create(tmp_path / "full" / "thesis.tex" / "index", card())
    with pytest.raises(UserError, match="has no name"):
        Index.create(" ", card())


def test_what_is_no_index_is_named(tmp_path: Path):
    import lancedb

    with pytest.raises(UserError, match=r"no index at .*gone; make one: `polymnia index create .*gone VECTORS`"):
        Index.open(tmp_path / "gone")
    with pytest.raises(UserError, match="is no index: there is no items.lance"):
        Index.open(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UserError, match="is a run, no index; embed with it first"):
        Index.open(tmp_path)
    lancedb.connect(tmp_path / "theirs").create_table("items", [{"vector": [1.0, 2.0]}])
    with pytest.raises(UserError, match="a table that polymnia did not write"):
        Index.open(tmp_path / "theirs")


def test_without_lancedb_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("polymnia.index.database.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs lancedb, which is not installed: pip install 'polymnia\[index\]'"):
        Index.create(tmp_path / "index", card())


def said(index: Index, **metadata: str | None) -> None:
    """Overwrite what an index says of itself."""
    changed = {f"polymnia.{k}": v for k, v in metadata.items()}
    index.table.update_field_metadata({"path": "vector", "metadata": changed})


def test_an_index_of_a_later_version_is_refused(index: Index):
    said(index, format=str(FORMAT + 1))
    with pytest.raises(UserError, match=rf"format {FORMAT + 1}, this version reads {FORMAT}: install a newer"):
        Index.open(index.uri)


@pytest.mark.parametrize("wrong", [{"settings": "{"}, {"encoder.first": "{}"}, {"encoder.first": None}])
def test_an_index_whose_words_are_damaged_is_refused(index: Index, wrong: dict):
    said(index, **wrong)
    with pytest.raises(UserError, match=index.uri):
        Index.open(index.uri)


@pytest.mark.parametrize("part", ["data", "_versions"])
def test_an_index_whose_files_are_damaged_is_said_to_be(index: Index, part: str):
    index.add([sounds(0, 50)], card())
    for path in Path(index.uri, "items.lance", part).iterdir():
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=f"{index.uri}: the index cannot be read or written, it may be damaged"):
        Index.open(index.uri).search({"first": unit(1)})


def test_a_folder_where_creating_was_cut_off_is_taken(tmp_path: Path):
    (tmp_path / "index" / "items.lance" / "_versions").mkdir(parents=True)
    with pytest.raises(UserError, match="is no index"):
        Index.open(tmp_path / "index")
    assert Index.create(tmp_path / "index", card()).count() == 0


def test_a_full_disk_is_said_and_what_was_committed_stays(index: Index, monkeypatch: pytest.MonkeyPatch):
    index.add([sounds(0, 5)], card())

    class Full:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: self

        def execute(self, rows: pa.Table) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(index.table), "merge_insert", lambda *_: Full())
        with pytest.raises(FullError, match="no room left to write; what was committed before is kept"):
            index.add([sounds(5, 9)], card())
    assert Index.open(index.uri).count() == 5
    assert index.add([sounds(0, 9)], card()) == Added(new=4, same=5)


def test_commits_that_others_overtake_are_tried_again(index: Index, monkeypatch: pytest.MonkeyPatch):
    tries = []

    def overtaken(table: Any, chunk: pa.Table) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("lance error: Retryable commit conflict for version 2")
        return intake.compared(table, chunk)

    monkeypatch.setattr("polymnia.index.store.compared", overtaken)
    assert index.add([sounds(0, 3)], card()) == Added(new=3) and len(tries) == 3


# --- deleting, rewriting, versions


def test_rows_are_deleted_by_filter_or_by_item(index: Index):
    index.add(
        [sounds(0, 10, duration=[float(n) for n in range(10)]), rows(["s00001"], unit(1), modality="text")], card()
    )
    assert index.delete("duration < 0.5") == 1 and index.delete(ids=["s00001", "nobody"]) == 2
    assert index.delete("duration < 0.5") == 0
    assert sorted(content(index)) == [f"s{n:05d}#audio" for n in range(2, 10)]
    with pytest.raises(UserError, match="say what to delete"):
        index.delete()
    with pytest.raises(UserError, match="which is no column"):
        index.delete("everything = 1")


def test_rewriting_is_one_commit_with_its_cards_and_the_old_state_stays(index: Index):
    index.add([sounds(0, 50)], card())
    before, version = content(index), index.version
    new = card("second", 8, task=2)
    batches = (rows([f"s{n:05d}"], unit(1, n, 8), "second", made="upgraded", doubt=0.1) for n in range(40))
    assert index.rewrite(batches, {"second": new}) == 40
    assert index.version == version + 1 and index.dim == 8 and index.cards == {"second": new} and index.count() == 40
    assert Index.open(index.uri).cards == {"second": new} and index.count("made = 'upgraded'") == 40
    past = Index.open(index.uri, version)
    assert content(past) == before and past.cards == {"first": card()} and past.dim == DIM
    index.restore(version)
    assert content(index) == before and Index.open(index.uri).cards == {"first": card()}
    assert index.add([sounds(45, 52)], card()) == Added(new=2, same=5)


def test_a_rewriting_that_fails_changes_nothing(index: Index):
    index.add([sounds(0, 20)], card())
    before, version = content(index), index.version

    def torn() -> Any:
        yield sounds(0, 10, "second")
        raise UserError("the adapter knows no such modality")

    with pytest.raises(UserError, match="^the adapter knows no such modality$"):
        index.rewrite(torn(), {"second": card("second")})
    with pytest.raises(UserError, match="vectors are of the encoder third"):
        index.rewrite([sounds(0, 10, "third")], {"second": card("second")})
    assert content(Index.open(index.uri)) == before and Index.open(index.uri).version == version
    other = Index.open(index.uri)
    other.delete(ids=["s00000"])
    with pytest.raises(UserError, match="was changed by another process meanwhile"):
        index.rewrite([sounds(0, 10, "second")], {"second": card("second")})
    assert index.refresh().rewrite([sounds(0, 10, "second")], {"second": card("second")}) == 10


def test_rows_of_an_upgraded_index_are_refused_by_those_who_opened_it_before(index: Index):
    index.add([sounds(0, 5)], card())
    other = Index.open(index.uri)

    def upgraded_meanwhile() -> Any:
        other.rewrite([sounds(0, 5, "second")], {"second": card("second")})
        yield sounds(5, 9)

    with pytest.raises(UserError, match="of the encoder first .* is of second"):
        index.add(upgraded_meanwhile(), card())
    assert other.refresh().count() == 5


def test_a_version_is_kept_until_it_is_forgotten(index: Index, monkeypatch: pytest.MonkeyPatch):
    for n in range(4):
        index.add([sounds(n, n + 1)], card())
    index.delete(ids=["s00000"])
    index.compact()
    assert [v.rows for v in index.versions()][:6] == [0, 1, 2, 3, 4, 3] and index.count() == 3
    monkeypatch.setattr("polymnia.index.versions.SLACK", SLACK * 0)
    last = index.versions()[-1].number
    index.compact(keep_versions=2)
    kept = [v.number for v in index.versions()]
    assert last in kept and 1 not in kept and index.count() == 3
    assert Index.open(index.uri, kept[0]).count() in (3, 4)
    with pytest.raises(UserError, match="days or by number, not both"):
        index.compact(1, 1)


def test_the_many_small_files_of_many_commits_are_joined_and_no_version_is_lost(index: Index):
    def files() -> int:
        return index.table.stats()["fragment_stats"]["num_fragments"]

    for n in range(20, 40):
        index.add([sounds(n, n + 1)], card())
    before, many, versions = index.get(ids=[f"s{n:05d}" for n in range(40)]), files(), len(index.versions())
    assert many > 16
    index.settle()
    assert files() == 1 and len(index.versions()) >= versions
    assert index.get(ids=[f"s{n:05d}" for n in range(40)]).equals(before)


def test_others_commits_are_seen_after_a_refresh(index: Index):
    other = Index.open(index.uri)
    index.add([sounds(0, 3)], card())
    assert other.count() == 0 and other.refresh().count() == 3 and other.spaces == {"first": 3}


def test_rows_are_read_in_batches_of_the_size_that_is_asked(index: Index):
    index.add([sounds(0, 50)], card())
    batches = list(index.rows(["key", "vector"], "key >= 's00010'", 7))
    assert max(b.num_rows for b in batches) <= 7 and sum(b.num_rows for b in batches) == 40
    got = index.get(ids=["s00003", "s00001", "nobody"], keys=["s00009#audio"])
    assert got["id"].to_pylist() == ["s00001", "s00003", "s00009"]


def test_an_index_that_was_moved_is_the_same(index: Index, tmp_path: Path):
    index.add([sounds(0, 5)], card())
    before = content(index)
    moved = Index.open(shutil.move(index.uri, tmp_path / "elsewhere"))
    assert content(moved) == before and moved.add([sounds(4, 6)], card()) == Added(new=1, same=1)


def test_info_counts_what_there_is(index: Index):
    index.add([sounds(0, 5), rows(["s00000", "x"], unit(2), modality="text", made="upgraded")], card())
    info = index.info()
    assert (info.rows, info.items, info.unindexed, info.versions) == (7, 6, 7, 2)
    (space,) = info.spaces
    assert space.card == card() and space.rows == {"audio": 5, "text": 2}
    assert space.made == {"embedded": 5, "upgraded": 2}
    assert info.settings == Settings() and info.tuned is None
    size = sum(p.stat().st_size for p in Path(index.uri).rglob("*") if p.is_file())
    assert info.bytes == size and json.dumps(info.uri) == json.dumps(index.uri)
