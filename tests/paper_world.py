"""A folder with every set that the recipes of a paper read, in the official layouts: some clips of half a second each,
and an encoder of PANNs' kind in its published layout. What it holds is noise: nothing can be learned from it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16000
CLASSES = ("dog", "rain", "car_horn")


class World:
    """Writes the sets under ``root``."""

    def __init__(self, root: Path):
        self.root, self.rng = root, np.random.default_rng(0)

    def youtube(self, kind: str, n: int) -> str:
        return f"-{kind[:4]:_<4}{n:06d}"  # eleven characters; real ids begin with '-' too

    def sentences(self, count: int) -> list[str]:
        """Captions that differ in words of letters: a tokenizer need not know anything else."""
        words = ("dog", "rain", "car", "wind", "bell", "door", "bird", "train", "sea", "crowd", "drum", "saw")
        return [" ".join(self.rng.choice(words, 4)) for _ in range(count)]

    def sound(self, place: str, rate: int = RATE) -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, self.rng.normal(0, 0.1, int(0.5 * rate)).clip(-1, 1).astype(np.float32), rate)

    def film(self, place: str, pictures: bool = True, sound: bool = True) -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as box:
            if pictures:
                picture = box.add_stream("mpeg4", rate=4)
                picture.width, picture.height, picture.pix_fmt = 32, 24, "yuv420p"
            if sound:
                voice = box.add_stream("aac", rate=RATE)
            for n in range(2 * pictures):
                pixels = self.rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = n, Fraction(1, 4)
                box.mux(picture.encode(frame))
            wave = self.rng.normal(0, 0.1, (1, RATE // 2 * sound)).astype(np.float32)
            for start in range(0, wave.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(wave[:, start : start + 1024]), format="fltp", layout="mono"
                )
                part.sample_rate, part.pts = RATE, start
                box.mux(voice.encode(part))
            box.mux([*(picture.encode() if pictures else ()), *(voice.encode() if sound else ())])

    def text(self, place: str, text: str) -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def table(self, place: str, rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter=delimiter).writerows(rows)

    def everything(self) -> World:
        for make in (
            *(self.vggsound, self.clotho, self.fsd50k, self.audiocaps, self.macs, self.wavcaps, self.ave),
            *(self.esc50, self.urbansound8k, self.audioset, self.hear),
        ):
            make()
        return self

    def vggsound(self) -> None:
        rows = [(self.youtube("vgg", n), 10 * n, f"playing {CLASSES[n % 3]}, loud", "train") for n in range(10)]
        rows += [(self.youtube("vgg", n), 10 * n, "playing bongo", "test") for n in range(10, 14)]
        self.table("VGGSound/vggsound.csv", rows)
        for name, start, *_ in rows:
            self.film(f"VGGSound/video/{name}_{start:06d}.mp4")

    def clotho(self) -> None:
        for number, (part, count) in enumerate((("development", 6), ("validation", 3), ("evaluation", 4))):
            names = [f"{part} clip #{n}.wav" for n in range(count)]
            captions = [(name, *self.sentences(5)) for name in names]
            header = ("file_name", *(f"caption_{n}" for n in range(1, 6)))
            self.table(f"CLOTHO_v2.1/clotho_captions_{part}.csv", [header, *captions])
            facts = [(name, "a;b", 5000 + 100 * number + n, "", "[]", "x", "CC0") for n, name in enumerate(names)]
            columns = (
                "file_name",
                "keywords",
                "sound_id",
                "sound_link",
                "start_end_samples",
                "manufacturer",
                "license",
            )
            self.table(f"CLOTHO_v2.1/clotho_metadata_{part}.csv", [columns, *facts])
            for name in names:
                self.sound(f"CLOTHO_v2.1/{part}/{name}", 44100)

    def fsd50k(self) -> None:
        mids = {"Bark": "/m/05tny_", "Dog": "/m/0bt9lr", "Rain": "/m/06mb1"}
        truth = "FSD50K/FSD50K.ground_truth"
        self.table(f"{truth}/vocabulary.csv", [(n, label, mid) for n, (label, mid) in enumerate(mids.items())])
        of = [("Bark,Dog", "Rain", "Dog")[n % 3] for n in range(15)]
        rows = [(7000 + n, of[n], ",".join(mids[one] for one in of[n].split(","))) for n in range(15)]
        dev = [(*row, "train" if n < 6 else "val") for n, row in enumerate(rows[:9])]
        self.table(f"{truth}/dev.csv", [("fname", "labels", "mids", "split"), *dev])
        self.table(f"{truth}/eval.csv", [("fname", "labels", "mids"), *rows[9:]])
        for part, some in (("dev", rows[:9]), ("eval", rows[9:])):
            told = {str(r[0]): {"title": f"{r[1]} {r[0]}", "description": "<b>near</b> me"} for r in some}
            self.text(f"FSD50K/FSD50K.metadata/{part}_clips_info_FSD50K.json", json.dumps(told))
            for row in some:
                self.sound(f"FSD50K/FSD50K.{part}_audio/{row[0]}.wav", 44100)

    def audiocaps(self) -> None:
        for number, (name, clips, captions) in enumerate((("train", 5, 1), ("val", 2, 5), ("test", 3, 5))):
            rows: list[Sequence[object]] = [("audiocap_id", "youtube_id", "start_time", "caption")]
            for n in range(clips):
                video = self.youtube("caps", 100 * number + n)
                told = enumerate(self.sentences(captions))
                rows += [(1000 * number + 10 * n + c, video, 30, sentence) for c, sentence in told]
                self.sound(f"AUDIOCAPS/audio/Y{video}.wav", 32000)
            self.table(f"AUDIOCAPS/dataset/{name}.csv", rows)

    def macs(self) -> None:
        names = [f"airport-{city}-0-0-a.wav" for city in ("oslo", "lyon", "prague", "milan", "paris", "vienna")]
        told = "files:\n"
        for name in names:
            self.sound(f"MACS/audio/{name}", 48000)
            told += f"- filename: {name}\n  annotations:\n"
            told += "".join(
                f"  - annotator_id: {n}\n    sentence: people talk {n}\n    tags: [talk]\n" for n in range(2)
            )
        self.text("MACS/MACS.yaml", told)
        rows = [(f"audio/{name}", "airport", "-".join(name.split("-")[1:3]), "a") for name in names]
        header = ("filename", "scene_label", "identifier", "source_label")
        self.table("MACS/tau_meta/meta.csv", [header, *rows], "\t")

    def wavcaps(self) -> None:
        videos = [self.youtube("wcap", n) for n in range(24)]
        said = dict(zip(videos, self.sentences(len(videos)), strict=True))
        told = [{"id": f"Y{v}.wav", "caption": said[v], "audio": "wav_path", "duration": 0.5} for v in videos]
        place = "WavCaps/json_files/AudioSet_SL/as_final.json"
        self.text(place, json.dumps({"num_captions_per_audio": 1, "data": told}))
        for name in ("exclude_all_ac", "exclude_ubs8k_esc50_vggsound"):
            listed = json.dumps({"AudioSet": [f"Y{videos[0]}.wav"], "FreeSound": []})
            self.text(f"WavCaps/json_files/blacklist/blacklist_{name}.json", listed)
        for video in videos:
            self.sound(f"WavCaps/Audio/AudioSet_SL/Y{video}.flac", 32000)
            self.film(f"WavCaps/Video/AudioSet_SL/Y{video}.mp4")

    def ave(self) -> None:
        at = 0
        for name, count in (("trainSet", 4), ("valSet", 2), ("testSet", 3)):
            videos = [self.youtube("ave", at + n) for n in range(count)]
            at += count
            self.text(f"AVE_Dataset/{name}.txt", "".join(f"Church bell&{v}&good&0&10\n" for v in videos))
            for video in videos:
                self.film(f"AVE_Dataset/AVE/{video}.mp4")

    def esc50(self) -> None:
        rows: list[Sequence[object]] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
        for fold in range(1, 6):
            for target, category in enumerate(CLASSES):
                name = f"{fold}-{fold}{target}-A-{target}.wav"
                rows.append((name, fold, target, category, True, f"{fold}{target}", "A"))
                self.sound(f"ESC-50-master/audio/{name}", 44100)
        self.table("ESC-50-master/meta/esc50.csv", rows)

    def urbansound8k(self) -> None:
        header = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
        rows: list[Sequence[object]] = [header]
        for fold in range(1, 11):
            for target, category in enumerate(CLASSES[:2]):
                name = f"{9000 + 10 * fold + target}-{target}-0-0.wav"
                rows.append((name, 9000 + 10 * fold + target, 0, 1, 1, fold, target, category))
                self.sound(f"UrbanSound8K/audio/fold{fold}/{name}", 22050)
        self.table("UrbanSound8K/metadata/UrbanSound8K.csv", rows)

    def audioset(self) -> None:
        labels = "index,mid,display_name\n" + "".join(f'{n},/m/0{n},"{c}, loud"\n' for n, c in enumerate(CLASSES))
        self.text("AudioSet/metadata/class_labels_indices.csv", labels)
        for part, count in (("balanced_train", 30), ("eval", 6)):
            names = [self.youtube(part[:3] + "s", n) for n in range(count)]
            lines = [f'{name}, 30.000, 40.000, "/m/0{n % 3},/m/0{(n + 1) % 3}"\n' for n, name in enumerate(names)]
            comment = "# Segments csv\n# num_ytids\n# YTID, start_seconds, end_seconds, positive_labels\n"
            self.text(f"AudioSet/metadata/{part}_segments.csv", comment + "".join(lines))
            for name in names:
                self.sound(f"AudioSet/audios/{part}_segments/Y{name}.wav", 32000)

    def hear(self) -> None:
        for task, folds in (("gunshot_triangulation", 3), ("tfds_gtzan_music_speech", 3), ("tfds_crema_d", 3)):
            folder = f"tasks/{task}-v1.0-full"
            meta = {"task_name": task, "embedding_type": "scene", "prediction_type": "multiclass", "nfolds": folds}
            meta |= {"split_mode": "new_split_kfold", "splits": [f"fold{n:02d}" for n in range(folds)]}
            meta |= {"sample_duration": 0.5, "evaluation": ["top1_acc"], "version": "v1.0", "mode": "full"}
            self.text(f"{folder}/task_metadata.json", json.dumps(meta))
            self.table(f"{folder}/labelvocabulary.csv", [("idx", "label"), (0, "near"), (1, "far")])
            for n in range(folds):
                clips = {f"{n}-{c}.wav": [("near", "far")[c % 2]] for c in range(4)}
                self.text(f"{folder}/fold{n:02d}.json", json.dumps(clips))
                for name in clips:
                    self.sound(f"{folder}/32000/fold{n:02d}/{name}", 32000)
