"""The media of a run: broken ones are counted and listed, crops stay inside, clips come whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from polymnia.data.augment import AugmentConfig, crop_start
from polymnia.data.collection import Collection, usable
from polymnia.types import AudioFile, AudioSpec, Captions, ImageFile, ImageSpec, Item, Source, TextSpec, UserError

RATE = 1000
SPEC = AudioSpec(RATE, seconds=0.1, max_seconds=0.3)  # crops of 100 samples, clips of at most 300
SPECS = {"audio": SPEC, "image": ImageSpec(8), "text": TextSpec(8)}
STEP = 1 / 32767  # of the store's int16


def sound(folder: Path, name: str, samples: np.ndarray, **cut: float) -> Item:
    soundfile.write(folder / f"{name}.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
    return Item(name, {"audio": AudioFile(folder / f"{name}.wav", **cut)}, name)


def ramp(count: int) -> np.ndarray:
    return np.arange(count) / 1000


def opened(folder: Path, *items: Item) -> Collection:
    return Collection.open(items, SPECS, folder / "cache")


def rng(n: int = 0) -> np.random.Generator:
    return np.random.default_rng(n)


# --- broken media


@pytest.fixture
def mixed(tmp_path: Path) -> list[Item]:
    good = sound(tmp_path, "good", ramp(200))
    (tmp_path / "empty.wav").touch()
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nnot much more")
    broken: dict[str, Source] = {
        "empty": AudioFile(tmp_path / "empty.wav"),
        "gone": AudioFile(tmp_path / "gone.wav"),
        "torn": ImageFile(tmp_path / "torn.png"),
        "blank": Captions(("fine", " ")),
        "mute": Captions(()),
    }
    kinds = {AudioFile: "audio", ImageFile: "image", Captions: "text"}
    return [good, *(Item(name, {kinds[type(s)]: s}, name) for name, s in broken.items())]


def test_broken_media_are_listed_with_file_and_reason_and_never_raised(mixed: list[Item], tmp_path: Path):
    failed = opened(tmp_path, *mixed).failed
    assert set(failed) == {"empty", "gone", "torn", "blank", "mute"}
    assert failed["empty"].endswith("empty.wav: is empty (0 bytes)") and "gone.wav: No such file" in failed["gone"]
    assert "torn.png: not a readable picture" in failed["torn"] and failed["blank"] == "an empty caption"


def test_an_item_with_one_broken_medium_is_broken(mixed: list[Item], tmp_path: Path):
    both = Item("both", {**mixed[0].sources, **mixed[3].sources}, "both")
    assert set(opened(tmp_path, both).failed) == {"both"}


def test_media_that_no_tower_reads_are_not_opened(mixed: list[Item], tmp_path: Path):
    blind = Collection.open(mixed, {"audio": SPEC}, tmp_path / "cache")
    assert "torn" not in blind.failed and not (tmp_path / "cache" / "images").exists()


@pytest.mark.parametrize(
    ("broken", "threshold", "refused"), [(1, 0.05, False), (2, 0.05, True), (2, 0.1, False), (1, 0.0, True)]
)
def test_more_broken_items_than_the_threshold_are_refused(broken: int, threshold: float, refused: bool):
    items = [Item(str(n), {}, "g") for n in range(20)]
    failed = {str(n): "is torn" for n in range(broken)}
    if refused:
        message = f"task 't', train: {broken} of 20 items are broken, more than max_broken={threshold:.0%}.*0: is torn"
        with pytest.raises(UserError, match=message):
            usable(items, failed, threshold, "task 't', train")
    else:
        assert usable(items, failed, threshold, "x") == tuple(items[broken:])


def test_no_more_than_five_broken_items_are_told():
    items = [Item(f"<{n}>", {}, "g") for n in range(9)]
    with pytest.raises(UserError) as caught:
        usable(items, {i.id: "torn" for i in items}, 0.5, "x")
    assert sum(f"<{n}>" in str(caught.value) for n in range(9)) == 5 and "9 of 9" in str(caught.value)


def test_no_items_are_no_broken_items():
    assert usable([], {}, 0.0, "x") == ()


# --- crops for training


def test_crop_starts_lie_inside_and_reach_both_ends():
    starts = [s for n in range(400) for s in crop_start(110, 100, rng(n))]
    assert set(starts) == set(range(11))  # the last one leaves exactly a window
    assert crop_start(110, 100, None) == [5] and crop_start(100, 100, rng()) == crop_start(60, 100, rng()) == [0]


def test_a_random_crop_is_a_stretch_of_the_clip_and_stays_inside(tmp_path: Path):
    item = sound(tmp_path, "a", ramp(130))
    held = opened(tmp_path, item)
    starts = set()
    for n in range(200):
        crop = held.train_raw(item, "audio", AugmentConfig(), rng(n))[0]
        start = round(float(crop[0]) * 1000)
        assert crop.shape == (100,) and np.abs(crop - ramp(130)[start : start + 100]).max() < STEP
        starts.add(start)
    assert starts == set(range(31))


def test_the_loudest_of_the_windows_that_random_would_compare_is_taken(tmp_path: Path):
    x = np.zeros(1000)
    x[700:] = 0.5
    item = sound(tmp_path, "a", x)
    held = opened(tmp_path, item)
    for n in range(50):
        crop = held.train_raw(item, "audio", AugmentConfig(crop="loudest"), rng(n))[0]
        starts = crop_start(1000, 100, rng(n))  # the same draw: three windows
        assert len(starts) == 3
        energy = max(sum(x[s : s + 100] ** 2) for s in starts)
        assert float(np.dot(crop, crop)) == pytest.approx(energy, abs=1e-2)


def test_without_chance_the_crop_is_centred_and_as_it_is(tmp_path: Path):
    item = sound(tmp_path, "a", ramp(301))
    crop = opened(tmp_path, item).train_raw(item, "audio", AugmentConfig(gain_db=20), None)[0]
    assert np.abs(crop - ramp(301)[100:200]).max() < STEP


def test_a_short_clip_is_zero_padded_behind(tmp_path: Path):
    item = sound(tmp_path, "a", ramp(60) + 0.1)
    held = opened(tmp_path, item)
    for crop in (held.train_raw(item, "audio", AugmentConfig(crop="loudest"), rng())[0], held.clip(item)):
        assert crop.shape == (100,) and not crop[60:].any() and crop[:60].all()


def test_a_gain_is_drawn_within_its_decibels_and_clipped_to_full_scale(tmp_path: Path):
    quiet, loud = sound(tmp_path, "quiet", np.full(100, 0.1)), sound(tmp_path, "loud", np.full(100, 0.9))
    held = opened(tmp_path, quiet, loud)
    cfg = AugmentConfig(gain_db=6)
    db = [20 * np.log10(held.train_raw(quiet, "audio", cfg, rng(n))[0][0] / 0.1) for n in range(300)]
    assert -6.01 < min(db) < -5.7 and 5.7 < max(db) < 6.01
    assert max(held.train_raw(loud, "audio", cfg, rng(n))[0].max() for n in range(50)) == 1.0


# --- clips for evaluation


def test_a_clip_is_whole_up_to_the_longest_and_then_its_middle(tmp_path: Path):
    short, long = sound(tmp_path, "short", ramp(250)), sound(tmp_path, "long", ramp(501))
    held = opened(tmp_path, short, long)
    assert np.abs(held.clip(short) - ramp(250)).max() < STEP
    assert np.abs(held.clip(long) - ramp(501)[100:400]).max() < STEP


def test_the_length_of_a_clip_is_known_without_reading_it(tmp_path: Path):
    items = [sound(tmp_path, str(n), ramp(n)) for n in (30, 100, 250, 300, 501)]
    held = opened(tmp_path, *items)
    assert [held.clip_length(i) for i in items] == [len(held.clip(i)) for i in items] == [100, 100, 250, 300, 300]


def test_a_stretch_of_a_recording_is_an_item_of_its_own(tmp_path: Path):
    item = sound(tmp_path, "a", ramp(600), start=0.2, seconds=0.15)
    held = opened(tmp_path, item)
    assert np.abs(held.clip(item) - ramp(600)[200:350]).max() < STEP


def test_a_picture_is_as_the_tower_eats_it(tmp_path: Path):
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "a.png")
    item = Item("a", {"image": ImageFile(tmp_path / "a.png")}, "a")
    picture = opened(tmp_path, item).picture(item)
    assert picture.shape == (3, 8, 8) and picture[:, 0, 0].tolist() == [1, 2, 3] and picture.dtype == np.uint8


def test_what_an_item_does_not_have_is_refused_by_name(tmp_path: Path):
    item = Item("a", {"text": Captions(("x",))}, "a")
    other = sound(tmp_path, "b", ramp(100))
    held = opened(tmp_path, item)
    with pytest.raises(UserError, match="item 'a' has no picture here"):
        held.picture(item)
    with pytest.raises(UserError, match="item 'b' has no sound here"):
        held.clip(other)
    with pytest.raises(UserError, match="item 'b' has no text"):
        held.captions(other)
