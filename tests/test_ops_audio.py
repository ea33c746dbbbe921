"""The log-mel front end against librosa and against plain NumPy written from the definitions."""

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polymnia.ops import audio
from polymnia.ops.audio import EFFICIENTAT, PANNS_32K, LogMel, LogMelConfig, htk_mel, kaldi_mel, slaney_mel


def noise(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 0.1).astype(np.float32)


@pytest.mark.parametrize(
    "band", [(64, 1024, 32000, 50.0, 14e3), (40, 400, 16000, 0.0, 8e3), (3, 256, 8000, 300.0, 900.0)]
)
@pytest.mark.parametrize("norm", ["slaney", "none"])
def test_slaney_and_htk_filters_are_those_of_librosa(band: tuple, norm: str) -> None:
    mels, n_fft, rate, low, high = band
    for ours, htk in ((slaney_mel, False), (htk_mel, True)):
        expected = librosa.filters.mel(
            sr=rate, n_fft=n_fft, n_mels=mels, fmin=low, fmax=high, htk=htk, norm=None if norm == "none" else norm
        )
        np.testing.assert_allclose(ours(*band, norm).numpy(), expected, atol=2e-7)


def kaldi_by_hand(mels: int, n_fft: int, rate: int, low: float, high: float) -> np.ndarray:
    """Triangle by triangle and bin by bin, as the two slopes that meet in each centre."""

    def mel(f: float) -> float:
        return 1127.0 * np.log(1.0 + f / 700.0)

    step = (mel(high) - mel(low)) / (mels + 1)
    filters = np.zeros((mels, n_fft // 2 + 1))
    for m in range(mels):
        left, centre, right = (mel(low) + (m + i) * step for i in range(3))
        for k in range(n_fft // 2):
            at = mel(k * rate / n_fft)
            if left < at <= centre:
                filters[m, k] = (at - left) / (centre - left)
            elif centre < at < right:
                filters[m, k] = (right - at) / (right - centre)
    return filters


def test_kaldi_filters_are_the_two_slopes_in_mel_with_an_empty_last_bin() -> None:
    ours = kaldi_mel(128, 1024, 32000, 0.0, 15000.0).numpy()
    np.testing.assert_allclose(ours, kaldi_by_hand(128, 1024, 32000, 0, 15000), atol=1e-6)
    assert not kaldi_mel(16, 256, 8000, 0.0, 4000.0)[:, -1].any()


def test_the_panns_front_end_is_librosa_with_reflected_ends() -> None:
    x = noise(32000)
    power = librosa.feature.melspectrogram(
        y=x, sr=32000, n_fft=1024, hop_length=320, n_mels=64, fmin=50, fmax=14000, pad_mode="reflect"
    )
    expected = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
    ours = LogMel(PANNS_32K)(torch.from_numpy(x)[None])[0]
    assert ours.shape == (64, 101)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-3)  # dB


def test_the_efficientat_front_end_is_what_its_definition_says_in_numpy() -> None:
    x = noise(16000).astype(np.float64)
    emphasised = np.array([x[t] - 0.97 * x[t - 1] for t in range(1, len(x))])
    padded = np.pad(emphasised, 512, mode="reflect")
    window = np.zeros(1024)
    window[112:912] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799)  # both ends zero: not periodic
    frames = [padded[i * 320 : i * 320 + 1024] * window for i in range(len(emphasised) // 320 + 1)]
    power = np.stack([np.abs(np.fft.rfft(f)) ** 2 for f in frames], axis=1)
    expected = (np.log(kaldi_by_hand(128, 1024, 32000, 0, 15000) @ power + 1e-5) + 4.5) / 5
    ours = LogMel(EFFICIENTAT)(torch.from_numpy(x).float()[None])[0]
    assert ours.shape == (128, 50)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-4)


def test_constant_padding_is_librosas_default() -> None:
    cfg = LogMelConfig(
        sample_rate=16000, n_fft=512, win_length=400, hop=160, n_mels=40, fmin=0, fmax=8000, pad_mode="constant"
    )
    x = noise(8000)
    power = librosa.feature.melspectrogram(
        y=x, sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=40, fmax=8000
    )
    expected = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
    np.testing.assert_allclose(LogMel(cfg)(torch.from_numpy(x)[None])[0].numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("cfg", [PANNS_32K, EFFICIENTAT])
@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 4000))
def test_any_length_gives_one_frame_a_hop(cfg: LogMelConfig, samples: int) -> None:
    out = LogMel(cfg)(torch.ones(2, samples))
    dropped = int(cfg.preemphasis != 0)
    assert out.shape == (2, cfg.n_mels, (max(samples, 513 + dropped) - dropped) // 320 + 1)
    assert out.isfinite().all()


def test_a_short_clip_is_the_same_as_one_with_silence_behind_it() -> None:
    x = torch.from_numpy(noise(1, 100))
    padded = torch.nn.functional.pad(x, (0, 413))
    assert torch.equal(LogMel(PANNS_32K)(x), LogMel(PANNS_32K)(padded))


def test_minutes_of_audio_are_fine() -> None:
    assert LogMel(PANNS_32K)(torch.zeros(1, 32000 * 120)).shape == (1, 64, 12001)


def test_silence_is_the_floor() -> None:
    silence = torch.zeros(1, 3200)
    assert torch.allclose(LogMel(PANNS_32K)(silence), torch.tensor(-100.0))
    assert torch.allclose(LogMel(EFFICIENTAT)(silence), torch.tensor((np.log(1e-5) + 4.5) / 5, dtype=torch.float32))


def test_the_front_end_leaves_no_trace_in_a_state_dict_and_ignores_mixed_precision() -> None:
    module, x = LogMel(EFFICIENTAT), torch.from_numpy(noise(1, 3200))
    assert module.state_dict() == {}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module(x)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, module(x))


def test_the_gradient_to_a_silent_waveform_is_finite() -> None:
    x = torch.zeros(1, 3200, requires_grad=True)
    LogMel(EFFICIENTAT)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fmax": 20000}, "half the rate"),
        ({"fmin": 14000}, "half the rate"),
        ({"win_length": 2048}, "longer than n_fft"),
        ({"scale": "kaldi"}, "norm: none"),
        ({"n_mel": 3}, "did you mean 'n_mels'"),
    ],
)
def test_an_impossible_front_end_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LogMelConfig(**{**PANNS_32K.model_dump(), **change})


def test_clips_taken_a_few_at_a_time_give_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = 0.1 * torch.randn(5, 3000, generator=torch.Generator().manual_seed(0))
    whole = LogMel(PANNS_32K)(x)
    monkeypatch.setattr(audio, "IN_CACHE", 6500)
    assert torch.equal(LogMel(PANNS_32K)(x), whole)
    assert torch.equal(LogMel(PANNS_32K)(x[:1]), whole[:1])
