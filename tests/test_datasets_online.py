"""Sets whose clips come from the web: naming habits, splits, repeated clips, blacklists, and every refusal.

Trees are the miniatures of the conformance tests; expected items are written by hand.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conformance import online_miniatures as miniatures
from conformance.online_miniatures import ONLINE, VIDEOS, film, sound, write
from pydantic import ValidationError

from polymnia.config import find
from polymnia.data.datasets import audiocaps, audioset, ave, speech_commands, vggsound, wavcaps
from polymnia.data.items import OnlineConfig
from polymnia.types import AudioFile, Captions, Item, UserError, VideoFile

DASH, UNDERSCORE, WITH_Y = VIDEOS[:3]


def by_id(items: Sequence[Item]) -> dict[str, Item]:
    return {item.id: item for item in items}


def audio(item: Item) -> Path:
    source = item.sources["audio"]
    assert isinstance(source, AudioFile)
    return source.path


def texts(item: Item) -> tuple[str, ...]:
    source = item.sources["text"]
    assert isinstance(source, Captions)
    return source.texts


def read(module: ModuleType, settings: dict[str, Any], **more: Any) -> list[Item]:
    return module.items(module.Config(**settings | more))


# ---------------------------------------------------------------- all of them

MEDIA = {
    "audiocaps": "audio_32000Hz",
    "audioset": "audios",
    "ave": "AVE",
    "speech_commands": "yes bed",
    "vggsound": "video",
    "wavcaps": "Audio",
}


@pytest.mark.parametrize("name", sorted(ONLINE))
def test_no_clip_at_all_is_refused_with_the_place(tmp_path: Path, name: str) -> None:
    settings = ONLINE[name](tmp_path)
    for folder in MEDIA[name].split():
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(UserError, match="(?s)not one of its clips|no recordings") as caught:
        read(find("data.datasets", name), settings)
    assert str(tmp_path) in str(caught.value) and "data=" in str(caught.value)


@pytest.mark.parametrize("name", sorted(ONLINE))
def test_a_root_one_folder_too_high_or_too_deep_is_told_the_right_one(tmp_path: Path, name: str) -> None:
    settings = ONLINE[name](tmp_path / "upper" / "set")
    module = find("data.datasets", name)
    with pytest.raises(UserError, match=f"too high; give {tmp_path}/upper/set "):
        read(module, settings, root=tmp_path / "upper")
    with pytest.raises(UserError, match=f"too deep; give {tmp_path}/upper/set "):
        read(module, settings, root=tmp_path / "upper" / "set" / MEDIA[name].split()[0])


@pytest.mark.parametrize("name", sorted(ONLINE))
def test_missing_clips_stay_in_the_list(tmp_path: Path, name: str) -> None:
    settings = ONLINE[name](tmp_path)
    module = find("data.datasets", name)
    before = read(module, settings)
    gone = next(i for i in before if i.split == "test") if name == "speech_commands" else before[0]
    audio(gone).unlink()
    after = read(module, settings)
    assert [(i.id, i.split, i.labels, set(i.sources)) for i in after] == [
        (i.id, i.split, i.labels, set(i.sources)) for i in before
    ]
    assert not audio(by_id(after)[gone.id]).exists()


def test_all_but_the_one_that_comes_as_an_archive_tolerate_missing_clips() -> None:
    tolerant = {name for name in ONLINE if issubclass(find("data.datasets", name).Config, OnlineConfig)}
    assert tolerant == set(ONLINE) - {"speech_commands"}


TABLES: list[tuple[str, str, str, str]] = [
    ("audioset", "metadata/eval_segments.csv", "segment_id\tstart\tend\tlabel\n", "line 1: 1 cell.*YTID, start_sec"),
    ("audioset", "metadata/eval_segments.csv", f'{DASH}, x, 1.0, "/m/09x0r"\n', "line 1: 'x' is no number of seconds"),
    ("audioset", "metadata/eval_segments.csv", f'{DASH}, 0, 1, "/m/none"\n', "no label '/m/none'"),
    ("audioset", "metadata/eval_segments.csv", '../../../etc, 0, 1, "/m/09x0r"\n', "no YouTube id"),
    ("audioset", "metadata/eval_segments.csv", "# only comments\n" + "é,b\n", "line 2: 2 cell"),
    (
        "audioset",
        "metadata/class_labels_indices.csv",
        "mid,display_name\n",
        "no column index; found: mid, display_name",
    ),
    (
        "vggsound",
        "vggsound.csv",
        "glLQrEijrKg_000300.mp4,playing hammond organ\n",
        "2 cells.*YouTube id, start, label",
    ),
    ("vggsound", "vggsound.csv", f"{DASH},1,people marching,validation\n", "'validation' where train or test"),
    ("vggsound", "vggsound.csv", "youtube_id,start,label,split\n", "'split' where train or test"),
    ("audiocaps", "dataset/val.csv", "uniq_id,audio,text\n1,a,b\n", "no column audiocap_id.*found: uniq_id, audio"),
    ("audiocaps", "dataset/val.csv", "audiocap_id,youtube_id,start_time,caption\n1,a/b,3,hi\n", "no YouTube id"),
    ("audiocaps", "dataset/val.csv", f"audiocap_id,youtube_id,start_time,caption\n1,{DASH},3, \n", "empty caption"),
    (
        "audiocaps",
        "dataset/val.csv",
        f"audiocap_id,youtube_id,start_time,caption\n../1,{DASH},3,a\n",
        "must be a number",
    ),
    ("ave", "trainSet.txt", "Church bell,RUhOCu3LNXM,good,0,10\n", "line 1: 'Church.*Category&VideoID"),
    ("ave", "trainSet.txt", f"&{DASH}&good&0&10\n", "line 1: .*Category&VideoID"),
    ("ave", "trainSet.txt", "\n\nBark&../../etc/x&good&0&10\n", "line 3: .*no YouTube id"),
    ("wavcaps", "json_files/SoundBible/sb_final.json", "[]", "expected a JSON dict"),
    ("wavcaps", "json_files/SoundBible/sb_final.json", '{"data": {}}', "list 'data'"),
    ("wavcaps", "json_files/SoundBible/sb_final.json", '{"data": [{"name": 3}]}', "entry 1: .*another version"),
    (
        "wavcaps",
        "json_files/SoundBible/sb_final.json",
        '{"data": [{"id": "../x", "caption": "a"}]}',
        "'../x' cannot be",
    ),
    (
        "wavcaps",
        "json_files/SoundBible/sb_final.json",
        '{"data": [{"id": "1", "caption": " "}]}',
        "entry 1: no caption",
    ),
    ("wavcaps", "json_files/SoundBible/sb_final.json", '{"data": [', "malformed JSON"),
    ("speech_commands", "testing_list.txt", "bed/one.wav\n", "line 1: 'bed/one.wav' is not"),
    ("speech_commands", "testing_list.txt", "../0a7c2a8d_nohash_0.wav\n", "line 1: .* is not"),
]


@pytest.mark.parametrize(("name", "table", "content", "message"), TABLES)
def test_a_table_of_another_version_is_named_with_its_fault(
    tmp_path: Path, name: str, table: str, content: str, message: str
) -> None:
    settings = ONLINE[name](tmp_path)
    write(tmp_path / table, content)
    with pytest.raises(UserError, match=message) as caught:
        read(find("data.datasets", name), settings)
    assert table.rpartition("/")[2] in str(caught.value)


# ---------------------------------------------------------------- AudioSet


def test_audioset_labels_are_names_in_official_order_with_their_commas(tmp_path: Path) -> None:
    items = by_id(read(audioset, miniatures.audioset(tmp_path)))
    assert list(items) == list(VIDEOS[:4])  # the order of the parts in splits
    assert items[DASH].labels == ("Speech", "Gush")  # the table says Gush first
    assert items[UNDERSCORE].labels == ("Male speech, man speaking",)
    assert [items[v].split for v in VIDEOS[:4]] == ["train", "train", "test", "valid"]
    assert items[DASH].origin == (f"youtube:{DASH}",)
    assert audio(items[VIDEOS[3]]).parent.name == "unbalanced_train_segments_part07"


@pytest.mark.parametrize(
    "clip",
    [
        "audio/bal_train/{}.flac",
        "audio/balanced_train/{}_30.wav",
        "audio/train/{}_30_40.mp3",
        "audios/{}_30000_40000.flac",
        "audio/{}_30000.wav",
        "Y{}.wav",
        "{}.wav",
    ],
)
def test_audioset_clips_go_by_several_names_and_folders_with_the_tables_beside_them(tmp_path: Path, clip: str) -> None:
    miniatures.audioset(tmp_path / "other")
    for table in (tmp_path / "other" / "metadata").iterdir():
        shutil.copy(table, tmp_path)
    place = tmp_path / clip.format(DASH)
    sound(place) if place.suffix != ".mp3" else write(place, "")
    items = by_id(audioset.items(audioset.Config(root=tmp_path, splits={"balanced_train": "train"})))
    assert audio(items[DASH]) == place
    assert not audio(items[UNDERSCORE]).exists()


def test_audioset_names_a_root_that_is_the_folder_of_the_tables(tmp_path: Path) -> None:
    settings = miniatures.audioset(tmp_path)
    with pytest.raises(UserError, match=f"too deep: {tmp_path}/audios/balanced_train_segments is beside it"):
        read(audioset, settings, root=tmp_path / "metadata")


def test_audioset_holds_out_a_share_of_training_alone(tmp_path: Path) -> None:
    settings = miniatures.audioset(tmp_path)
    rows = "".join(f'{n:011d}, 0.000, 10.000, "/m/09x0r"\n' for n in range(400))
    write(tmp_path / "metadata/balanced_train_segments.csv", rows)
    sound(tmp_path / "audios" / "00000000000.wav")
    items = read(audioset, settings, splits={"balanced_train": "train", "eval": "valid"}, test_share=0.25)
    counted = Counter(item.split for item in items)
    assert counted["valid"] == 1 and 70 < counted["test"] < 130  # 100 expected, deviation 8.7


# ---------------------------------------------------------------- VGGSound


def test_vggsound_has_sound_pictures_label_and_caption_of_each_clip(tmp_path: Path) -> None:
    items = by_id(read(vggsound, miniatures.vggsound(tmp_path), valid=0))
    clip = items[f"{UNDERSCORE}_000300"]
    path = tmp_path / "video" / f"{UNDERSCORE}_000300.mp4"
    assert clip.sources["audio"] == AudioFile(path) and clip.sources["image"] == VideoFile(path)
    assert clip.labels == (clip.topic,) == ("male speech, man speaking",)
    assert texts(clip) == ("the sound of male speech, man speaking",)
    assert clip.group == clip.id and clip.origin == (f"youtube:{UNDERSCORE}",)
    assert [item.split for item in items.values()] == ["train", "train", "test"]


def test_vggsound_validates_on_the_last_training_ids_in_alphabetical_order(tmp_path: Path) -> None:
    settings = miniatures.vggsound(tmp_path)
    videos = ("bbbbbbbbbbb", "ccccccccccc", "aaaaaaaaaaa", "ddddddddddd")
    write(tmp_path / "vggsound.csv", "".join(f"{v},1,dog,{'test' if v[0] == 'd' else 'train'}\n" for v in videos))
    film(tmp_path / "video" / "ccccccccccc_000001.mp4")
    items = read(vggsound, settings, valid=2)
    assert [item.split for item in items] == ["valid", "valid", "train", "test"]
    with pytest.raises(UserError, match="valid: 3 clips cannot be held out of the 3"):
        read(vggsound, settings, valid=3)


def test_vggsound_as_wav2clip_keeps_it_has_sound_alone_and_no_text_without_templates(tmp_path: Path) -> None:
    settings = miniatures.vggsound(tmp_path)
    shutil.rmtree(tmp_path / "video")
    sound(tmp_path / "Wav/test" / f"{WITH_Y}_000030.wav")
    items = by_id(read(vggsound, settings, valid=0, templates=()))
    assert all(set(item.sources) == {"audio"} for item in items.values())
    assert audio(items[f"{WITH_Y}_000030"]) == tmp_path / "Wav/test" / f"{WITH_Y}_000030.wav"


def test_vggsound_takes_the_sound_of_a_recording_beside_the_video_and_no_whole_video(tmp_path: Path) -> None:
    settings = miniatures.vggsound(tmp_path)
    sound(tmp_path / "Wav/train" / f"{DASH}_000001.wav")
    (tmp_path / "video" / f"{UNDERSCORE}_000300.mp4").rename(tmp_path / "video" / f"{UNDERSCORE}.mp4")
    items = by_id(read(vggsound, settings, valid=0))
    assert audio(items[f"{DASH}_000001"]).suffix == ".wav"
    assert items[f"{DASH}_000001"].sources["image"] == VideoFile(tmp_path / "video" / f"{DASH}_000001.mp4")
    assert not audio(items[f"{UNDERSCORE}_000300"]).exists() and "image" in items[f"{UNDERSCORE}_000300"].sources


# ---------------------------------------------------------------- AudioCaps


def test_audiocaps_joins_the_captions_of_a_clip(tmp_path: Path) -> None:
    train, valid, test = read(audiocaps, miniatures.audiocaps(tmp_path))
    assert (train.split, valid.split, test.split) == ("train", "valid", "test")
    assert texts(train) == ("a woman talks nearby, as water pours",)
    assert texts(valid) == tuple(f"rain falls, version {n}" for n in range(5))
    assert len(texts(test)) == 5 and test.origin == (f"youtube:{WITH_Y}",)
    assert len({train.group, valid.group, test.group}) == 3


def test_audiocaps_can_drop_punctuation(tmp_path: Path) -> None:
    train = read(audiocaps, miniatures.audiocaps(tmp_path), punctuation=False)[0]
    assert texts(train) == ("a woman talks nearby as water pours",)


HABITS = ["Y{video}", "{video}_14", "{number}", "{video}"]


@pytest.mark.parametrize("place", ["", "audio/", "audio/val/", "audio_32000Hz/val/", "val/"])
@pytest.mark.parametrize("habit", HABITS)
def test_audiocaps_clips_go_by_several_names_in_several_folders(tmp_path: Path, place: str, habit: str) -> None:
    settings = miniatures.audiocaps(tmp_path)
    shutil.rmtree(tmp_path / "audio_32000Hz")
    path = tmp_path / f"{place}{habit.format(video=UNDERSCORE, number=97153)}.wav"
    sound(path)
    items = by_id(read(audiocaps, settings))
    assert audio(items[f"val/{UNDERSCORE}"]) == path


@pytest.mark.parametrize(
    ("folder", "version"), [(".", 1), ("csv_files_v1", 1), ("dataset2.0", 2), ("csv_files_v2", 2)]
)
def test_audiocaps_tables_lie_where_the_version_has_them(tmp_path: Path, folder: str, version: int) -> None:
    settings = miniatures.audiocaps(tmp_path)
    (tmp_path / "dataset").rename(tmp_path / "moved")
    if folder == ".":
        for table in (tmp_path / "moved").iterdir():
            table.rename(tmp_path / table.name)
    else:
        (tmp_path / "moved").rename(tmp_path / folder)
    assert len(read(audiocaps, settings, version=version)) == 3
    if folder != ".":
        with pytest.raises(UserError, match=f"version {3 - version}"):
            read(audiocaps, settings, version=3 - version)


# ---------------------------------------------------------------- AVE


def test_ave_repeated_videos_have_ids_of_their_own_and_one_group(tmp_path: Path) -> None:
    items = by_id(read(ave, miniatures.ave(tmp_path)))
    twice, leaked = VIDEOS[5], VIDEOS[4]
    assert {i.id: (i.split, i.topic) for i in items.values()} == {
        UNDERSCORE: ("test", "Church bell"),
        leaked: ("test", "Bark"),
        DASH: ("valid", "Frying (food)"),
        f"{leaked}.2": ("train", "Church bell"),
        twice: ("train", "Male speech, man speaking"),
        f"{twice}.2": ("train", "Bark"),
        VIDEOS[3]: ("train", "Church bell"),
    }
    assert items[twice].group == items[f"{twice}.2"].group not in items
    assert items[leaked].origin == items[f"{leaked}.2"].origin == (f"youtube:{leaked}",)
    path = tmp_path / "AVE" / f"{twice}.mp4"
    assert items[f"{twice}.2"].sources == {"audio": AudioFile(path), "image": VideoFile(path)}


def test_ave_drops_leaks_and_events_of_no_length_when_asked(tmp_path: Path) -> None:
    settings = miniatures.ave(tmp_path)
    every = {item.id for item in read(ave, settings)}
    assert every - {item.id for item in read(ave, settings, drop_leaks=True)} == {f"{VIDEOS[4]}.2"}
    assert every - {item.id for item in read(ave, settings, drop_empty=True)} == {VIDEOS[3]}


def test_ave_reads_a_list_with_a_header_a_mark_and_dos_line_ends(tmp_path: Path) -> None:
    settings = miniatures.ave(tmp_path)
    before = read(ave, settings)
    lines = (tmp_path / "testSet.txt").read_text().splitlines()
    text = "\r\n".join(["Category&VideoID&Quality&StartTime&EndTime", *lines, ""])
    (tmp_path / "testSet.txt").write_bytes(text.encode("utf-8-sig"))
    assert read(ave, settings) == before


def test_ave_mends_a_category_with_a_stray_byte_but_no_id(tmp_path: Path) -> None:
    settings = miniatures.ave(tmp_path)
    test = tmp_path / "testSet.txt"
    whole = test.read_bytes()
    test.write_bytes(whole.replace(b"Church bell", b"Church\xa0bell"))
    assert read(ave, settings)[0].topic == "Church bell"
    test.write_bytes(whole.replace(b"Church bell", b"\xff\xfe\xff"))
    with pytest.raises(UserError, match="line 1: .*not UTF-8, and near no category"):
        read(ave, settings)
    test.write_bytes(whole.replace(UNDERSCORE.encode(), UNDERSCORE[:-1].encode() + b"\xa0"))
    with pytest.raises(UserError, match="line 1: .*no YouTube id"):
        read(ave, settings)


# ---------------------------------------------------------------- WavCaps


def test_wavcaps_names_clips_origins_and_captions_of_its_sources(tmp_path: Path) -> None:
    items = by_id(read(wavcaps, miniatures.wavcaps(tmp_path)))
    origins = {item.id: item.origin for item in items.values()}
    assert origins == {
        f"AudioSet_SL/Y{DASH}": (f"youtube:{DASH}",),
        f"AudioSet_SL/Y{UNDERSCORE}": (f"youtube:{UNDERSCORE}",),
        f"AudioSet_SL/Y{WITH_Y}": (f"youtube:{WITH_Y}",),  # an id that begins with Y loses only the first
        "BBC_Sound_Effects/NHU05030045": ("bbc:nhu05030045",),
        "FreeSound/180913": ("freesound:180913",),
        "FreeSound/2216": ("freesound:2216",),
        "SoundBible/2216": ("soundbible:2216",),
    }
    assert audio(items[f"AudioSet_SL/Y{DASH}"]) == tmp_path / "Audio/AudioSet_SL" / f"Y{DASH}.flac"
    assert texts(items[f"AudioSet_SL/Y{UNDERSCORE}"]) == ("a dog barks at video 1.",)
    assert {item.split for item in items.values()} == {"train"}


@pytest.mark.parametrize(
    ("exclude", "gone"),
    [
        ("all_ac", {f"AudioSet_SL/Y{DASH}"}),
        ("exclude_all_ac", {f"AudioSet_SL/Y{DASH}"}),
        ("json_files/blacklist/blacklist_exclude_all_ac.json", {f"AudioSet_SL/Y{DASH}"}),
        ("ub8k_esc50_vggsound", {f"AudioSet_SL/Y{UNDERSCORE}", "FreeSound/2216"}),
        ("ubs8k_esc50_vggsound", {f"AudioSet_SL/Y{UNDERSCORE}", "FreeSound/2216"}),
        ("own.json", {"SoundBible/2216"}),
    ],
)
def test_wavcaps_honours_a_blacklist_by_name_or_path(tmp_path: Path, exclude: str, gone: set[str]) -> None:
    settings = miniatures.wavcaps(tmp_path)
    write(tmp_path / "own.json", json.dumps({"SoundBible": [2216]}))
    left = by_id(read(wavcaps, settings, exclude=(exclude,)))
    assert by_id(read(wavcaps, settings)).keys() - left.keys() == gone


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "blacklist_exclude_all_ac, blacklist_exclude_ubs8k"),
        ("own.json", '{"YouTube": []}', "'YouTube' where lists of ids"),
        ("own.json", "[1]", "expected a JSON dict"),
    ],
)
def test_wavcaps_refuses_what_is_no_blacklist(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    settings = miniatures.wavcaps(tmp_path)
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        read(wavcaps, settings, exclude=(name,))


def test_wavcaps_can_be_one_source_without_its_long_recordings(tmp_path: Path) -> None:
    settings = miniatures.wavcaps(tmp_path)
    for other in ("AudioSet_SL", "BBC_Sound_Effects", "SoundBible"):
        shutil.rmtree(tmp_path / "json_files" / other)
        shutil.rmtree(tmp_path / "Audio" / other)
    assert [i.id for i in read(wavcaps, settings, sources=("FreeSound",), max_seconds=60)] == ["FreeSound/180913"]
    with pytest.raises(UserError, match="has no .*as_final.json"):
        read(wavcaps, settings)


def test_wavcaps_names_the_source_that_has_no_recording(tmp_path: Path) -> None:
    settings = miniatures.wavcaps(tmp_path)
    shutil.rmtree(tmp_path / "Audio" / "SoundBible")
    with pytest.raises(UserError, match="SoundBible.*not one of its clips"):
        read(wavcaps, settings)


def test_wavcaps_with_videos_of_audioset_has_pictures_there_alone(tmp_path: Path) -> None:
    settings = miniatures.wavcaps(tmp_path)
    film(tmp_path / "clips" / f"Y{DASH}.mp4")
    film(tmp_path / "clips" / f"{UNDERSCORE}.mp4")
    items = by_id(read(wavcaps, settings, videos="clips"))
    assert {i.id for i in items.values() if "image" in i.sources} == {f"AudioSet_SL/Y{video}" for video in VIDEOS[:3]}
    assert items[f"AudioSet_SL/Y{UNDERSCORE}"].sources["image"] == VideoFile(tmp_path / "clips" / f"{UNDERSCORE}.mp4")
    assert audio(items[f"AudioSet_SL/Y{UNDERSCORE}"]).suffix == ".flac"
    with pytest.raises(UserError, match="videos: there is no video"):
        read(wavcaps, settings, videos="Audio")


def test_wavcaps_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in ({"sources": ("FreeSound", "FreeSound")}, {"sources": ("FreeSound",), "videos": "clips"}):
        with pytest.raises(ValidationError):
            wavcaps.Config(root=tmp_path, **wrong)


# ---------------------------------------------------------------- Speech Commands


def test_speech_commands_splits_by_its_lists_and_leaves_the_noise_out(tmp_path: Path) -> None:
    items = read(speech_commands, miniatures.speech_commands(tmp_path), templates=("someone says {}",))
    assert [(i.id, i.split) for i in items] == [
        ("bed/0a7c2a8d_nohash_0", "train"),
        ("bed/2aca1e72_nohash_4", "test"),
        ("yes/0a7c2a8d_nohash_0", "train"),
        ("yes/0a7c2a8d_nohash_1", "train"),
        ("yes/1b4c9b89_nohash_0", "valid"),
    ]
    assert items[0].labels == ("bed",) and items[0].group == "bed" and texts(items[0]) == ("someone says bed",)


def archive(folder: Path) -> Path:
    for place in ("yes/2aca1e72_nohash_0", "_unknown_/bed_2aca1e72_nohash_0", "_silence_/17"):
        sound(folder / f"{place}.wav", 16000)
    return folder


def test_speech_commands_reads_the_separate_test_set_alone(tmp_path: Path) -> None:
    items = speech_commands.items(speech_commands.Config(root=archive(tmp_path / "test")))
    assert {(i.topic, i.split) for i in items} == {("yes", "test"), ("unknown", "test"), ("silence", "test")}


def test_speech_commands_with_the_separate_test_set_has_twelve_classes(tmp_path: Path) -> None:
    settings = miniatures.speech_commands(tmp_path)
    archive(tmp_path / "test_v2")
    items = read(speech_commands, settings, test_set="test_v2")
    assert Counter((i.topic, i.split) for i in items) == {
        ("unknown", "train"): 1,
        ("yes", "train"): 2,
        ("yes", "valid"): 1,
        ("yes", "test"): 1,
        ("unknown", "test"): 1,
        ("silence", "test"): 1,
    }
    with pytest.raises(UserError, match="the test set of Speech Commands"):
        read(speech_commands, settings, test_set="elsewhere")


def test_speech_commands_refuses_a_file_of_another_name(tmp_path: Path) -> None:
    settings = miniatures.speech_commands(tmp_path)
    sound(tmp_path / "yes" / "me.wav")
    with pytest.raises(UserError, match="yes/me.wav is not named"):
        read(speech_commands, settings)
