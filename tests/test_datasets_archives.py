"""The sets that come as archives: what their tables mean, their parsing traps, and what a user can get wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conformance import archive_miniatures as miniature
from pydantic import ValidationError

from polymnia.config import find
from polymnia.data.media import decode_audio
from polymnia.types import AudioFile, Captions, Item, UserError


def read(name: str, settings: miniature.Settings, **more: object) -> list[Item]:
    module = find("data.datasets", name)
    return module.items(module.Config(**settings | more))


def refusal(name: str, settings: miniature.Settings, **more: object) -> str:
    with pytest.raises(UserError) as caught:
        read(name, settings, **more)
    return str(caught.value)


def text_of(item: Item) -> tuple[str, ...]:
    captions = item.sources["text"]
    assert isinstance(captions, Captions)
    return captions.texts


def path_of(item: Item) -> Path:
    audio = item.sources["audio"]
    assert isinstance(audio, AudioFile)
    return audio.path


def by_id(items: Sequence[Item]) -> dict[str, Item]:
    return {item.id: item for item in items}


# ---------------------------------------------------------------- every set


RECORDINGS = {
    "bbc": "Audio/BBC_Sound_Effects",
    "clotho": "development",
    "esc50": "audio",
    "fsd50k": "FSD50K.eval_audio",
    "hear": "esc50-v2.0.0-full/48000/fold00",
    "macs": f"{miniature.TAU}/audio",
    "urbansound8k": "audio/fold5",
}


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_a_missing_recording_stays_in_and_is_counted_later(name: str, tmp_path: Path) -> None:
    settings = miniature.ARCHIVES[name](tmp_path)
    before = read(name, settings)
    gone = next((tmp_path / RECORDINGS[name]).iterdir())
    gone.unlink()
    after = read(name, settings)
    assert [item.id for item in after] == [item.id for item in before]
    assert sum(not path_of(item).is_file() for item in after) == 1


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_no_recording_at_all_is_an_error_that_says_where_it_looked(name: str, tmp_path: Path) -> None:
    settings = miniature.ARCHIVES[name](tmp_path)
    for file in [*tmp_path.rglob("*.wav"), *tmp_path.rglob("*.flac")]:
        file.unlink()
    message = refusal(name, settings)
    assert "none of its" in message and str((tmp_path / RECORDINGS[name]).parent.name) in message


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_a_root_one_folder_too_high_is_told_which_to_give(name: str, tmp_path: Path) -> None:
    settings = miniature.ARCHIVES[name](tmp_path / "data" / "set")
    assert f"give {tmp_path / 'data' / 'set'}" in refusal(name, settings, root=tmp_path / "data")


DEEP = RECORDINGS | {"fsd50k": "FSD50K.ground_truth", "macs": miniature.TAU, "hear": "esc50-v2.0.0-full/48000"}


@pytest.mark.parametrize("name", sorted(DEEP))
def test_a_root_one_or_two_folders_too_deep_is_told_which_to_give(name: str, tmp_path: Path) -> None:
    settings = miniature.ARCHIVES[name](tmp_path / "set")
    right = tmp_path / "set" / ("esc50-v2.0.0-full" if name == "hear" else "")
    assert f"give {right}" in refusal(name, settings, root=tmp_path / "set" / DEEP[name])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("esc50", "meta/esc50.csv"),
        ("urbansound8k", "metadata/UrbanSound8K.csv"),
        ("fsd50k", "FSD50K.ground_truth/dev.csv"),
        ("clotho", "clotho_captions_validation.csv"),
        ("clotho", "clotho_metadata_validation.csv"),
        ("macs", f"{miniature.TAU}/meta.csv"),
        ("hear", "esc50-v2.0.0-full/labelvocabulary.csv"),
    ],
)
def test_a_table_of_another_version_names_the_columns_found_and_expected(name: str, file: str, tmp_path: Path) -> None:
    settings = miniature.ARCHIVES[name](tmp_path)
    (tmp_path / file).write_text("slug,classes\na,b\n")
    message = refusal(name, settings)
    assert file in message and "expected: " in message
    assert "found: slug, classes" in message or "found: slug,classes" in message  # MACS expects tabs


def test_a_table_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    settings = miniature.clotho(tmp_path)
    table = tmp_path / "clotho_captions_development.csv"
    table.write_bytes(table.read_text().encode("iso-8859-1"))  # holds an accented name, in line 3
    message = refusal("clotho", settings)
    assert f"{table}, line 3" in message and "UTF-8" in message


def test_a_table_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    settings = miniature.esc50(tmp_path)
    table = tmp_path / "meta/esc50.csv"
    table.write_text(table.read_text() + "../../secret.wav,1,0,dog,True,1,A\n")
    assert "line 8" in (message := refusal("esc50", settings)) and "without folders" in message


# ---------------------------------------------------------------- ESC-50, UrbanSound8K


def test_esc50_reads_classes_in_target_order_with_folds_and_freesound_ids(tmp_path: Path) -> None:
    items = read("esc50", miniature.esc50(tmp_path))
    assert [(i.topic, i.fold, i.split, i.origin) for i in items] == [
        ("dog", 1, "test", ("freesound:1010",)),
        ("dog", 2, "valid", ("freesound:1020",)),
        ("dog", 3, "train", ("freesound:1030",)),
        ("water_drops", 1, "test", ("freesound:10118",)),
        ("water_drops", 2, "valid", ("freesound:10218",)),
        ("water_drops", 3, "train", ("freesound:10318",)),
    ]
    assert "a recording of water drops" in text_of(items[3])
    assert items[0].group == items[1].group != items[3].group


def test_esc50_can_be_a_zero_shot_set_or_esc10_alone(tmp_path: Path) -> None:
    settings = miniature.esc50(tmp_path) | {"valid_fold": None}
    assert {item.split for item in read("esc50", settings, test_fold="all")} == {"test"}
    assert {item.topic for item in read("esc50", settings, esc10=True)} == {"dog"}
    assert {i.fold for i in read("esc50", settings, test_fold=3) if i.split == "test"} == {3}


def test_folds_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    settings = miniature.esc50(tmp_path)
    assert "no fold 6; folds: 1, 2, 3" in refusal("esc50", settings, test_fold=6)
    assert "no class 'cat'" in refusal("esc50", settings, names={"cat": "a cat"})
    with pytest.raises(ValidationError, match="both 2"):
        read("esc50", settings, test_fold=2)
    with pytest.raises(ValidationError, match="leaves no clips"):
        read("esc50", settings, test_fold="all")


def test_urbansound8k_finds_slices_in_the_folder_of_their_fold_in_any_format(tmp_path: Path) -> None:
    items = read("urbansound8k", miniature.urbansound8k(tmp_path))
    assert [item.topic for item in items] == ["car_horn", "children_playing", "dog_bark"]  # classID 1, 2, 3
    assert [path_of(item).parent.name for item in items] == ["fold10", "fold1", "fold5"]
    assert [item.split for item in items] == ["test", "train", "train"]
    assert items[2].origin == ("freesound:100032",)
    for item in items:  # stereo 24-bit at 96 kHz, mono float at 22,050 Hz, ...
        audio = item.sources["audio"]
        assert isinstance(audio, AudioFile) and decode_audio(audio, 16000).shape == (1600,)


def test_urbansound8k_refuses_a_class_id_with_two_names(tmp_path: Path) -> None:
    settings = miniature.urbansound8k(tmp_path)
    table = tmp_path / "metadata/UrbanSound8K.csv"
    table.write_text(table.read_text() + "9-3-0-0.wav,9,0,1,1,5,3,siren\n")
    assert "classID 3 is called 'siren'" in refusal("urbansound8k", settings)


# ---------------------------------------------------------------- FSD50K


def test_fsd50k_reads_splits_labels_in_the_order_of_the_vocabulary_and_captions(tmp_path: Path) -> None:
    items = by_id(read("fsd50k", miniature.fsd50k(tmp_path)))
    assert {name: item.split for name, item in items.items()} == {
        "64760": "train",
        "16399": "valid",
        "83299": "train",
        "37199": "test",
    }
    assert items["64760"].labels == items["37199"].labels == ("Bark", "Dog")
    assert items["64760"].origin == ("freesound:64760",)
    assert text_of(items["64760"]) == ("dog, barking.wav my dog. recorded & cut,",)
    assert text_of(items["83299"]) == ("long rain",) and text_of(items["37199"]) == ("bark two barks.",)
    assert path_of(items["37199"]).parent.name == "FSD50K.eval_audio"


def test_fsd50k_drops_marks_and_what_hear_drops_on_demand(tmp_path: Path) -> None:
    settings = miniature.fsd50k(tmp_path)
    items = by_id(read("fsd50k", settings, punctuation=False, drop_long=True))
    assert "83299" not in items and len(items) == 3
    assert text_of(items["64760"]) == ("dog barking wav my dog recorded cut",)


def test_fsd50k_does_without_captions_where_the_metadata_are_not_there(tmp_path: Path) -> None:
    settings = miniature.fsd50k(tmp_path)
    shutil.rmtree(tmp_path / "FSD50K.metadata")
    assert "FSD50K.metadata" in refusal("fsd50k", settings)
    assert all("text" not in item.sources for item in read("fsd50k", settings, captions=False))


def test_fsd50k_refuses_a_vocabulary_with_a_header_and_an_unknown_label(tmp_path: Path) -> None:
    settings = miniature.fsd50k(tmp_path)
    table = tmp_path / "FSD50K.ground_truth/vocabulary.csv"
    rows = table.read_text()
    table.write_text("index,label,mid\n" + rows)
    assert "line 1: index must be a whole number" in refusal("fsd50k", settings)
    table.write_text(rows.splitlines()[0])
    assert "label 'Dog' is not in vocabulary.csv" in refusal("fsd50k", settings)


# ---------------------------------------------------------------- Clotho, MACS


@pytest.mark.parametrize("tree", [miniature.clotho, miniature.clotho_aac])
def test_clotho_reads_five_captions_odd_names_and_both_trees(
    tree: Callable[[Path], miniature.Settings], tmp_path: Path
) -> None:
    items = by_id(read("clotho", tree(tmp_path)))
    assert {name: item.split for name, item in items.items()} == {
        "development/Distorted AM Radio noise": "train",
        "development/#7 Caf\u00e9 (\u00e4).v2": "train",
        "validation/rain, heavy ": "valid",
        "evaluation/Santa Motor": "test",
    }
    assert all(path_of(item).is_file() for item in items.values())
    assert text_of(items["evaluation/Santa Motor"]) == tuple(f"caption {n} of it." for n in range(1, 6))
    assert items["evaluation/Santa Motor"].origin == ("freesound:9001",)
    assert items["development/#7 Caf\u00e9 (\u00e4).v2"].origin == ()  # the authors wrote "Not found"


def test_clotho_reads_metadata_that_someone_has_converted_to_utf8(tmp_path: Path) -> None:
    settings = miniature.clotho(tmp_path)
    before = read("clotho", settings)
    table = tmp_path / "clotho_metadata_development.csv"
    table.write_text(table.read_text("iso-8859-1"), "utf-8")
    assert read("clotho", settings) == before


def test_clotho_finds_names_whose_unicode_form_an_archive_program_changed(tmp_path: Path) -> None:
    settings = miniature.clotho(tmp_path)
    old = tmp_path / "development" / "#7 Caf\u00e9 (\u00e4).v2.wav"
    old.rename(old.with_name("#7 Cafe\u0301 (a\u0308).v2.wav"))
    assert all(path_of(item).is_file() for item in read("clotho", settings))


def test_clotho_reads_single_parts_and_does_without_metadata(tmp_path: Path) -> None:
    settings = miniature.clotho(tmp_path)
    shutil.rmtree(tmp_path / "validation")
    (tmp_path / "clotho_metadata_evaluation.csv").unlink()
    assert "validation" in refusal("clotho", settings)
    assert "clotho_metadata_evaluation.csv" in refusal("clotho", settings, parts=["evaluation"])
    assert [i.split for i in read("clotho", settings, parts=["evaluation"], origins=False)] == ["test"]


@pytest.mark.parametrize("tree", [miniature.macs, miniature.macs_aac])
def test_macs_reads_every_annotators_sentence_and_taus_scene(
    tree: Callable[[Path], miniature.Settings], tmp_path: Path
) -> None:
    items = read("macs", tree(tmp_path))
    assert [item.id for item in items] == [
        "airport-barcelona-0-0-a",
        "airport-barcelona-0-1-a",
        "park-lyon-9-1-a",
    ]
    assert [len(text_of(item)) for item in items] == [2, 3, 4]
    assert text_of(items[0]) == ("people talk 0.", "people talk 1.")
    assert [item.topic for item in items] == ["airport", "airport", "park"]
    assert items[0].labels == ("adults_talking", "tag_0", "tag_1")
    audio = items[0].sources["audio"]
    assert isinstance(audio, AudioFile) and decode_audio(audio, 48000).shape == (4800,)  # two channels become one


def test_macs_never_splits_a_place(tmp_path: Path) -> None:
    settings = miniature.macs(tmp_path)
    table = tmp_path / miniature.TAU / "meta.csv"
    head = table.read_text().splitlines()[0]
    names = [f"airport-city{n}-{place}-a" for place in range(30) for n in range(2)]
    table.write_text("\n".join([head, *(f"audio/{n}.wav\tairport\tplace{n.split('-')[2]}\ta" for n in names)]))
    note = "  annotations:\n  - annotator_id: 1\n    sentence: people\n    tags: []\n"
    (tmp_path / "MACS.yaml").write_text("files:\n" + "".join(f"- filename: {name}.wav\n{note}" for name in names))
    miniature.sound(tmp_path / miniature.TAU / f"audio/{names[0]}.wav")
    items = by_id(read("macs", settings, valid_share=0.5))
    splits = [(items[a].split, items[b].split) for a, b in zip(names[::2], names[1::2], strict=True)]
    assert all(a == b for a, b in splits) and {"train", "valid"} == {a for a, _ in splits}


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("files: [", "malformed YAML"),
        ("clips: []", "expected a list 'files'"),
        ("files: [{name: a.wav}]", "expected the keys filename and annotations"),
        ("files: [{filename: b.wav, annotations: []}]", "is that the table of TAU"),
        ("files: [{filename: park-lyon-9-1-a.wav, annotations: [{sentence: [a]}]}]", "must be a text, not a list"),
        ("files: !!python/object/apply:os.system ['true']", "malformed YAML"),
    ],
)
def test_macs_refuses_other_yaml(yaml: str, said: str, tmp_path: Path) -> None:
    settings = miniature.macs(tmp_path)
    (tmp_path / "MACS.yaml").write_text(yaml)
    assert said in refusal("macs", settings)


# ---------------------------------------------------------------- BBC Sound Effects


def test_bbc_reads_wavcaps_captions(tmp_path: Path) -> None:
    items = read("bbc", miniature.bbc(tmp_path))
    assert [(i.id, i.topic, i.split, i.origin) for i in items] == [
        ("NHU05030045", "Nature", "train", ("bbc:nhu05030045",)),
        ("07066104", "Nature", "train", ("bbc:07066104",)),
    ]
    assert text_of(items[0]) == ("a water buffalo is heard.",)


def test_bbc_reads_sounddescs_with_its_split_lists(tmp_path: Path) -> None:
    items = read("bbc", miniature.sounddescs(tmp_path))
    assert [(i.id, i.topic, i.split) for i in items] == [
        ("07066104", "Bells", "train"),
        ("nhu05030045", "Nature", "valid"),
        ("0009014", "", "test"),
    ]
    assert items[1].origin == ("bbc:nhu05030045",)
    assert all(path_of(item).is_file() for item in items)


def test_bbc_draws_a_split_where_there_are_no_lists(tmp_path: Path) -> None:
    settings = miniature.sounddescs(tmp_path)
    assert "split lists" in refusal("bbc", settings, test_share=1.0)
    shutil.rmtree(tmp_path / "data")
    assert {item.split for item in read("bbc", settings, test_share=1.0)} == {"test"}


def test_bbc_refuses_a_list_that_names_an_unknown_clip_or_one_clip_twice(tmp_path: Path) -> None:
    settings = miniature.sounddescs(tmp_path)
    lists = tmp_path / "data/SoundDescs"
    (lists / "val_list.txt").write_text("nhu05030045\nnhu1\n")
    assert "1 clips without description, say nhu1" in refusal("bbc", settings)
    (lists / "val_list.txt").write_text("0009014\n")
    assert "0009014 is in two splits" in refusal("bbc", settings)


def test_bbc_refuses_json_of_another_version(tmp_path: Path) -> None:
    settings = miniature.bbc(tmp_path)
    file = tmp_path / "json_files/BBC_Sound_Effects/bbc_final.json"
    file.write_text('{"data": [{"name": "x"}]}')
    assert "entry 1: no caption and id; found: name; expected: id, caption" in refusal("bbc", settings)
    file.write_text('{"data": [{"id": "x", "capt')
    assert "malformed JSON" in refusal("bbc", settings)
    file.write_text("[]")
    assert "expected a JSON dict, found a list" in refusal("bbc", settings)


# ---------------------------------------------------------------- HEAR


def test_hear_reads_folds_and_holds_out_one_and_the_next(tmp_path: Path) -> None:
    items = read("hear", miniature.hear(tmp_path))
    assert [item.topic for item in items] == ["rain"] * 4 + ["airplane"] * 4  # the order of the vocabulary
    assert [(item.fold, item.split) for item in items[:4]] == [(0, "test"), (1, "valid"), (2, "train"), (3, "train")]
    rotated = read("hear", miniature.hear(tmp_path / "again"), test_fold=3)
    assert [(item.fold, item.split) for item in rotated[:4]] == [(0, "valid"), (1, "train"), (2, "train"), (3, "test")]
    assert path_of(items[0]).parent == tmp_path / "esc50-v2.0.0-full/48000/fold00"
    assert "text" not in items[0].sources


def test_hear_reads_several_labels_and_the_three_splits(tmp_path: Path) -> None:
    items = by_id(read("hear", miniature.hear(tmp_path), task="fsd50k", templates=["{}"]))
    assert {name: item.split for name, item in items.items() if name.startswith("6476")} == {
        "64760": "train",
        "64761": "valid",
        "64762": "test",
    }
    assert items["64760"].labels == ("Bark", "Dog") and items["64760"].group == "64760"
    assert text_of(items["64760"]) == ("Bark", "Dog")


def test_hear_takes_the_folder_of_one_task_as_root(tmp_path: Path) -> None:
    settings = miniature.hear(tmp_path)
    assert len(read("hear", settings, root=tmp_path / "esc50-v2.0.0-full", task="*")) == 8


def test_hear_wants_one_task_and_names_those_there(tmp_path: Path) -> None:
    settings = miniature.hear(tmp_path)
    several = refusal("hear", settings, task="*")
    assert "2 tasks" in several and "esc50-v2.0.0-full, fsd50k-v1.0-full" in several
    assert "no tasks called 'gunshot'" in refusal("hear", settings, task="gunshot")


def test_hear_names_the_rates_there(tmp_path: Path) -> None:
    settings = miniature.hear(tmp_path)
    assert "no folder 32000; rates there: 48000" in refusal("hear", settings, rate=32000)


def test_hear_sends_event_tasks_to_the_runner(tmp_path: Path) -> None:
    settings = miniature.hear(tmp_path)
    (tmp_path / "esc50-v2.0.0-full/task_metadata.json").write_text('{"embedding_type": "event"}')
    assert "polymnia eval hear" in refusal("hear", settings)


@pytest.mark.parametrize(
    ("labels", "said"), [(["dog"], "'dog' is not in labelvocabulary.csv"), ([], "one label"), ("rain", "one label")]
)
def test_hear_refuses_labels_that_do_not_fit(labels: object, said: str, tmp_path: Path) -> None:
    settings = miniature.hear(tmp_path)
    (tmp_path / "esc50-v2.0.0-full/fold02.json").write_text(json.dumps({"2-10-A-1.wav": labels}))
    message = refusal("hear", settings)
    assert said in message and "fold02.json" in message
