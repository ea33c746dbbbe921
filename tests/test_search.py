"""Searching a run's test items: exact, each item once, in any modality, by text or by file, wherever the folder is."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from rich.console import Console
from small_run import small_recipe, small_root, small_run

import polymnia as pm
from polymnia.data.media import MediaError
from polymnia.runs.assemble import read_tasks
from polymnia.runs.encoder import Encoder, read_recipe
from polymnia.runs.search import Hit, _place, kind_of, print_hits, search
from polymnia.types import AudioFile, ImageFile, Item, UserError

QUERY = "a slow low drum that fades away"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy that may be written into, at another place than where the run was made."""
    return shutil.copytree(small_run(), tmp_path / "moved" / "run")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return [i for task, _ in read_tasks(read_recipe(small_run())).tasks for i in task.test]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return pm.load(small_run())


def by_hand(encoder: Encoder, query: np.ndarray, items: list[Item], modality: str) -> list[tuple[float, str]]:
    """Every item with the best cosine of its rows, best first."""
    found = []
    for item in items:
        source = item.sources[modality]  # type: ignore[index]
        if modality == "text":
            rows = encoder.encode_text(source.texts)  # type: ignore[union-attr]
        else:
            encode = encoder.encode_audio if modality == "audio" else encoder.encode_image
            rows = encode([source.path])  # type: ignore[union-attr]
        found.append((float((rows @ query).max()), item.id))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("modality", ["audio", "image", "text"])
def test_hits_are_the_nearest_items_each_once_best_first(run, encoder, items, modality):
    hits = search(run, QUERY, modality, k=5)
    wanted = by_hand(encoder, encoder.encode_text(QUERY)[0], items, modality)[:5]
    assert [h.id for h in hits] == [i for _, i in wanted]
    assert np.allclose([h.score for h in hits], [s for s, _ in wanted], atol=1e-5)
    assert [h.rank for h in hits] == [1, 2, 3, 4, 5] and len({h.id for h in hits}) == 5


def test_a_hit_says_what_and_where_it_is(run, items, monkeypatch):
    monkeypatch.chdir(small_root())
    by_id = {i.id: i for i in items}
    for hit in search(run, QUERY, "image"):
        item = by_id[hit.id]
        assert (hit.topic, hit.task) == (item.topic, {"nature": "seas", "music": "tunes"}[item.topic])
        assert hit.caption == item.sources["text"].texts[0]  # type: ignore[union-attr]
        assert hit.path is not None and not Path(hit.path).is_absolute()
        assert Path(hit.path).resolve() == item.sources["image"].path.resolve()  # type: ignore[union-attr]


def test_a_hit_among_texts_shows_the_caption_that_was_found(run, encoder, items):
    query = encoder.encode_text(QUERY)[0]
    by_id = {i.id: i for i in items}
    for hit in search(run, QUERY, "text"):
        texts = by_id[hit.id].sources["text"].texts  # type: ignore[union-attr]
        assert hit.caption == texts[int(np.argmax(encoder.encode_text(texts) @ query))]
        assert hit.path is not None and hit.path.endswith(".wav")


def test_all_items_are_hits_when_more_are_asked_for_than_there_are(run, items):
    assert len(search(run, QUERY, "text", k=99)) == len(items) == 8


def test_sounds_are_searched_unless_said_otherwise(run):
    assert search(run, QUERY) == search(run, QUERY, "audio")


@pytest.mark.parametrize("modality", ["audio", "image"])
def test_a_file_finds_itself(run, items, modality):
    for item in items[:3]:
        path = item.sources[modality].path  # type: ignore[index, union-attr]
        best = search(run, str(path), modality, k=1)[0]
        assert best.id == item.id and best.score == pytest.approx(1.0, abs=1e-5)


def test_an_earlier_encoder_gives_other_scores_and_its_own_gallery(run):
    first, last = (search(run, QUERY, task=k) for k in (1, None))
    assert [h.score for h in first] != [h.score for h in last]
    assert search(run, QUERY, task=2) == last
    assert len(list((run / "search").glob("audio-*.safetensors"))) == 2


def test_the_gallery_is_embedded_once(run, monkeypatch):
    first = search(run, QUERY)
    kept = sorted(p.name for p in (run / "search").iterdir())
    monkeypatch.setattr(Encoder, "encode_audio", lambda *_: pytest.fail("embedded again"))
    assert search(run, QUERY) == first and sorted(p.name for p in (run / "search").iterdir()) == kept
    assert not list((run / "search").glob("*.tmp"))


def test_a_gallery_that_is_damaged_or_of_other_items_is_made_anew(run):
    first = search(run, QUERY)
    (path,) = (run / "search").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    assert search(run, QUERY) == first


def test_a_medium_that_was_replaced_is_embedded_anew(tmp_path):
    root = tmp_path / "own"
    shutil.copytree(small_root() / "data", root / "data")
    shutil.copytree(small_run(), root / "run")
    first = search(root / "run", QUERY, data=root / "data")
    path = Path(str(first[0].path))
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16000)
    again = {h.id: h.score for h in search(root / "run", QUERY, data=root / "data")}
    assert [h.id for h in first if abs(again[h.id] - h.score) > 1e-6] == [first[0].id]


def test_a_folder_that_cannot_be_written_can_be_searched(run):
    (run / "search").write_text("in the way")
    assert len(search(run, QUERY)) == 8


def test_items_that_the_run_could_not_use_are_not_searched(run, items):
    meta = json.loads((run / "meta.json").read_text())
    meta["tasks"][0]["failed"] = [{"id": items[0].id, "reason": "torn"}]
    (run / "meta.json").write_text(json.dumps(meta))
    assert {h.id for h in search(run, QUERY, k=99)} == {i.id for i in items[1:]}


def test_data_that_moved_are_asked_for_and_then_found(run, monkeypatch):
    wanted = [(h.id, h.score) for h in search(small_run(), QUERY)]
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw | {"data": "gone"}))
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match="data of .* are not here; pass .*--data FOLDER .*The recipe says gone"):
        search(Path("."), QUERY)
    assert not (run / "gone").exists()  # soundworld would write itself anew
    assert [(h.id, h.score) for h in search(Path("."), QUERY, data=small_root() / "data")] == wanted


# --- what is asked


@pytest.mark.parametrize(
    ("query", "kind"),
    [("a dog and/or a cat", "text"), ("rain.", "text"), ("drum", "text"), ("3.5 seconds of rain", "text"),
     ("x" * 5000, "text"), ("{folder}/a.WAV", "audio"), ("{folder}/b.png", "image"), ("{folder}/c d.opus", "audio")],
)  # fmt: skip
def test_a_query_is_a_text_unless_it_names_a_medium(tmp_path: Path, query: str, kind: str):
    for name in ("a.WAV", "b.png", "c d.opus", "notes.txt"):
        (tmp_path / name).touch()
    assert kind_of(query.format(folder=tmp_path)) == kind


def test_a_word_that_is_also_a_folder_is_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "drum").mkdir()
    monkeypatch.chdir(tmp_path)
    assert kind_of("drum") == "text"


@pytest.mark.parametrize(
    ("query", "message"),
    [("gone.wav", "no file 'gone.wav'"), ("sounds/gone", "no file 'sounds/gone'"), ("./gone", "no file './gone'"),
     ("{folder}/notes.txt", "is a file, but its name says neither recording")],
)  # fmt: skip
def test_a_path_that_is_no_medium_is_refused(tmp_path: Path, query: str, message: str):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=message):
        kind_of(query.format(folder=tmp_path))


def test_a_medium_that_cannot_be_decoded_is_named(run, tmp_path):
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    with pytest.raises(MediaError, match="torn.wav: not a readable recording"):
        search(run, str(tmp_path / "torn.wav"))


@pytest.mark.parametrize(
    ("more", "message"),
    [({"k": 0}, "k is 0; ask for at least one hit"), ({"task": 9}, "no encoder after task 9"),
     ({"query": " "}, "is empty")],
)  # fmt: skip
def test_what_cannot_be_searched_for_is_refused(run, more: dict, message: str):
    with pytest.raises(UserError, match=message):
        search(run, **{"query": QUERY, **more})


def test_a_modality_that_the_run_has_not_is_refused_with_those_it_has(tmp_path: Path):
    raw = small_recipe(small_root(), out=str(tmp_path))
    del raw["towers"]["image"], raw["stages"]
    raw["tasks"] = raw["tasks"][1:]
    folder = pm.run(raw).folder
    with pytest.raises(
        UserError, match=r"no test item of this run has image to search in; there is \['audio', 'text'\]"
    ):
        search(folder, QUERY, "image")
    with pytest.raises(UserError, match="this model has no image tower"):
        search(folder, str(next(small_root().rglob("*.png"))))


def test_a_place_names_the_stretch_and_the_row_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert _place(AudioFile(tmp_path / "a.wav", 1.5, 2.0)) == "a.wav#t=1.5,3.5"
    assert _place(AudioFile(Path("a.wav"), 1.5)) == "a.wav#t=1.5" and _place(ImageFile(Path("b.gz"), 0)) == "b.gz#0"
    assert _place(ImageFile(Path("/elsewhere/c.png"))) == "/elsewhere/c.png"


def test_hits_are_printed_as_they_are_and_never_as_markup():
    hit = Hit(1, 0.5, "a/1", "sea", "AV", "a [bold]wave[/bold]", "data/[1].wav")
    out = io.StringIO()
    print_hits([hit], Console(file=out, width=200))
    assert "a [bold]wave[/bold]" in out.getvalue() and "data/[1].wav" in out.getvalue() and "0.500" in out.getvalue()
    assert json.loads(json.dumps(asdict(hit)))["id"] == "a/1"
