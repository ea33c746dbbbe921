"""The user's own table: what its columns mean, and an error with file and line for everything that can be wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from polymnia.data.datasets import manifest
from polymnia.types import AudioFile, Captions, ImageFile, Item, UserError, VideoFile


def read_csv(root: Path, text: str | bytes, **settings: Any) -> list[Item]:
    (root / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifest.items(manifest.Config(root=root, **settings))


def read_json(root: Path, *rows: dict[str, Any] | str, **settings: Any) -> list[Item]:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (root / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return manifest.items(manifest.Config(root=root, file=Path("list.jsonl"), **settings))


def test_every_column_reaches_its_place(tmp_path: Path) -> None:
    header = "id,audio,image,text,text_2,text_10,group,topic,split,labels,start,seconds"
    (item,) = read_csv(tmp_path, f'{header}\n7,s/a.wav,b.png,"one, two",three,four,g,t,valid,x; y,1.5,2\n')
    assert item == Item(
        id="7",
        sources={
            "audio": AudioFile(tmp_path / "s" / "a.wav", 1.5, 2.0),
            "image": ImageFile(tmp_path / "b.png"),
            "text": Captions(("one, two", "three", "four")),
        },
        group="g",
        topic="t",
        split="valid",
        labels=("x", "y"),
    )


def test_a_json_line_says_the_same_as_a_csv_row(tmp_path: Path) -> None:
    (row,) = read_csv(tmp_path, "id,audio,text,text_2,labels,start\n7,a.wav,one,two,x;y,1.5\n")
    line = {"id": 7, "audio": "a.wav", "text": ["one", "two"], "labels": ["x", "y"], "start": 1.5, "topic": None}
    assert read_json(tmp_path, line, "") == [row]


def test_an_id_and_one_modality_are_enough(tmp_path: Path) -> None:
    assert read_csv(tmp_path, "id,text\na,hello\n") == [Item("a", {"text": Captions(("hello",))}, group="a")]
    assert read_csv(tmp_path, "id,audio,image\na,,b.png\n")[0].sources == {"image": ImageFile(tmp_path / "b.png")}


def test_a_video_is_picture_and_sound_unless_the_row_has_others(tmp_path: Path) -> None:
    table = "id,video,audio,image,start,seconds\n"
    table += "both,a.mp4,,,1,2\nspoken,a.mp4,b.wav,,,\nshown,a.mp4,,c.png,,3\nseen,,,a.mkv,2,\nheard,,a.mp4,,,\n"
    both, spoken, shown, seen, heard = (i.sources for i in read_csv(tmp_path, table))
    film = tmp_path / "a.mp4"
    assert both == {"audio": AudioFile(film, 1.0, 2.0), "image": VideoFile(film, 1.0, 2.0)}
    assert spoken == {"audio": AudioFile(tmp_path / "b.wav"), "image": VideoFile(film)}
    assert shown == {"audio": AudioFile(film, 0.0, 3.0), "image": ImageFile(tmp_path / "c.png")}
    assert seen == {"image": VideoFile(tmp_path / "a.mkv", 2.0)} and heard == {"audio": AudioFile(film)}


def test_media_that_are_not_there_are_left_to_the_loader(tmp_path: Path) -> None:
    assert len(read_csv(tmp_path, "id,audio\na,missing.wav\n")) == 1


def test_tables_of_spreadsheets_are_read(tmp_path: Path) -> None:
    items = read_csv(tmp_path, b'\xef\xbb\xbfid,text\r\na,caf\xc3\xa9\r\n\r\nb,"two\r\nlines"\r\n')
    assert [item.sources["text"].texts for item in items] == [("caf\u00e9",), ("two\r\nlines",)]


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path: Path) -> None:
    (item,) = read_json(tmp_path, {"id": "a", "text": "one\u2028two"})
    assert item.sources["text"].texts == ("one\u2028two",)


def test_shares_split_by_group_and_a_row_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "text": "x", "group": f"g{i // 2}"} for i in range(2000)]
    items = read_json(tmp_path, *rows, test_share=0.2, valid_share=0.1)
    count = Counter(item.split for item in items)
    # three standard deviations of a thousand groups of two: 2 * 3 * sqrt(1000 * p * (1 - p)) is 76 and 57
    assert abs(count["test"] - 400) < 76 and abs(count["valid"] - 200) < 57
    assert all(a.split == b.split for a, b in zip(items[::2], items[1::2], strict=True))
    assert read_json(tmp_path, *rows[500:900], test_share=0.2, valid_share=0.1) == items[500:900]


def test_shares_beside_a_split_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a column 'split'"):
        read_csv(tmp_path, "id,text,split\na,x,\n", test_share=0.5)
    with pytest.raises(ValidationError, match="more than 1"):
        manifest.Config(root=tmp_path, test_share=0.6, valid_share=0.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\na,x\n", "line 1: the required column 'id' is missing.*there are: name, text"),
        ("id,topic\na,x\n", "line 1: at least one of the columns audio, image, text is required.*id, topic"),
        ("id,audo,text\na,x,y\n", "line 1: unknown column 'audo'; did you mean 'audio'"),
        ("id,text,x_note\na,x,y\n", "line 1: unknown column 'x_note'"),
        ("id,text,text\na,x,y\n", "line 1: a column stands there twice"),
        ("id,text,split\na,x,train\nb,x,tset\n", "line 3: unknown split 'tset'; did you mean 'test'"),
        ("id,text\na,x\nb,x\na,y\n", "line 4: duplicate id 'a', first at .*line 2"),
        ("id,text\n ,x\n", "line 2: empty id"),
        ("id,audio,text\na,a.wav,\n", "line 2: empty caption"),
        ("id,text,text_2\na,x,  \n", "line 2: empty caption"),
        ("id,audio,image\na,,\n", "line 2: the row has none of audio, image and text"),
        ("id,text\na,x,y\n", "line 2: 3 cells for 2 columns"),
        ("id,audio,image\na,a.wav\n", "line 2: 2 cells for 3 columns"),
        ('id,text\na,"x\n', "line 2: .*unexpected end"),
        ("id,audio,start\na,a.wav,soon\n", "line 2: start must be a number of seconds, not 'soon'"),
        ("id,audio,start\na,a.wav,-1\n", "line 2: start must be"),
        ("id,audio,seconds\na,a.wav,0\n", "line 2: seconds must be"),
        ("id,audio,seconds\na,a.wav,nan\n", "line 2: seconds must be"),
        ("id,audio,image,start\na,,b.png,1\n", "line 2: start and seconds cut a recording or a video"),
        ("id,video\na,../b.mp4\n", "line 2: video '../b.mp4' leads out of the data folder"),
        (b"id,text\na,x\nb,caf\xe9\n", "line 3: not UTF-8.*save the table as UTF-8"),
        ("id,text\n", "has no items"),
        ("", "has no items"),
    ],
)
def test_a_fault_in_a_csv_table_is_named_with_file_and_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_csv(tmp_path, text)
    assert str(tmp_path / "manifest.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "a", "text": ', "line 2: malformed JSON .*column"),
        ('["a", "x"]', "line 2: a line must be one JSON object"),
        ({"text": "x"}, "line 2: the required column 'id' is missing.*there are: text"),
        ({"id": "a", "caption": "x", "image": "b.png"}, "line 2: unknown column 'caption'"),
        ({"id": "a", "text": []}, "line 2: empty caption"),
        ({"id": "a", "text": ["x", ""]}, "line 2: empty caption"),
        ({"id": "a", "text": 3}, "line 2: text must be a caption or a list"),
        ({"id": ["a"], "text": "x"}, "line 2: id must be a text"),
        ({"id": "a", "text": "x", "labels": [1]}, "line 2: labels must be texts"),
        ({"id": "a", "audio": "a.wav", "start": [1]}, "line 2: start must be a number"),
        ({"id": "a", "audio": "a.wav", "start": 10**400}, "line 2: start must be a number"),
    ],
)
def test_a_fault_in_a_json_line_is_named_with_file_and_line(
    tmp_path: Path, row: dict[str, Any] | str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_json(tmp_path, {"id": "first", "text": "fine"}, row)
    assert str(tmp_path / "list.jsonl") in str(caught.value)


LEADING_OUT = ["../secret.wav", "in/../../secret.wav", "/etc/passwd", "link/secret.wav", "loop/a.wav", "a\0.wav"]


@pytest.mark.parametrize("path", LEADING_OUT)
def test_a_path_that_leaves_the_data_folder_is_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.wav").touch()
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    for key in ("audio", "image"):
        with pytest.raises(UserError, match=f"line 1: {key} .* leads out of the data folder"):
            read_json(root, {"id": "a", key: path})


def test_a_path_that_comes_back_into_the_data_folder_is_fine(tmp_path: Path) -> None:
    assert len(read_csv(tmp_path, "id,audio\na,b/../a.wav\n")) == 1


@pytest.mark.parametrize("file", ["nowhere.csv", "list.txt"])
def test_a_table_that_is_no_table_is_refused_by_name(tmp_path: Path, file: str) -> None:
    (tmp_path / "list.txt").touch()
    with pytest.raises(UserError, match=file):
        manifest.items(manifest.Config(root=tmp_path, file=Path(file)))


def test_a_data_folder_behind_a_link_is_as_good_as_any(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    items: Sequence[Item] = read_csv(tmp_path / "link", "id,audio\na,a.wav\n")
    assert items[0].sources["audio"] == AudioFile(tmp_path / "real" / "a.wav")
