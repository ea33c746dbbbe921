"""The procedural data set: the same settings are the same bytes, and its items follow from them."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from polymnia.config import parse_part
from polymnia.data.datasets import soundworld
from polymnia.data.synth import world
from polymnia.data.synth.scene import FAMILIES, combinations
from polymnia.types import AudioFile, Captions, ImageFile, UserError

SMALL = {"combos": 5, "train": 2, "base": 1, "seconds": 0.5, "size": 32}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> soundworld.Config:
    cfg = soundworld.Config(root=tmp_path_factory.mktemp("small"), **SMALL)
    soundworld.items(cfg)
    return cfg


def contents(root: Path) -> dict[str, bytes]:
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".lock"]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


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


def test_files_are_mono_16_khz_wav_and_rgb_png_of_the_asked_sizes(small):
    for item in soundworld.items(small)[::7]:
        about = soundfile.info(item.sources["audio"].path)
        assert (about.samplerate, about.channels, about.frames, about.subtype) == (16000, 1, 8000, "PCM_16")
        with Image.open(item.sources["image"].path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (32, 32))
        assert len(item.sources["text"].texts) == 3


def test_items_hold_the_three_kinds_of_sources(small):
    kinds = {name: type(source) for name, source in soundworld.items(small)[0].sources.items()}
    assert kinds == {"audio": AudioFile, "image": ImageFile, "text": Captions}


def test_counts_ids_groups_and_topics_follow_from_the_settings(small):
    found = soundworld.items(small)
    assert Counter(i.split for i in found) == {"train": 4 * 5 * 2, "valid": 4 * 5, "test": 4 * 5}
    assert Counter(i.topic for i in found) == dict.fromkeys(FAMILIES, 5 * 4)
    assert all(i.group == i.id for i in found)
    assert all(i.id.startswith(f"sw-{i.split}-{i.topic}-") for i in found)
    assert all(any(f"family:{f}" in i.labels for f in FAMILIES[i.topic]) for i in found)
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
