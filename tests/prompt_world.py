"""A folder with every set that the recipes of the prompt papers read, in the official layouts (see paper_world)."""

from __future__ import annotations

import json
from typing import Any

from conformance.picture_miniatures import CATEGORIES, Scene, coco_split
from paper_world import World

FORGOTTEN = 202  # of AudioCaps' test clips


class PromptWorld(World):
    """Writes the sets under ``root``."""

    def tail(self) -> PromptWorld:
        """AudioCaps, Clotho, and of WavCaps AudioSet's part and BBC's."""
        for make in (self.audiocaps, self.clotho, self.wavcaps, self.bbc):
            make()
        return self

    def wavcaps(self) -> None:
        """With two clips of AudioCaps in AudioSet's part: one that the blacklist knows, and one that it forgot."""
        super().wavcaps()
        known, forgotten = self.youtube("caps", 0), self.youtube("caps", FORGOTTEN)
        self.add(
            "WavCaps/json_files/AudioSet_SL/as_final.json",
            "data",
            [{"id": f"Y{v}.wav", "caption": "a dog", "duration": 0.5} for v in (known, forgotten)],
        )
        self.add("WavCaps/json_files/blacklist/blacklist_exclude_all_ac.json", "AudioSet", [f"Y{known}.wav"])
        for video in (known, forgotten):
            self.sound(f"WavCaps/Audio/AudioSet_SL/Y{video}.flac", 32000)

    def add(self, place: str, key: str, more: list[Any]) -> None:
        told = json.loads((self.root / place).read_text())
        self.text(place, json.dumps({**told, key: [*told[key], *more]}))

    def bbc(self) -> None:
        ids = [f"NHU{n:08d}" for n in range(20)]
        said = zip(ids, self.sentences(len(ids)), strict=True)
        told = [{"id": i, "caption": text, "category": "Nature", "duration": 0.5} for i, text in said]
        place = "WavCaps/json_files/BBC_Sound_Effects/bbc_final.json"
        self.text(place, json.dumps({"num_captions_per_audio": 1, "data": told}))
        for name in ids:
            self.sound(f"WavCaps/Audio/BBC_Sound_Effects/{name}.flac", 32000)

    def coco(self) -> PromptWorld:
        """Three images for training and two for testing of each supercategory, and one without objects."""
        first = {above: number for number, (above, _) in reversed(CATEGORIES.items())}  # its lowest category
        for split, count, start in (("train2014", 3, 100), ("val2014", 2, 500)):
            scenes: dict[int, Scene] = {start: (self.sentences(5), [])}
            for category in first.values():
                for _ in range(count):
                    scenes[start + len(scenes)] = (self.sentences(5), [(category, 10.0, False)])
            coco_split(self.root / "coco", split, scenes, (24, 20))
        return self
