"""Features of videos: the mean over their frames, computed once, in a collection that lists the broken ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn.functional import normalize
from videos import RATE, film, levels

from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.data import store
from polymnia.data.augment import AugmentConfig
from polymnia.data.collection import Collection
from polymnia.data.media import MediaError, decode_image, fit_image
from polymnia.embed import cache, embedder, frames
from polymnia.embed.cache import frozen_vectors
from polymnia.embed.embedder import Embedder, run_tower
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.towers import tiny_image
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, Item, Source, UserError, VideoFile

SHADES = ([0, 250] * 10, [100] * 20, [10 * k for k in range(20)], [250 - 10 * k for k in range(20)], [30, 60] * 10)


@pytest.fixture
def sources(tmp_path: Path) -> list[VideoFile]:
    """Five videos of two seconds at ten frames a second."""
    made = [VideoFile(film(tmp_path / f"{n}.mp4", shades)) for n, shades in enumerate(SHADES)]
    return [*made[:4], VideoFile(made[4].path, 0.5, 1.0)]


class Counting(tiny_image.Tower):
    """Writes down how many pictures it is shown at a time."""

    def __init__(self, **keys):
        torch.manual_seed(0)
        super().__init__(tiny_image.Config(size=8, channels=1, width=4, layers=2, out_dim=6, **keys))
        self.shown: list[int] = []

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        self.shown.append(len(x))
        return super().forward(x, prompt) * torch.arange(1, 7)  # so that its features are far from unit norm


def as_items(*sources: Source) -> list[Item]:
    return [Item(str(n), {"image": s}, f"g{n}") for n, s in enumerate(sources)]


def opened(items: list[Item], tower: Counting, folder: Path) -> Collection:
    return Collection.open(items, {"image": tower.spec}, folder / "media")


def by_hand(tower: Counting, path: Path, chosen: list[int]) -> Tensor:
    """The mean of the features of these pictures of a video, one after another."""
    with av.open(str(path)) as container:
        pictures = [fit_image(f.to_image(), 8, 1).copy() for f in container.decode(video=0)]
    with torch.no_grad():
        return torch.stack([tower.eval()(torch.from_numpy(pictures[n])[None])[0] for n in chosen]).mean(0)


def test_the_feature_of_a_video_is_the_mean_over_its_frames_before_any_norm(sources, tmp_path: Path):
    tower = Counting(fps=5.0)
    items = as_items(*sources)
    rows = run_tower(tower, lambda x, _: tower(x), opened(items, tower, tmp_path), items, "image", batch=7)
    assert tower.shown == [7, 7, 7, 7, 7, 7, 3]  # four of ten frames and one of five, in full batches
    for row, source in zip(rows, sources, strict=True):
        wanted = by_hand(tower, source.path, list(range(1, 20, 2)) if source.start == 0 else [6, 8, 10, 12, 14])
        torch.testing.assert_close(row, wanted, rtol=1e-5, atol=1e-5)
    assert float(rows.norm(dim=1).min()) > 1.1
    assert torch.cdist(rows, rows).fill_diagonal_(1).min() > 0.01  # so that a mixed-up row would show


def test_pictures_and_videos_stand_in_the_order_of_the_items(sources, tmp_path: Path):
    Image.new("L", (8, 8), 60).save(tmp_path / "still.png")
    tower = Counting(fps=2.0)
    items = as_items(sources[1], ImageFile(tmp_path / "still.png"), sources[4])
    rows = run_tower(tower, lambda x, _: tower(x), opened(items, tower, tmp_path), items, "image", batch=64)
    torch.testing.assert_close(rows[0], by_hand(tower, sources[1].path, [5, 15]))
    with torch.no_grad():
        torch.testing.assert_close(rows[1], tower(torch.full((1, 1, 8, 8), 60, dtype=torch.uint8))[0])
    torch.testing.assert_close(rows[2], by_hand(tower, sources[4].path, [7, 12]))


# --- the cache


def test_means_are_kept_as_float16_and_never_computed_again(sources, tmp_path: Path, monkeypatch):
    Image.new("L", (8, 8), 60).save(tmp_path / "still.png")
    tower = Counting()
    items = as_items(sources[0], ImageFile(tmp_path / "still.png"), *sources[1:])
    collection, folder = opened(items, tower, tmp_path), tmp_path / "features"
    first = frozen_vectors(tower, items, "image", collection, folder)
    kept = {tuple(x.shape): x.dtype for x in (load_file(p)["features"] for p in folder.glob("*.safetensors"))}
    assert kept == {(5, 6): np.float16, (1, 6): np.float32}
    exact = run_tower(tower, lambda x, _: tower(x), collection, items, "image", 64).numpy()
    assert first.values.dtype == np.float32
    for item, row in zip(items, exact, strict=True):
        (at,) = first.rows[item.id]
        half = isinstance(item.sources["image"], VideoFile)
        np.testing.assert_array_equal(first.values[at], row.astype(np.float16).astype(np.float32) if half else row)
    monkeypatch.setattr(frames, "all_frames", lambda *_: pytest.fail("decoded again"))
    again = frozen_vectors(tower, items, "image", collection, folder)
    assert np.array_equal(again.values, first.values) and again.rows == first.rows


def test_frame_rate_and_rule_are_part_of_what_is_kept(sources, tmp_path: Path):
    items, folder = as_items(*sources), tmp_path / "features"

    def count(**keys) -> int:
        tower = Counting(**keys)
        frozen_vectors(tower, items, "image", opened(items, tower, tmp_path), folder)
        return sum(tower.shown)

    assert (count(fps=1.0), count(fps=1.0), count(fps=10.0), count(frames="middle")) == (9, 0, 90, 5)
    assert (count(fps=1.0), count(fps=10.0), count(frames="middle")) == (0, 0, 0)


class Killed(BaseException):
    """What no code of ours catches."""


def test_a_killed_run_computes_only_what_it_had_not_finished(sources, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cache, "VIDEOS", 2)  # parts of two, two and one
    tower, items, folder = Counting(fps=5.0), as_items(*sources), tmp_path / "features"
    collection = opened(items, tower, tmp_path)
    whole = frozen_vectors(Counting(fps=5.0), items, "image", collection, tmp_path / "elsewhere")
    compute = embedder.mean_over_frames

    def killed_in_the_second_part(*args):
        if len(list(folder.glob("*.safetensors"))) == 1:
            raise Killed
        return compute(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(embedder, "mean_over_frames", killed_in_the_second_part)
        frozen_vectors(tower, items, "image", collection, folder)
    assert sum(tower.shown) == 20 and not list(folder.glob("*.tmp"))
    found = frozen_vectors(tower, items, "image", collection, folder)
    assert sum(tower.shown) == 20 + 25
    assert np.array_equal(found.values, whole.values) and found.rows == whole.rows


def test_items_of_every_modality_are_kept_in_parts(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cache, "ITEMS", 2)
    for n in range(7):
        Image.new("L", (8, 8), 30 * n).save(tmp_path / f"{n}.png")
    items = as_items(*(ImageFile(tmp_path / f"{n}.png") for n in range(7)))
    tower, folder = Counting(), tmp_path / "features"
    vectors = frozen_vectors(tower, items, "image", opened(items, tower, tmp_path), folder)
    parts = len(list(folder.glob("*.safetensors")))
    assert parts == len(tower.shown) > 1 and sum(tower.shown) == 7
    for n, item in enumerate(items):
        with torch.no_grad():
            wanted = tower(torch.full((1, 1, 8, 8), 30 * n, dtype=torch.uint8)).numpy()
        np.testing.assert_allclose(vectors.values[list(vectors.rows[item.id])], wanted, rtol=1e-5)
    most = max(tower.shown)
    tower.shown.clear()
    fewer = frozen_vectors(tower, items[1:], "image", opened(items, tower, tmp_path), folder)
    assert len(tower.shown) <= 1 and sum(tower.shown) < most  # of the part that the first item was in, if any is left
    np.testing.assert_allclose(fewer.values[fewer.rows["3"][0]], vectors.values[vectors.rows["3"][0]], rtol=1e-5)


# --- the collection


def test_broken_videos_are_listed_and_the_others_are_used(sources, tmp_path: Path):
    torn = tmp_path / "torn.mp4"
    data = sources[0].path.read_bytes()
    torn.write_bytes(data[: data.index(b"mdat") + 300])
    sound = np.zeros(RATE)
    film(tmp_path / "blind.mp4", sounds=[sound])
    film(tmp_path / "both.mp4", SHADES[0], sounds=[sound])
    paths = {n: tmp_path / f"{n}.mp4" for n in ("torn", "blind", "both", "gone")} | {"mute": sources[0].path}
    items = [Item(n, {"image": VideoFile(p), "audio": AudioFile(p)}, n) for n, p in paths.items()]
    for rule in ("mean", "middle"):
        specs = {"image": ImageSpec(8, 1, frames=rule), "audio": AudioSpec(RATE, 0.5)}
        for _ in range(2):  # the second time from what was noted
            failed = Collection.open(items, specs, tmp_path / "media").failed
            assert set(failed) == {"torn", "blind", "gone", "mute"}
            assert "blind.mp4: has no pictures" in failed["blind"] and "has no sound" in failed["mute"]
            assert "No such file" in failed["gone"]
    assert set(Collection.open(items, {"image": ImageSpec(8, 1)}, tmp_path / "media").failed) >= {"blind", "gone"}


def test_the_middle_frame_is_kept_like_any_picture(sources, tmp_path: Path, monkeypatch):
    Image.new("L", (8, 8), 60).save(tmp_path / "still.png")
    tower = Counting(frames="middle")
    items = as_items(*sources[:2], ImageFile(tmp_path / "still.png"), sources[4])
    collection = opened(items, tower, tmp_path)
    pictures = np.stack([collection.picture(i) for i in items])
    assert levels(pictures) == [0, 100, 60, 30]  # pictures 10, 10 and, of the stretch, 5 + 5
    assert np.array_equal(pictures[2], decode_image(ImageFile(tmp_path / "still.png"), 8, 1))
    monkeypatch.setattr(store, "middle_frame", lambda *_: pytest.fail("decoded again"))
    moved = Item(items[1].id, {"image": VideoFile(sources[1].path.rename(tmp_path / "moved.mp4"))}, "g1")
    assert np.array_equal(opened([items[0], moved, *items[2:]], tower, tmp_path).picture(moved), pictures[1])


def test_a_tower_cannot_learn_from_a_mean_over_frames(sources, tmp_path: Path):
    tower, items = Counting(), as_items(*sources)
    collection = opened(items, tower, tmp_path)
    with pytest.raises(UserError, match="'1' is a video.*frozen: true.*frames: middle"):
        collection.train_raw(items[1], "image", AugmentConfig(), None)
    assert levels(collection.picture(items[1])[None]) == [100]  # to look at
    assert not [p for p in (tmp_path / "media" / "images").rglob("data.bin") if p.stat().st_size]


def test_a_video_that_vanishes_is_named(sources, tmp_path: Path):
    tower, items = Counting(), as_items(*sources)
    collection = opened(items, tower, tmp_path)
    sources[2].path.rename(tmp_path / "away.mp4")
    with pytest.raises(MediaError, match="2.mp4: No such file"):
        run_tower(tower, lambda x, _: tower(x), collection, items, "image", 64)


# --- evaluation


def test_evaluation_embeds_videos_by_the_same_rule_with_a_cache_or_without(sources, tmp_path: Path):
    items, tower = as_items(*sources), Counting(fps=5.0)
    collection = opened(items, tower, tmp_path)
    model = Model({"image": tower}, {"image": HeadConfig(kind="linear")}, 3, frozenset({"image"}))
    embed = Embedder(model, Chain([], Setup(model, lambda *_: {}, 1, 0)), collection, {"image": tower}, batch=4)
    plain = embed(items, "image").vectors
    with torch.no_grad():
        features = run_tower(tower, lambda x, _: tower(x), collection, items, "image", 64)
        assert torch.allclose(plain, normalize(model.heads["image"].eval()(features), dim=-1), atol=1e-5)
    collection.use_vectors("image", frozen_vectors(tower, items, "image", collection, tmp_path / "features"))
    tower.shown.clear()
    kept = Embedder(model, embed.method, collection, {"image": tower})(items, "image").vectors
    assert torch.allclose(kept, plain, atol=2e-3) and not tower.shown
