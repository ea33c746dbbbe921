"""Recordings to test with: tones, noise and long silence in every format."""

import struct
from pathlib import Path

import numpy as np
import soundfile

from polymnia.types import AudioFile

FORMATS = [
    ("wav", "PCM_U8", 44100),
    ("wav", "PCM_16", 8000),
    ("wav", "PCM_24", 96000),
    ("wav", "FLOAT", 22050),
    ("wav", "DOUBLE", 44100),
    ("flac", "PCM_24", 44100),
    ("ogg", "VORBIS", 32000),
    ("mp3", "MPEG_LAYER_III", 44100),
    ("mp3", "MPEG_LAYER_III", 16000),
    ("opus", "OPUS", 48000),
]


def tone(rate, seconds=2.0, hertz=1000.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def noise(rate, seconds=4.0):
    """Noise below 3 kHz, which every codec keeps, and which looks different at every instant."""
    rng = np.random.default_rng(7)
    spectrum = np.fft.rfft(rng.standard_normal(round(rate * seconds)))
    spectrum[round(3000 * seconds) :] = 0
    x = np.fft.irfft(spectrum, round(rate * seconds))
    return 0.5 * x / np.abs(x).max()


def save(path, x, rate, subtype=None):
    container = "OGG" if path.suffix == ".opus" else None
    soundfile.write(path, x, rate, subtype=subtype, format=container)
    return AudioFile(path)


def sparse_wav(path, rate, seconds, at, x):
    """A 16-bit wav of silence, ``x`` at second ``at``; the silence takes no room on disk."""
    size = round(rate * seconds) * 2
    head = (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2, 2, 16)
    )
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.seek(44 + round(at * rate) * 2)
        file.write((np.asarray(x) * 32767).astype("<i2").tobytes())
        file.truncate(44 + size)
    return AudioFile(path)


def peak_hertz(x, rate):
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    return spectrum.argmax() * rate / len(x)


def recordings(folder: Path) -> list[AudioFile]:
    """Six recordings of 0.1 to 0.6 seconds: integers, so that 16 bits hold them exactly."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(6):
        path = folder / f"{i}.wav"
        soundfile.write(path, rng.integers(-30000, 30000, 1600 * (i + 1)).astype(np.int16), 16000)
        found.append(AudioFile(path))
    return found


def packs(folder: Path) -> list[str]:
    """The names of the packs in a cache."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir())
