"""LAION CLAP's towers against transformers' own model and feature extractor."""

import json
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch

from polymnia.models.towers import clap_audio, clap_text
from polymnia.types import AudioFile, AudioSpec, Item, TextSpec, UserError

TEXTS = ["a dog barks", "rain", "", "a dog on a dog"]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoints.clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def model(folder: str):
    from transformers import ClapModel

    with checkpoints.quiet():
        return ClapModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tower(folder: str) -> clap_audio.Tower:
    return clap_audio.Tower(clap_audio.Config(model=folder))


def extracted(x: np.ndarray, **settings: object) -> torch.Tensor:
    """Log-mel by transformers' feature extractor, in numpy."""
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor(**{"frequency_min": 50, "truncation": "rand_trunc"} | settings)
    return torch.from_numpy(np.asarray(extractor(x, sampling_rate=48000)["input_features"][0])).float()


def direct(model, x: np.ndarray) -> torch.Tensor:
    """Projected, not normalised."""
    mel = extracted(x, feature_size=16, max_length_s=1)[None]
    with torch.inference_mode():
        return model.audio_projection(model.audio_model(input_features=mel).pooler_output)


@pytest.mark.parametrize("samples", [480000, 150001, 479999, 20000])
def test_the_log_mel_of_the_published_setting_is_that_of_the_feature_extractor(samples: int) -> None:
    x = noise(samples)
    ours = clap_audio.LogMel(clap_audio.front_end(clap_audio.UNFUSED, "published"))
    padded = clap_audio.repeat_pad(torch.from_numpy(x)[None], 480000)
    mel, expected = ours(padded)[0].T, extracted(x)[0]
    assert mel.shape == expected.shape == (1001, 64)
    assert (mel - expected).abs().max() < 1e-3  # dB


@pytest.mark.parametrize("samples", [48000, 47999, 20000, 1])
def test_features_are_what_clap_gives_for_the_same_clip(tower, model, samples: int) -> None:
    x = noise(samples)
    with torch.inference_mode():
        ours = tower(tower.prepare([x]))
        published = model.get_audio_features(input_features=extracted(x, feature_size=16, max_length_s=1)[None])
    assert torch.allclose(ours, direct(model, x), atol=1e-4)
    assert torch.allclose(torch.nn.functional.normalize(ours), published.pooler_output, atol=1e-4)


def test_a_long_clip_is_the_mean_of_windows_that_end_with_it(tower, model) -> None:
    x = noise(120000)
    windows = [x[:48000], x[48000:96000], x[72000:]]
    expected = torch.stack([direct(model, w) for w in windows]).mean(0)
    with torch.inference_mode():
        assert torch.allclose(tower(torch.from_numpy(x)[None]), expected, atol=1e-4)
        two = tower(torch.from_numpy(x[:96000])[None])
    assert torch.allclose(two, torch.stack([direct(model, w) for w in windows[:2]]).mean(0), atol=1e-4)


def test_evaluation_hands_over_short_clips_as_they_are(tower, tmp_path: Path) -> None:
    import soundfile

    from polymnia.data.collection import Collection
    from polymnia.runs.intake import clip

    assert tower.spec == AudioSpec(48000, 1.0, 30.0, 0.0)
    soundfile.write(tmp_path / "a.wav", noise(20000), 48000, subtype="PCM_16")
    source = AudioFile(tmp_path / "a.wav")
    item = Item("a", {"audio": source}, "a")
    collection = Collection.open([item], {"audio": tower.spec}, tmp_path / "cache")
    assert collection.clip_length(item) == len(collection.clip(item)) == 20000
    assert len(clip(source, None, tower.spec)) == 20000
    padded = Collection.open([item], {"audio": AudioSpec(48000, 1.0)}, tmp_path / "cache")
    assert padded.clip_length(item) == len(padded.clip(item)) == 48000


def test_text_features_of_a_padded_batch_are_those_of_each_text_alone(folder: str, model) -> None:
    tower = clap_text.Tower(clap_text.Config(model=folder, max_tokens=20))
    assert (tower.spec, tower.out_dim) == (TextSpec(20, 1), 6)
    batch = tower.prepare(TEXTS)
    rows = [[0, *(checkpoints.WORDS.index(x if x != " " else "Ġ") for x in t), 2] for t in TEXTS]
    assert batch.tolist() == [r + [1] * (16 - len(r)) for r in rows]
    with torch.inference_mode():
        alone = [model.text_model(input_ids=torch.tensor([r])).pooler_output for r in rows]
        expected = model.text_projection(torch.cat(alone))
        published = model.get_text_features(input_ids=torch.tensor(rows[:1])).pooler_output
        ours = tower(batch)
        assert torch.allclose(ours, expected, atol=1e-5)
        assert torch.allclose(torch.nn.functional.normalize(ours[:1]), published, atol=1e-5)
        assert torch.allclose(tower(torch.nn.functional.pad(batch, (0, 4), value=1)), expected, atol=1e-5)


def test_a_text_that_is_cut_keeps_its_end_and_there_are_no_more_tokens_than_positions(folder: str) -> None:
    assert clap_text.Tower(clap_text.Config(model=folder, max_tokens=4)).prepare(["rain"]).tolist() == [[0, 22, 5, 2]]
    with pytest.raises(UserError, match="max_tokens 21 is more than the 20"):
        clap_text.Tower(clap_text.Config(model=folder, max_tokens=21))


def test_fused_checkpoints_are_refused(tmp_path: Path) -> None:
    fused = checkpoints.clap(tmp_path / "a", enable_fusion=True, fusion_type="aff_2d")
    with pytest.raises(UserError, match="is a fused CLAP"):
        clap_audio.Tower(clap_audio.Config(model=fused))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truncation": "fusion"}, "has truncation: fusion, not rand_trunc"),
        ({"padding": "pad"}, "has padding: pad, not repeatpad"),
        ({"frequency_max": 30000}, "half the rate"),
        ({"feature_size": 8}, "takes 16 mel bands and its preprocessing gives 8"),
    ],
)
def test_another_front_end_is_refused(folder: str, tmp_path: Path, change: dict, message: str) -> None:
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        clap_audio.Tower(clap_audio.Config(model=str(tmp_path / "a")))


def test_other_architectures_and_damaged_weights_are_refused(folder: str, tmp_path: Path) -> None:
    other = checkpoints.bert(tmp_path / "bert")
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    for module in (clap_audio, clap_text):
        with pytest.raises(UserError, match="of type 'bert', and the CLAP .* tower needs one of clap, "):
            module.Tower(module.Config(model=other))
        with pytest.raises(UserError, match="cannot load the CLAP .* tower .*is its folder complete"):
            module.Tower(module.Config(model=str(tmp_path / "a")))


def test_whole_numbers_that_published_checkpoints_leave_out_are_computed(folder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    state = load_file(weights)
    learned = {k: v for k, v in state.items() if v.is_floating_point()}
    assert {k.rsplit(".", 1)[1] for k in state.keys() - learned.keys()} >= {
        "token_type_ids",
        "relative_position_index",
    }
    save_file(learned, weights, metadata={"format": "pt"})
    for module, raw in ((clap_audio, [noise(48000)]), (clap_text, TEXTS)):
        settings = {} if module is clap_audio else {"max_tokens": 20}
        bare = module.Tower(module.Config(model=str(tmp_path / "a"), **settings))
        whole = module.Tower(module.Config(model=folder, **settings))
        states = bare.state_dict(), whole.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
        with torch.inference_mode():  # weights lie elsewhere in the file, and how they are aligned rounds differently
            assert torch.allclose(bare(bare.prepare(raw)), whole(whole.prepare(raw)), atol=1e-5)
    save_file({k: v for k, v in learned.items() if "running_mean" not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lack 1 tensors of its ClapAudioModelWithProjection"):
        clap_audio.Tower(clap_audio.Config(model=str(tmp_path / "a")))
