"""Tiny copies of the sets that come as archives from Zenodo and the like, in exactly their official layouts."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

Settings = dict[str, Any]
TAU = "TAU-urban-acoustic-scenes-2019-development"


def sound(path: Path, rate: int = 8000, channels: int = 1, subtype: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((rate // 10, channels), dtype=np.float32), rate, subtype)


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def table(path: Path, rows: Iterable[Sequence[object]], delimiter: str = ",", encoding: str = "utf-8") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    write(path, text.getvalue(), encoding)


def esc50(folder: Path) -> Settings:
    rows = []
    for category, target, esc10 in (("water_drops", 18, False), ("dog", 0, True)):
        for fold in (1, 2, 3):
            name = f"{fold}-10{fold}{target}-A-{target}.wav"
            sound(folder / "audio" / name, 44100)
            rows.append((name, fold, target, category, esc10, f"10{fold}{target}", "A"))
    header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    table(folder / "meta/esc50.csv", [header, *rows])
    return {"root": folder, "valid_fold": 2}


def urbansound8k(folder: Path) -> Settings:
    """Slices of recording 100032 are all in fold 5, as the real one's are; formats differ."""
    header = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
    rows = [
        ("100032-3-0-0.wav", 100032, 0.0, 0.317551, 1, 5, 3, "dog_bark"),
        ("100263-2-0-117.wav", 100263, 58.5, 62.5, 1, 1, 2, "children_playing"),
        ("100648-1-0-0.wav", 100648, 4.823402, 5.471927, 2, 10, 1, "car_horn"),
    ]
    for name, rate, channels, subtype in zip(
        [row[0] for row in rows], (44100, 96000, 22050), (2, 2, 1), ("PCM_16", "PCM_24", "FLOAT"), strict=True
    ):
        fold = next(row[5] for row in rows if row[0] == name)
        sound(folder / f"audio/fold{fold}" / name, rate, channels, subtype)
    table(folder / "metadata/UrbanSound8K.csv", [header, *rows])
    return {"root": folder, "test_fold": 10}


def fsd50k(folder: Path) -> Settings:
    truth = folder / "FSD50K.ground_truth"
    mids = {"Bark": "/m/05tny_", "Dog": "/m/0bt9lr", "Rain": "/m/06mb1"}
    table(truth / "vocabulary.csv", [(n, label, mid) for n, (label, mid) in enumerate(mids.items())])
    dev = [("64760", "Dog,Bark", "train"), ("16399", "Rain", "val"), ("83299", "Rain", "train")]
    eval_ = [("37199", "Bark,Dog")]
    dev_rows = [(name, labels, ",".join(mids[one] for one in labels.split(",")), split) for name, labels, split in dev]
    table(truth / "dev.csv", [("fname", "labels", "mids", "split"), *dev_rows])
    eval_rows = [(name, labels, ",".join(mids[one] for one in labels.split(","))) for name, labels in eval_]
    table(truth / "eval.csv", [("fname", "labels", "mids"), *eval_rows])
    info = {
        "64760": clip_info(
            "Dog, barking.WAV", 'My dog.\r\n<a href="http://x.org">Recorded</a> &amp; cut, https://y.z/1'
        ),
        "16399": clip_info("rain", ""),
        "83299": clip_info("long rain", "<b></b>"),
        "37199": clip_info("bark", "Two barks ."),
    }
    for part, rows in (("dev", dev), ("eval", eval_)):
        for row in rows:
            sound(folder / f"FSD50K.{part}_audio" / f"{row[0]}.wav", 44100)
        told = {row[0]: info[row[0]] for row in rows}
        write(folder / f"FSD50K.metadata/{part}_clips_info_FSD50K.json", json.dumps(told))
    return {"root": folder}


def clip_info(title: str, description: str) -> dict[str, Any]:
    return {"title": title, "description": description, "tags": ["a"], "license": "CC0", "uploader": "someone"}


def clotho(folder: Path) -> Settings:
    return clotho_tree(folder, folder, folder)


def clotho_aac(folder: Path) -> Settings:
    """As aac-datasets leaves it: the root is its ``CLOTHO_v2.1``."""
    return clotho_tree(folder, folder / "clotho_csv_files", folder / "clotho_audio_files")


def clotho_tree(root: Path, tables: Path, audio: Path) -> Settings:
    names = {
        "development": {"Distorted AM Radio noise.wav": "83252", "#7 Caf\u00e9 (\u00e4).v2.wav": "Not found"},
        "validation": {"rain, heavy .wav": "12"},
        "evaluation": {"Santa Motor.wav": "9001"},
    }
    for part, clips in names.items():
        captions = [(name, *(f"Caption {n} of it ." for n in range(1, 6))) for name in clips]
        header = ("file_name", *(f"caption_{n}" for n in range(1, 6)))
        table(tables / f"clotho_captions_{part}.csv", [header, *captions])
        facts = [(name, "a;b", number, "https://x.org", "[1, 2]", "someone", "CC0") for name, number in clips.items()]
        columns = ("file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license")
        table(tables / f"clotho_metadata_{part}.csv", [columns, *facts], encoding="iso-8859-1")
        for name in clips:
            sound(audio / part / name, 44100)
    return {"root": root}


def macs(folder: Path) -> Settings:
    return macs_tree(folder, folder / TAU / "audio", folder / TAU / "meta.csv")


def macs_aac(folder: Path) -> Settings:
    return macs_tree(folder, folder / "audio", folder / "tau_meta/meta.csv")


def macs_tree(root: Path, audio: Path, meta: Path) -> Settings:
    files = ["airport-barcelona-0-0-a.wav", "airport-barcelona-0-1-a.wav", "park-lyon-9-1-a.wav"]
    lines = ["files:"]
    for n, name in enumerate(files):
        sound(audio / name, 48000, channels=2)
        lines += [f"- filename: {name}", "  annotations:"]
        for who in range(2 + n):
            lines += [f"  - annotator_id: {who}", f"    sentence: 'People talk {who} .'"]
            lines += ["    tags:", "    - adults_talking", f"    - tag_{who}"]
    write(root / "MACS.yaml", "\n".join(lines) + "\n")
    table(root / "MACS_competence.csv", [("annotator_id", "competence"), (0, 0.98)], "\t")
    rows = [
        (f"audio/{name}", name.split("-")[0], "-".join(name.split("-")[1:3]), "a")
        for name in [*files, "bus-oslo-1-1-a.wav"]  # TAU has clips that MACS has not
    ]
    table(meta, [("filename", "scene_label", "identifier", "source_label"), *rows], "\t")
    return {"root": root}


def bbc(folder: Path) -> Settings:
    clips = []
    for name in ("NHU05030045", "07066104"):
        sound(folder / f"Audio/BBC_Sound_Effects/{name}.flac", 32000)
        clips.append(
            {
                "description": "Water Buffalo - close-up",
                "category": "Nature",
                "caption": "A water buffalo is heard .",
                "id": name,
                "duration": 62.0,
                "audio": "wav_path",
                "download_link": f"https://sound-effects-media.bbcrewind.co.uk/zip/{name}.wav.zip",
            }
        )
    told = {"num_captions_per_audio": 1, "data": clips}
    write(folder / "json_files/BBC_Sound_Effects/bbc_final.json", json.dumps(told))
    return {"root": folder}


def sounddescs(folder: Path) -> Settings:
    """What the benchmark's repository and its download script leave."""
    texts = {"07066104": "Church bells .", "nhu05030045": "Water buffalo", "0009014": "Rain on a roof"}
    kinds = {"07066104": ["Bells", "Religion"], "nhu05030045": "Nature", "0009014": []}
    (folder / "sounddescs_data").mkdir(parents=True)
    for name, value in (("descriptions", texts), ("categories", kinds)):
        (folder / f"sounddescs_data/{name}.pkl").write_bytes(pickle.dumps(value, protocol=4))
    for part, name in (("train", "07066104"), ("val", "nhu05030045"), ("test", "0009014")):
        write(folder / f"data/SoundDescs/{part}_list.txt", f"{name}\n")
        sound(folder / f"audios/{name}/{name}.wav", 44100)
    return {"root": folder, "form": "sounddescs"}


def hear(folder: Path) -> Settings:
    hear_folds(folder / "esc50-v2.0.0-full")
    hear_splits(folder / "fsd50k-v1.0-full")
    return {"root": folder, "task": "esc50"}


def hear_folds(task: Path) -> None:
    meta = {
        "task_name": "esc50",
        "version": "v2.0.0",
        "mode": "full",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "presplit_kfold",
        "nfolds": 4,
        "splits": [f"fold{n:02d}" for n in range(4)],
        "sample_duration": 5,
        "evaluation": ["top1_acc"],
    }
    write(task / "task_metadata.json", json.dumps(meta))
    table(task / "labelvocabulary.csv", [("idx", "label"), (0, "rain"), (1, "airplane")])
    for n in range(4):
        clips = {f"{n}-10-A-1.wav": ["airplane"], f"{n}-11-B-0.wav": ["rain"]}
        write(task / f"fold{n:02d}.json", json.dumps(clips))
        for name in clips:
            sound(task / f"48000/fold{n:02d}" / name, 48000)


def hear_splits(task: Path) -> None:
    meta = {
        "task_name": "fsd50k",
        "embedding_type": "scene",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "splits": ["train", "valid", "test"],
        "sample_duration": None,
        "evaluation": ["mAP"],
    }
    write(task / "task_metadata.json", json.dumps(meta))
    table(task / "labelvocabulary.csv", [("idx", "label"), (0, "Bark"), (1, "Dog"), (2, "Rain")])
    for n, split in enumerate(("train", "valid", "test")):
        write(task / f"{split}.json", json.dumps({f"6476{n}.wav": ["Dog", "Bark"], f"1639{n}.wav": ["Rain"]}))
        for name in (f"6476{n}", f"1639{n}"):
            sound(task / f"48000/{split}/{name}.wav", 48000)


def webdataset(folder: Path) -> Settings:
    flac, picture = io.BytesIO(), io.BytesIO()
    soundfile.write(flac, np.zeros(800, dtype=np.float32), 8000, format="FLAC")
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    told = json.dumps({"text": ["a dog", "a dog barks"], "tag": ["dog"], "topic": "animals"}).encode()
    shard(folder / "train-000.tar", {"0.flac": flac.getvalue(), "0.json": told, "1.png": picture.getvalue()})
    shard(folder / "train-001.tar", {"0.flac": flac.getvalue(), "0.txt": b"rain\n", "0.cls": b"7"})
    shard(folder / "test-000.tar", {"a/b.v2.flac": flac.getvalue(), "a/b.v2.txt": "caf\u00e9".encode()})
    return {"root": folder, "shards": "train-{000..001}.tar", "test_shards": "test-*.tar"}


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


ARCHIVES: dict[str, Callable[[Path], Settings]] = {
    "bbc": bbc,
    "clotho": clotho,
    "esc50": esc50,
    "fsd50k": fsd50k,
    "hear": hear,
    "macs": macs,
    "urbansound8k": urbansound8k,
    "webdataset": webdataset,
}
