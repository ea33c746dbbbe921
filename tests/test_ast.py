"""The Audio Spectrogram Transformer against transformers' own model and feature extractor."""

import json
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch

from polymnia.models.towers.ast import Config, Tower
from polymnia.ops.fbank import KaldiFbank
from polymnia.types import AudioSpec, UserError

WINDOW = 400 + 63 * 160  # samples that make 64 frames


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoints.ast(tmp_path_factory.mktemp("ast"))


@pytest.fixture(scope="module")
def tower(folder: str) -> Tower:
    return Tower(Config(model=folder))


@pytest.fixture(scope="module")
def model(folder: str):
    from transformers import ASTForAudioClassification

    with checkpoints.quiet():
        return ASTForAudioClassification.from_pretrained(folder).eval()


def extracted(x: np.ndarray, **settings: object) -> torch.Tensor:
    """Log-mel by transformers' feature extractor, which computes in numpy where there is no torchaudio."""
    from transformers import ASTFeatureExtractor

    found = ASTFeatureExtractor(**settings)(x, sampling_rate=16000)["input_values"][0]
    return torch.from_numpy(np.asarray(found)).float()


def direct(model, x: np.ndarray) -> torch.Tensor:
    values = extracted(x, num_mel_bins=32, max_length=64)[None]
    with torch.inference_mode():
        return model.audio_spectrogram_transformer(input_values=values).pooler_output


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")  # of AST's own 128
@pytest.mark.parametrize("samples", [160000, 16001, 400])
def test_the_filter_bank_features_are_those_of_the_feature_extractor(samples: int) -> None:
    x = noise(samples) + np.float32(0.05)  # an offset, which every frame must lose
    frames = 1 + (samples - 400) // 160
    ours = KaldiFbank()(torch.from_numpy(x)[None])[0]
    assert ours.shape == (frames, 128)
    expected = extracted(x, do_normalize=False)
    assert (ours - expected[:frames]).abs().max() < 1e-3
    assert not expected[frames:].any()


def test_silence_is_the_floor_and_mixed_precision_changes_nothing() -> None:
    fbank = KaldiFbank()
    assert torch.allclose(fbank(torch.zeros(1, 500)), torch.tensor(2.0**-23).log())
    x = torch.from_numpy(noise(3200))[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = fbank(x)
    assert torch.equal(mixed, fbank(x))
    assert fbank.state_dict() == {}


@pytest.mark.parametrize("samples", [WINDOW, WINDOW - 1, 5000, 400])
def test_features_and_scores_are_what_ast_gives_for_the_same_clip(tower, model, samples: int) -> None:
    x = noise(samples)
    with torch.inference_mode():
        features = tower(tower.prepare([x]))
        logits = model(input_values=extracted(x, num_mel_bins=32, max_length=64)[None]).logits
        assert torch.allclose(features, direct(model, x), atol=1e-4)
        assert torch.allclose(tower.classify(features), logits, atol=1e-4)


def test_a_long_clip_is_the_mean_of_windows_that_end_with_it(tower, model) -> None:
    x = noise(2 * WINDOW + 1000)
    windows = [x[:WINDOW], x[WINDOW : 2 * WINDOW], x[-WINDOW:]]
    expected = torch.stack([direct(model, w) for w in windows]).mean(0)
    with torch.inference_mode():
        assert torch.allclose(tower(torch.from_numpy(x)[None]), expected, atol=1e-4)


def test_the_tower_says_what_it_eats_gives_and_names(tower) -> None:
    assert tower.spec == AudioSpec(16000, 0.64, 30.0, 0.0)
    assert (tower.modality, tower.depth, tower.width, tower.out_dim) == ("audio", 2, 16, 16)
    assert tower.class_names == ("rain", "a dog", "wind")
    assert Config().frozen


def test_a_checkpoint_without_a_classifier_has_no_classes(tmp_path: Path) -> None:
    tower = Tower(Config(model=checkpoints.ast(tmp_path, ())))
    assert tower.class_names == ()
    with pytest.raises(UserError, match="no classifier"):
        tower.classify(torch.zeros(1, 16))


def test_normalisation_is_that_of_the_checkpoint(folder: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "preprocessor_config.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps(stated | {"mean": -1.0, "std": 2.0}))
    changed = Tower(Config(model=str(tmp_path / "a")))
    assert (float(changed.mean), float(changed.std)) == (-1.0, 4.0)
    path.write_text(json.dumps(stated | {"do_normalize": False}))
    changed = Tower(Config(model=str(tmp_path / "a")))
    assert (float(changed.mean), float(changed.std)) == (0.0, 1.0)
    path.write_text(json.dumps(stated | {"num_mel_bins": 40}))
    with pytest.raises(UserError, match="takes num_mel_bins 32 and its preprocessing 40"):
        Tower(Config(model=str(tmp_path / "a")))


def test_other_architectures_and_incomplete_weights_are_refused(folder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(UserError, match="of type 'bert', and the Audio Spectrogram Transformer needs"):
        Tower(Config(model=checkpoints.bert(tmp_path / "bert")))
    shutil.copytree(folder, tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if "classifier" not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lack 4 tensors of its ASTForAudioClassification"):
        Tower(Config(model=str(tmp_path / "a")))
    weights.write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(UserError, match="cannot load the Audio Spectrogram Transformer"):
        Tower(Config(model=str(tmp_path / "a")))
