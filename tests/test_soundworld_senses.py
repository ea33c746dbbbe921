"""The procedural data set: every attribute can be heard, seen and read."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from polymnia.data.datasets import soundworld
from polymnia.data.synth.scene import FAMILIES, vocabulary
from polymnia.types import Item


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> list[Item]:
    cfg = soundworld.Config(root=tmp_path_factory.mktemp("probed"), combos=48, train=3, valid=0, base=0)
    return soundworld.items(cfg)


def label(item: Item, name: str) -> str:
    return next(tag.split(":")[1] for tag in item.labels if tag.startswith(name + ":"))


def test_every_caption_names_its_family_and_no_other(probed):
    nouns = {family: names for families in FAMILIES.values() for family, names in families.items()}
    for item in probed:
        for text in item.sources["text"].texts:
            padded = f" {text.replace(',', '')} "
            named = {family for family, names in nouns.items() for name in names if f" {name} " in padded}
            assert named == {label(item, "family")}, text


def test_captions_are_clean_english_in_the_known_vocabulary(probed):
    known = set(vocabulary())
    texts = [text for item in probed for text in item.sources["text"].texts]
    for text in texts:
        words = text.replace(",", "").split(" ")
        assert set(words) <= known, text
        assert text == text.strip(" ,")
        for word, following in zip(words, words[1:], strict=False):
            if word in ("a", "an"):
                assert (word == "an") == (following[0] in "aeiou"), text
    assert len(set(texts)) > 0.9 * len(texts)


def test_attributes_are_mentioned_as_often_as_asked_and_only_true_ones(probed):
    index = json.loads((probed[0].sources["audio"].path.parents[1] / "scenes.json").read_text())
    said = Counter()
    for scene in index["scenes"]:
        for caption in scene["captions"]:
            assert set(caption["says"]) <= set(scene["labels"])
            said.update(tag.split(":")[0] for tag in caption["says"])
    total = sum(len(scene["captions"]) for scene in index["scenes"])
    assert said["family"] == total
    for name in ("pitch", "tempo", "envelope", "background"):  # 2304 captions: the standard error is .0074
        assert said[name] / total == pytest.approx(0.85, abs=0.03)


def test_without_mentions_a_caption_is_the_family_alone(tmp_path):
    cfg = soundworld.Config(root=tmp_path, combos=2, train=1, valid=0, test=0, base=0, seconds=0.5, mention=0.0)
    for item in soundworld.items(cfg):
        for text in item.sources["text"].texts:
            for frame in ("the sound of ", "a recording of ", "an ", "a "):
                text = text.removeprefix(frame)
            assert text in FAMILIES[item.topic][label(item, "family")]


def test_sounds_are_audible_and_do_not_clip(probed):
    for item in probed[::5]:
        wave, _ = soundfile.read(item.sources["audio"].path)
        assert 0.05 < np.abs(wave).max() < 0.999, item.id


def heard(item: Item) -> np.ndarray:
    """Log energies of 32 bands: mean, spread and change over time, and mean and peak of each third of the clip."""
    wave, _ = soundfile.read(item.sources["audio"].path)
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::320] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames))[:, 1:] ** 2
    edges = np.unique(np.geomspace(2, 256, 33).round().astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1] - 1, axis=1) + 1e-5)
    thirds = np.array_split(bands, 3)
    change = np.abs(np.diff(bands, axis=0)).mean(0)
    loud = bands.mean(1) - bands.mean()
    rhythm = np.abs(np.fft.rfft(loud * np.hanning(len(loud)), 128))[:24]
    ends = [part for third in thirds for part in (third.mean(0), third.max(0))]
    return np.concatenate([bands.mean(0), bands.std(0), change, rhythm, *ends])


def seen(item: Item) -> np.ndarray:
    """The picture at a third of its size, and how rough it is."""
    with Image.open(item.sources["image"].path) as picture:
        pixels = np.asarray(picture, np.float64) / 255
    blocks = pixels.reshape(16, 3, 16, 3, 3)
    return np.append(blocks.mean((1, 3)).ravel(), np.quantile(blocks.std((1, 3)), [0.1, 0.25, 0.5]))


@pytest.mark.parametrize(
    ("sense", "least"),
    [
        (heard, {"family": 0.9, "pitch": 0.7, "tempo": 0.85, "envelope": 0.9, "background": 0.9}),
        (seen, {"family": 0.85, "pitch": 0.95, "tempo": 0.95, "envelope": 0.95, "background": 0.9}),
    ],
)
def test_a_linear_probe_reads_every_attribute(sense, least, probed):
    train = [i for i in probed if i.split == "train"]
    test = [i for i in probed if i.split == "test"]
    x, y = np.stack([sense(i) for i in train]), np.stack([sense(i) for i in test])
    for name, bound in least.items():
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=400))
        probe.fit(x, [label(i, name) for i in train])
        score = probe.score(y, [label(i, name) for i in test])
        assert score >= bound, f"{name}: {score:.2f}"


def test_the_level_of_a_sound_follows_its_envelope_by_more_than_ten_decibels(probed):
    drop = {"steady": [], "rising": [], "fading": []}
    for item in probed:
        if label(item, "background") == "clean":
            wave, _ = soundfile.read(item.sources["audio"].path)
            first, last = (np.sqrt(np.mean(part**2)) for part in (wave[: len(wave) // 3], wave[-len(wave) // 3 :]))
            drop[label(item, "envelope")].append(20 * np.log10(last / first))
    assert np.median(drop["rising"]) > 10
    assert np.median(drop["fading"]) < -10
    assert abs(np.median(drop["steady"])) < 3
