"""The procedural data set: the same settings are the same bytes, and every attribute can be heard, seen and read."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from polymnia.config import parse_part
from polymnia.data.datasets import soundworld
from polymnia.data.synth import world
from polymnia.data.synth.scene import FAMILIES, combinations, vocabulary
from polymnia.types import AudioFile, Captions, ImageFile, Item, UserError

SMALL = {"combos": 5, "train": 2, "base": 1, "seconds": 0.5, "size": 32}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> soundworld.Config:
    cfg = soundworld.Config(root=tmp_path_factory.mktemp("small"), **SMALL)
    soundworld.items(cfg)
    return cfg


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> list[Item]:
    cfg = soundworld.Config(root=tmp_path_factory.mktemp("probed"), combos=48, train=3, valid=0, base=0)
    return soundworld.items(cfg)


def contents(root: Path) -> dict[str, bytes]:
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".lock"]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def label(item: Item, name: str) -> str:
    return next(tag.split(":")[1] for tag in item.labels if tag.startswith(name + ":"))


# --- the bytes on disk


def test_the_same_settings_give_the_same_bytes(small, tmp_path):
    soundworld.items(small.model_copy(update={"root": tmp_path}))
    mine, its = contents(tmp_path), contents(small.root)
    assert len(mine) == 1 + 2 * 4 * 5 * (2 + 1 + 1 + 1)
    assert mine == its


def test_another_seed_gives_another_folder_and_other_sounds_and_pictures(tmp_path):
    cfg = soundworld.Config(root=tmp_path, train=0, valid=0, base=0, combos=36, seconds=0.5, size=16)
    same = {i.id: i for i in soundworld.items(cfg)}
    other = [i for i in soundworld.items(cfg.model_copy(update={"seed": 1})) if i.id in same]
    assert len(list(tmp_path.glob("soundworld-*"))) == 2
    assert other  # the seed draws the combinations too: about 9 a domain are in both worlds
    for item in other:
        for kind in ("audio", "image"):
            assert item.sources[kind].path.read_bytes() != same[item.id].sources[kind].path.read_bytes()


def test_what_is_returned_does_not_change_where_it_lies(small):
    before = contents(small.root)
    for update in ({"domains": ("music",)}, {"part": "base"}, {"fraction": 0.4}):
        soundworld.items(small.model_copy(update=update))
    assert contents(small.root).keys() == before.keys()


def test_a_finished_world_is_not_written_again(small, monkeypatch):
    monkeypatch.setattr(world, "_write", lambda *_: pytest.fail("written again"))
    assert soundworld.items(small)


def test_an_interrupted_write_leaves_no_world_and_the_next_one_recovers(small, tmp_path, monkeypatch):
    cfg = small.model_copy(update={"root": tmp_path})
    render, calls = world._render, Counter()

    def stop_in_the_middle(*args):
        calls["n"] += 1
        if calls["n"] == 20:
            raise KeyboardInterrupt
        return render(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(world, "_render", stop_in_the_middle)
        soundworld.items(cfg)
    assert not list(tmp_path.glob("soundworld-*"))
    soundworld.items(cfg)
    assert contents(tmp_path) == contents(small.root)


def test_a_folder_without_its_index_is_made_anew(small, tmp_path):
    cfg = small.model_copy(update={"root": tmp_path})
    soundworld.items(cfg)
    target = next(tmp_path.glob("soundworld-*"))
    (target / "scenes.json").unlink()
    (target / "audio" / "stray.wav").write_bytes(b"half")
    soundworld.items(cfg)
    assert contents(tmp_path) == contents(small.root)


def test_of_two_writers_at_once_one_writes_and_both_read(small, tmp_path, monkeypatch):
    cfg = small.model_copy(update={"root": tmp_path})
    write, writes, together = world._write, Counter(), threading.Barrier(2)

    def counted(*args):
        writes["n"] += 1
        write(*args)

    def both(_):
        together.wait()
        return soundworld.items(cfg)

    monkeypatch.setattr(world, "_write", counted)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(both, range(2))
    assert writes["n"] == 1
    assert first == second


# --- the items


def test_files_are_mono_16_khz_wav_and_rgb_png_of_the_asked_sizes(small):
    for item in soundworld.items(small)[::7]:
        about = soundfile.info(item.sources["audio"].path)
        assert (about.samplerate, about.channels, about.frames, about.subtype) == (16000, 1, 8000, "PCM_16")
        with Image.open(item.sources["image"].path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (32, 32))
        assert len(item.sources["text"].texts) == 3


def test_sounds_are_audible_and_do_not_clip(probed):
    for item in probed[::5]:
        wave, _ = soundfile.read(item.sources["audio"].path)
        assert 0.05 < np.abs(wave).max() < 0.999, item.id


def test_counts_ids_groups_and_topics_follow_from_the_settings(small):
    found = soundworld.items(small)
    assert Counter(i.split for i in found) == {"train": 4 * 5 * 2, "valid": 4 * 5, "test": 4 * 5}
    assert Counter(i.topic for i in found) == dict.fromkeys(FAMILIES, 5 * 4)
    assert all(i.group == i.id for i in found)
    assert all(i.id.startswith(f"sw-{i.split}-{i.topic}-") for i in found)
    assert all(label(i, "family") in FAMILIES[i.topic] for i in found)
    assert [len(combinations(d)) for d in FAMILIES] == [144] * 4


def test_no_two_instances_share_a_sound_or_a_picture_over_all_pools(small):
    found = soundworld.items(small) + soundworld.items(small.model_copy(update={"part": "base"}))
    assert len({i.id for i in found}) == len(found) == 4 * 5 * 5
    for kind in ("audio", "image"):
        assert len({i.sources[kind].path.read_bytes() for i in found}) == len(found)


def test_the_base_part_is_train_only_and_apart_from_the_rest(small):
    base = soundworld.items(small.model_copy(update={"part": "base"}))
    assert {i.split for i in base} == {"train"}
    assert not {i.id for i in base} & {i.id for i in soundworld.items(small)}


def test_domains_choose_what_is_returned(small):
    chosen = soundworld.items(small.model_copy(update={"domains": ("music", "nature")}))
    everything = soundworld.items(small)
    assert chosen == [i for i in everything if i.topic in ("music", "nature")]


def test_a_fraction_keeps_whole_combinations_of_train_only_and_smaller_ones_are_nested(small):
    def combos(fraction: float, split: str) -> set[str]:
        found = soundworld.items(small.model_copy(update={"fraction": fraction}))
        return {i.id.split("-", 2)[2].rsplit("-", 1)[0] for i in found if i.split == split}

    assert combos(0.4, "train") < combos(0.8, "train") < combos(1.0, "train")
    assert [len(combos(f, "train")) for f in (0.4, 0.8, 1.0)] == [8, 16, 20]
    assert combos(0.4, "test") == combos(1.0, "test")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("domains", ["musik"], "no domain 'musik'; did you mean 'music'"),
        ("domains", [], "at least one domain"),
        ("domains", ["music", "music"], "each one once"),
        ("domain", ["music"], "unknown key 'domain'; did you mean 'domains'"),
        ("part", "test", "'train' or 'base'"),
        ("fraction", 0.0, "greater than 0"),
        ("mention", 1.5, "less than or equal to 1"),
        ("seconds", 0.1, "greater than or equal to 0.5"),
        ("combos", 145, "less than or equal to 144"),
        ("train", -1, "greater than or equal to 0"),
    ],
)
def test_bad_settings_are_refused_with_the_way_out(key, value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse_part("data.datasets", {"use": "soundworld", "root": str(tmp_path), key: value})


def test_a_base_part_without_instances_is_an_error(tmp_path):
    settings = {**SMALL, "combos": 1, "base": 0}
    with pytest.raises(UserError, match="part 'base'.* has no items"):
        soundworld.items(soundworld.Config(root=tmp_path, part="base", **settings))


# --- the captions


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


# --- the ceiling


def by_hand(home: Path, scenes: list[tuple[tuple[str, ...], list[tuple[str, ...]]]]) -> list[Item]:
    entries = [
        {"id": str(n), "captions": [{"text": " ".join(says), "says": says} for says in captions]}
        for n, (_, captions) in enumerate(scenes)
    ]
    (home / "scenes.json").write_text(json.dumps({"scenes": entries}))
    return [
        Item(str(n), {"audio": AudioFile(home / "audio" / f"{n}.wav")}, group=str(n), labels=labels)
        for n, (labels, _) in enumerate(scenes)
    ]


def test_the_ceiling_is_the_one_computed_by_hand(tmp_path):
    dog, cat, low, high = "family:dog", "family:cat", "pitch:low", "pitch:high"
    scenes = [
        ((dog, low), [(dog,), (dog, low)]),  # fit 2 and 1 of the three items
        ((dog, high), [(dog,), (dog,)]),  # fit 2 and 2
        ((cat, low), [(cat,), (cat, low)]),  # fit 1 and 1
    ]
    scores = world.ceiling(by_hand(tmp_path, scenes), (1, 2))
    assert scores["text>audio/R@1"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 2 + 1 / 2 + 1 + 1) / 6)
    assert scores["text>audio/R@2"] == 100
    # item 0: its unique caption is first; item 1: one of three tied captions is not its own; item 2: both are unique
    assert scores["audio>text/R@1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 3)
    assert scores["audio>text/R@2"] == 100
    assert {k.replace("image", "audio"): v for k, v in scores.items() if "image" in k}.items() <= scores.items()


def test_captions_that_say_everything_have_a_ceiling_of_a_hundred(tmp_path):
    tags = [(f"family:{f}", f"pitch:{p}") for f in "ab" for p in "cd"]
    assert set(world.ceiling(by_hand(tmp_path, [(t, [t]) for t in tags])).values()) == {100.0}


def test_indistinguishable_items_are_found_at_chance(tmp_path):
    same = [(("family:a",), [("family:a",)])] * 4
    scores = world.ceiling(by_hand(tmp_path, same), (1, 3))
    assert scores["text>audio/R@1"] == scores["audio>text/R@1"] == pytest.approx(25)
    assert scores["text>audio/R@3"] == scores["audio>text/R@3"] == pytest.approx(75)


def test_the_ceiling_of_other_data_is_refused(tmp_path):
    stranger = Item("x", {"audio": AudioFile(tmp_path / "audio" / "x.wav")}, group="x")
    with pytest.raises(UserError, match="not an item of soundworld"):
        world.ceiling([stranger])


# --- what can be heard and seen


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


def test_items_hold_the_three_kinds_of_sources(small):
    kinds = {name: type(source) for name, source in soundworld.items(small)[0].sources.items()}
    assert kinds == {"audio": AudioFile, "image": ImageFile, "text": Captions}
