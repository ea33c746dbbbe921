"""The encoder that a run leaves: the vectors of the run itself, from files, arrays, texts and pictures, anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import yaml
from PIL import Image
from small_run import small, small_recipe, small_root, small_run

import polymnia as pm
from polymnia.data.media import MediaError
from polymnia.runs.encoder import Encoder
from polymnia.runs.life import Session
from polymnia.types import AudioFile, ImageFile, Item, UserError


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return pm.load(small_run())


@pytest.fixture(scope="module")
def session() -> Session:
    """The run as it was after its last step, media opened and all."""
    session = Session(small(small_root()))
    session.go()
    return session


@pytest.fixture(scope="module")
def items(session: Session) -> list[Item]:
    return [i for task, _ in session.curriculum.tasks for i in task.test]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(small_run(), tmp_path / "moved" / "run")


def paths(items: list[Item], modality: str) -> list[Path]:
    return [i.sources[modality].path for i in items]  # type: ignore[index, union-attr]


def test_sounds_pictures_and_texts_get_the_vectors_that_the_run_scored(encoder, session, items):
    embed = session.embedder()
    texts = [t for i in items for t in i.sources["text"].texts]
    # the run reads sounds from its store of 16-bit samples, so that the last bit of a sample may differ
    assert np.abs(encoder.encode_audio(paths(items, "audio")) - embed(items, "audio").vectors.numpy()).max() < 1e-5
    assert np.abs(encoder.encode_image(paths(items, "image")) - embed(items, "image").vectors.numpy()).max() < 1e-5
    assert np.abs(encoder.encode_text(texts) - embed(items, "text").vectors.numpy()).max() < 1e-5


def test_rows_are_float32_of_unit_norm_in_the_order_given(encoder, items):
    sounds = paths(items, "audio")
    vectors = encoder.encode_audio(sounds)
    assert vectors.shape == (len(items), encoder.dim) == (8, 16) and vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert np.abs(encoder.encode_audio(sounds[::-1])[::-1] - vectors).max() < 1e-6
    assert np.abs(encoder.encode_audio(str(sounds[3])) - vectors[3]).max() < 1e-6


def test_nothing_encodes_to_no_rows(encoder):
    for encode in (encoder.encode_audio, encoder.encode_text, encoder.encode_image):
        assert encode([]).shape == (0, 16)


def test_clips_of_unlike_lengths_are_each_as_alone(encoder):
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in (9000, 3000, 16000, 9000, 20000, 3000)]
    together = encoder.encode_audio(waves, 16000)
    assert np.abs(together - np.concatenate([encoder.encode_audio([w], 16000) for w in waves])).max() < 1e-6


def test_more_media_than_are_held_at_a_time_are_all_encoded(encoder, monkeypatch, items):
    whole = encoder.encode_image(paths(items, "image"))
    monkeypatch.setattr("polymnia.runs.encoding.DECODED", 3)
    assert np.abs(encoder.encode_image(paths(items, "image")) - whole).max() < 1e-6


def test_an_array_at_another_rate_is_resampled(encoder, items):
    wave, rate = soundfile.read(paths(items, "audio")[0], dtype="float32")
    wanted = encoder.encode_audio(paths(items, "audio")[:1])
    assert np.abs(encoder.encode_audio([wave], rate) - wanted).max() < 1e-6
    # there and back again costs what lies near half the rate, so the tolerance is wide; the wrong rate is far outside
    up = soxr.resample(wave, rate, 44100, quality="HQ")
    assert float(encoder.encode_audio([up], 44100)[0] @ wanted[0]) > 0.999
    wrong = encoder.encode_audio([up], rate)
    assert float(wrong[0] @ wanted[0]) < float(encoder.encode_audio([up], 44100)[0] @ wanted[0]) - 1e-3


def test_channels_are_averaged(encoder, tmp_path):
    rng = np.random.default_rng(1)
    mono = rng.uniform(-0.4, 0.4, 8000).astype(np.float32)
    other = rng.uniform(-0.2, 0.2, 8000).astype(np.float32)
    stereo = np.stack([mono + other, mono - other], axis=1)
    wanted = encoder.encode_audio([mono], 16000)
    soundfile.write(tmp_path / "two.wav", stereo, 16000, subtype="FLOAT")
    for sound in (stereo, tmp_path / "two.wav"):
        assert np.abs(encoder.encode_audio([sound], 16000) - wanted).max() < 1e-5


def test_integer_samples_are_scaled(encoder):
    wave = (np.random.default_rng(2).uniform(-0.5, 0.5, 8000) * 32768).astype(np.int16)
    assert np.abs(encoder.encode_audio([wave], 16000) - encoder.encode_audio([wave / 32768], 16000)).max() < 1e-6


def test_stretches_of_recordings_are_sounds_too(encoder, tmp_path):
    wave = np.random.default_rng(3).uniform(-0.5, 0.5, 32000).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", wave, 16000, subtype="FLOAT")
    found = encoder.encode_audio([AudioFile(tmp_path / "long.wav", 0.5, 0.6)])
    assert np.abs(found - encoder.encode_audio([wave[8000:17600]], 16000)).max() < 1e-6


def test_pictures_come_from_files_and_from_memory(encoder, items):
    path = paths(items, "image")[0]
    found = encoder.encode_image([path, str(path), ImageFile(path), Image.open(path)])
    assert np.abs(found - found[0]).max() < 1e-6


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (np.zeros(100, np.float32), None, "arrays need their sample_rate"),
        (np.zeros(100, np.float32), 0, "arrays need their sample_rate"),
        (np.zeros((2, 8000), np.float32), 16000, r"shape \(2, 8000\) looks transposed"),
        (np.zeros(0, np.float32), 16000, "must hold finite samples"),
        (np.array([0.1, np.nan] * 50), 16000, "must hold finite samples"),
        (np.full(100, 20000.0), 16000, "must hold finite samples around"),
        (np.zeros((4, 4, 4)), 16000, "must hold finite samples"),
    ],
)
def test_an_array_that_is_no_sound_is_refused(encoder, sound: np.ndarray, rate: int | None, message: str):
    with pytest.raises(UserError, match=message):
        encoder.encode_audio([sound], rate)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused_with_its_number(encoder, text: str):
    with pytest.raises(UserError, match="text number 1 is empty or no string"):
        encoder.encode_text(["fine", text])


def test_files_that_cannot_be_read_are_named(encoder, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(MediaError, match="a.wav: not a readable recording"):
        encoder.encode_audio([tmp_path / "a.wav"])
    with pytest.raises(MediaError, match="b.png: No such file"):
        encoder.encode_image([tmp_path / "b.png"])


# --- which encoder


def test_an_earlier_task_gives_an_earlier_encoder(encoder, items):
    sounds = paths(items, "audio")
    found = [pm.load(small_run(), task=k) for k in (0, 1, 2)]
    assert len({e.signature for e in found}) == 3 and found[2].signature == encoder.signature
    vectors = [e.encode_audio(sounds) for e in found]
    assert np.array_equal(vectors[2], encoder.encode_audio(sounds))
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3 and np.abs(vectors[1] - vectors[2]).max() > 1e-3
    pictures = [e.encode_image(paths(items, "image")) for e in found]
    assert np.array_equal(pictures[0], pictures[2])  # the image tower is frozen


def test_a_task_that_was_not_learned_is_refused(encoder):
    with pytest.raises(UserError, match="no encoder after task 3; there are 0, 1, 2"):
        pm.load(small_run(), task=3)


def test_a_moved_folder_opens_without_the_rest_of_the_run(encoder, items, copy, monkeypatch):
    raw = yaml.safe_load((copy / "recipe.yaml").read_text())
    raw |= {"data": "gone/data", "cache": "gone/cache", "out": "gone/out"}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(copy.parent)
    moved = pm.load("run")
    assert moved.signature == encoder.signature
    assert np.array_equal(moved.encode_audio(paths(items, "audio")), encoder.encode_audio(paths(items, "audio")))
    assert np.array_equal(moved.encode_image(paths(items, "image")), encoder.encode_image(paths(items, "image")))


def test_a_run_of_a_gpu_opens_where_there_is_none(copy):
    raw = yaml.safe_load((copy / "recipe.yaml").read_text())
    (copy / "recipe.yaml").write_text(yaml.safe_dump(raw | {"device": "cuda"}))
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert next(pm.load(copy).model.parameters()).device.type == wanted


@pytest.mark.parametrize("name", ["encoders/after-2.safetensors", "frozen.safetensors"])
def test_truncated_weights_are_named(copy: Path, name: str):
    whole = (copy / name).read_bytes()
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        (copy / name).write_bytes(whole[:cut])
        with pytest.raises(UserError, match=f"{Path(name).name} is truncated or no safetensors file"):
            pm.load(copy)


def test_weights_of_another_recipe_are_refused(copy: Path):
    raw = yaml.safe_load((copy / "recipe.yaml").read_text())
    raw["heads"]["audio"]["hidden"] = 24
    (copy / "recipe.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="these weights do not fit the recipe: heads.audio"):
        pm.load(copy)


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is no run folder: it has no recipe.yaml"):
        pm.load(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small_recipe(tmp_path)))
    with pytest.raises(UserError, match="has no finished task yet"):
        pm.load(tmp_path)


def test_a_recipe_with_weights_of_its_objective_opens(tmp_path: Path):
    weighted = small_recipe(small_root(), out=str(tmp_path), objective={"weights": {"audio-text": 0.5}})
    assert pm.load(pm.run(weighted).folder).encode_text("a drum").shape == (1, 16)


def test_a_memory_of_the_method_is_no_part_of_the_encoder(tmp_path: Path):
    # 40 kB hold rows of cached features beside sounds; rows with pictures too would be larger
    budget = 2 * (6400 * 2 + 16 * 4 * 2) + 64
    run = pm.run(small_recipe(small_root(), out=str(tmp_path), method=[{"use": "er", "budget": budget}]))
    assert pm.load(run.folder).method.names == []
