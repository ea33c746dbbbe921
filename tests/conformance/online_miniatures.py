"""Tiny copies of the sets whose clips come from video and sound sites, in exactly their official layouts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

Settings = dict[str, Any]
VIDEOS = ("--PJHxphWEs", "_0123456789", "Yabcdefghij", "0O-o_1l-I_l", "RUhOCu3LNXM", "-en7GAdXAQk")


def sound(path: Path, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(rate // 10, dtype=np.float32), rate)


def film(path: Path) -> None:
    """Two grey pictures and a tenth of a second of silence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as box:
        picture = box.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 16
        picture.pix_fmt = "yuv420p"
        voice = box.add_stream("aac", rate=8000)
        for n in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 128, np.uint8), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 10)
            box.mux(picture.encode(frame))
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        wave.sample_rate = 8000
        box.mux([*picture.encode(), *voice.encode(wave), *voice.encode()])


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def audioset(folder: Path) -> Settings:
    """The layout of PANNs: labels, three lines of comment, ids that begin with - and _, a folder for each part."""
    write(
        folder / "metadata/class_labels_indices.csv",
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/t/dd00088,"Gush"\n2,/m/07qrkrw,"Meow"\n'
        '3,/m/05zppz,"Male speech, man speaking"\n',
    )
    comment = (
        "# Segments csv created Sun Mar  5 10:54:25 2017\n# num_ytids=2, num_segs=2, num_unique_labels=4\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    parts = {
        "balanced_train": f'{VIDEOS[0]}, 30.000, 40.000, "/t/dd00088,/m/09x0r"\n'
        f'{VIDEOS[1]}, 0.000, 10.000, "/m/05zppz"\n',
        "eval": f'{VIDEOS[2]}, 5.000, 15.000, "/m/07qrkrw"\n',
        "unbalanced_train": f'{VIDEOS[3]}, 70.000, 80.000, "/m/09x0r"\n',
    }
    for part, rows in parts.items():
        write(folder / f"metadata/{part}_segments.csv", comment + rows)
    audios = folder / "audios"
    for n, place in enumerate(("balanced_train_segments", "balanced_train_segments", "eval_segments")):
        sound(audios / place / f"Y{VIDEOS[n]}.wav", 32000)
    sound(audios / "unbalanced_train_segments/unbalanced_train_segments_part07" / f"Y{VIDEOS[3]}.wav", 32000)
    return {"root": folder, "splits": {"balanced_train": "train", "eval": "test", "unbalanced_train": "valid"}}


def vggsound(folder: Path) -> Settings:
    write(
        folder / "vggsound.csv",
        f'{VIDEOS[0]},1,people marching,train\n{VIDEOS[1]},300,"male speech, man speaking",train\n'
        f"{VIDEOS[2]},30,playing hammond organ,test\n",
    )
    for stem in (f"{VIDEOS[0]}_000001", f"{VIDEOS[1]}_000300", f"{VIDEOS[2]}_000030"):
        film(folder / "video" / f"{stem}.mp4")
    return {"root": folder, "valid": 1, "templates": ("the sound of {}",)}


def audiocaps(folder: Path) -> Settings:
    """The tables of the repository, one caption for training and five for testing; clips as of aac-datasets."""
    rows: dict[str, list[Sequence[object]]] = {
        "train": [(91139, VIDEOS[0], 130, "A woman talks nearby , as water pours")],
        "val": [(97151 + n, VIDEOS[1], 14, f"Rain falls, version {n}") for n in range(5)],
        "test": [(103549 + n, VIDEOS[2], 80, f"Constant rattling noise {n}") for n in range(5)],
    }
    for name, lines in rows.items():
        table(folder / f"dataset/{name}.csv", [("audiocap_id", "youtube_id", "start_time", "caption"), *lines])
        sound(folder / f"audio_32000Hz/{name}/{lines[0][1]}_{lines[0][2]}.flac", 32000)
    return {"root": folder}


def table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def ave(folder: Path) -> Settings:
    """Annotations with a header, lists without; a video that is for training twice and for testing too."""
    header = "Category&VideoID&Quality&StartTime&EndTime"
    lists = {
        "trainSet.txt": [
            f"Church bell&{VIDEOS[4]}&good&0&10",
            f"Male speech, man speaking&{VIDEOS[5]}&good&0&8",
            f"Bark&{VIDEOS[5]}&good&2&4",
            f"Church bell&{VIDEOS[3]}&good&0&0",
        ],
        "valSet.txt": [f"Frying (food)&{VIDEOS[0]}&good&3&9"],
        "testSet.txt": [f"Church bell&{VIDEOS[1]}&good&0&10", f"Bark&{VIDEOS[4]}&good&5&10"],
    }
    for name, lines in lists.items():
        write(folder / name, "\n".join(lines) + "\n")
    write(folder / "Annotations.txt", "\n".join([header, *(line for lines in lists.values() for line in lines)]))
    for video in (VIDEOS[0], VIDEOS[1], VIDEOS[3], VIDEOS[4], VIDEOS[5]):
        film(folder / "AVE" / f"{video}.mp4")
    return {"root": folder}


def wavcaps(folder: Path) -> Settings:
    entries: dict[str, list[dict[str, Any]]] = {
        "AudioSet_SL/as_final.json": [
            {"id": f"Y{video}.wav", "caption": f"A dog barks at video {n} .", "audio": "wav_path", "duration": 10.0}
            for n, video in enumerate(VIDEOS[:3])
        ],
        "BBC_Sound_Effects/bbc_final.json": [
            {"description": "Rain.", "category": "Nature", "caption": "Rain is falling.", "id": "NHU05030045"}
        ],
        "FreeSound/fsd_final.json": [
            {"id": name, "file_name": "a.wav", "href": "/people/a", "tags": ["a"], "description": "a", "author": "a"}
            | {
                "duration": seconds,
                "download_link": "https://a",
                "caption": "Someone is walking.",
                "audio": "wav_path",
            }
            for name, seconds in (("180913", 1.5), ("2216", 4000.0))
        ],
        "SoundBible/sb_final.json": [
            {"title": "Bell", "description": "A bell.", "author": "a", "href": "/2216-bell.html", "id": "2216"}
            | {"caption": "A bell is ringing.", "duration": 3.1, "audio": "wav_path", "download_link": "https://a"}
        ],
    }
    for place, data in entries.items():
        for entry in data:
            entry.setdefault("duration", 12.5)
            sound(folder / "Audio" / place.partition("/")[0] / f"{entry['id'].removesuffix('.wav')}.flac", 32000)
        write(folder / "json_files" / place, json.dumps({"num_captions_per_audio": 1, "data": data}))
    blacklists = folder / "json_files" / "blacklist"
    write(
        blacklists / "blacklist_exclude_all_ac.json", json.dumps({"AudioSet": [f"Y{VIDEOS[0]}.wav"], "FreeSound": []})
    )
    write(
        blacklists / "blacklist_exclude_ubs8k_esc50_vggsound.json",
        json.dumps({"AudioSet": [f"Y{VIDEOS[1]}.wav"], "FreeSound": ["2216"]}),
    )
    return {"root": folder}


def speech_commands(folder: Path) -> Settings:
    clips = ("yes/0a7c2a8d_nohash_0", "yes/0a7c2a8d_nohash_1", "yes/1b4c9b89_nohash_0", "bed/0a7c2a8d_nohash_0")
    for place in (*clips, "bed/2aca1e72_nohash_4", "_background_noise_/running_tap"):
        sound(folder / f"{place}.wav", 16000)
    write(folder / "validation_list.txt", "yes/1b4c9b89_nohash_0.wav\n")
    write(folder / "testing_list.txt", "bed/2aca1e72_nohash_4.wav\n")
    write(folder / "README.md", "Speech Commands Data Set v0.02\n")
    return {"root": folder}


ONLINE: dict[str, Callable[[Path], Settings]] = {
    "audiocaps": audiocaps,
    "audioset": audioset,
    "ave": ave,
    "speech_commands": speech_commands,
    "vggsound": vggsound,
    "wavcaps": wavcaps,
}
