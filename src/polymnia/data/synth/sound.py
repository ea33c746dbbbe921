"""A scene as sound. The family is the kind of source, pitch its frequency, tempo the rate of its events, the envelope
a ramp of level over the whole clip, the background a mains hum under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from polymnia.data.synth.scene import Scene

RATE = 16_000
PITCHES = {"low": 0.5, "middle": 1.0, "high": 2.0}  # factor on the family's own frequency
EVENTS = {"slow": 3.0, "fast": 7.5}  # a second
RAMPS = {"steady": (0.0, 0.0), "rising": (-28.0, 0.0), "fading": (0.0, -28.0)}  # dB at the ends of the clip
HUM = 0.012  # RMS of the hum, against at most 0.12 of the source
FLOOR = 2e-4  # RMS of the noise that is always there, so that no frame is digital silence
SCALE = 2 ** (np.array([0, 2, 4, 7, 9]) / 12)  # the pentatonic steps that melodies take
TABLE = 2048  # samples of one period in a wavetable

Wave = Float32[np.ndarray, " n"]
Hertz = float | int


class Beat(NamedTuple):
    """The events of a clip, sample by sample: seconds since the last onset, share of the event that is over, and its
    number; ``pitch`` is the factor on frequencies, ``rate`` the events a second."""

    since: Wave
    part: Wave
    index: Int64[np.ndarray, " n"]
    pitch: float
    rate: float


def beats(samples: int, rate: float, pitch: float, rng: np.random.Generator) -> Beat:
    """Regular events with a random start and a little jitter. The first may have begun before the clip."""
    count = int(np.ceil(samples / RATE * rate)) + 4
    onsets = np.rint((np.arange(count) - 1 - rng.random() + rng.uniform(-0.08, 0.08, count)) / rate * RATE)
    within = np.diff(np.clip(onsets, 0, samples).astype(np.int64))  # samples of each event inside the clip
    since = np.arange(samples, dtype=np.float32) - np.repeat(onsets[:-1].astype(np.float32), within)
    part = since / np.repeat(np.diff(onsets).astype(np.float32), within)
    return Beat(since / RATE, part, np.repeat(np.arange(count - 1), within), pitch, rate)


def noise(samples: int, low: Hertz, high: Hertz, rng: np.random.Generator) -> Wave:
    """Gaussian noise of unit RMS between two frequencies in Hz, made in the frequency domain."""
    first, last = int(low * samples / RATE), int(min(high, RATE / 2) * samples / RATE)
    spectrum = np.zeros(samples // 2 + 1, np.complex64)
    spectrum[first:last] = rng.standard_normal(2 * (last - first), np.float32).view(np.complex64)
    return np.fft.irfft(spectrum, samples) * np.float32(samples / 2 / np.sqrt(last - first))


def tone(cycles: Wave, harmonics: Sequence[float | int], top: Hertz) -> Wave:
    """A harmonic tone read from a wavetable; ``cycles`` is its phase, ``top`` its highest fundamental in Hz.

    Harmonics above the Nyquist frequency are left out.
    """
    keep = min(len(harmonics), int(RATE / 2 / top))
    spectrum = np.zeros(TABLE // 2 + 1, np.complex64)
    spectrum[1 : keep + 1] = -0.5j * TABLE * np.asarray(harmonics[:keep], np.float32)
    table = np.fft.irfft(spectrum, TABLE).astype(np.float32)
    return table[(cycles * TABLE).astype(np.int64) & (TABLE - 1)]


def glide(frequency: Wave) -> Wave:
    """The phase in cycles of a frequency in Hz that changes from sample to sample."""
    return (np.cumsum(frequency, dtype=np.float64) / RATE % 4096).astype(np.float32)


def strike(since: Wave, attack: float, decay: float) -> Wave:
    """The level of a struck thing: both times are time constants in seconds."""
    return (1 - np.exp(since * np.float32(-1 / attack))) * np.exp(since * np.float32(-1 / decay))


def arch(part: Wave, end: float = 1.0) -> Wave:
    """A half sine over the first ``end`` of an event, nothing behind it."""
    return np.sin(np.minimum(part, np.float32(end)) * np.float32(np.pi / end))


def notes(beat: Beat, frequency: Hertz, rng: np.random.Generator) -> Wave:
    """A melody: frequencies in Hz, a random step of the scale for each event."""
    steps = SCALE[rng.integers(len(SCALE), size=beat.index[-1] + 1)]
    return (frequency * beat.pitch * steps[beat.index]).astype(np.float32)


def wind(b: Beat, rng: np.random.Generator) -> Wave:
    whistle = noise(len(b.part), 420 * b.pitch, 640 * b.pitch, rng)
    return (0.15 + 0.85 * arch(b.part) ** 2) * (whistle + 0.15 * noise(len(b.part), 60, 3000, rng))


def rain(b: Beat, rng: np.random.Generator) -> Wave:
    samples = len(b.part)
    drops = np.zeros(samples, np.float32)
    drops[rng.integers(samples, size=int(8 * b.rate * samples / RATE))] = 1
    drops *= rng.uniform(0.3, 1, samples).astype(np.float32) * np.exp(b.part * -4)  # each gust starts with a splash
    ring = np.arange(samples, dtype=np.float32) / RATE
    drop = np.exp(ring * -400) * np.sin(ring * np.float32(2 * np.pi * 2600 * b.pitch))
    wet = np.fft.irfft(np.fft.rfft(drops) * np.fft.rfft(drop), samples)
    return wet.astype(np.float32) + 0.02 * noise(samples, 1500 * b.pitch, 4000 * b.pitch, rng)


def thunder(b: Beat, rng: np.random.Generator) -> Wave:
    rumble = noise(len(b.part), 70 * b.pitch, 210 * b.pitch, rng) * strike(b.since, 0.004, 0.12)
    return rumble + 0.4 * noise(len(b.part), 300 * b.pitch, 1500 * b.pitch, rng) * strike(b.since, 0.001, 0.02)


def waves(b: Beat, rng: np.random.Generator) -> Wave:
    hiss = noise(len(b.part), 700 * b.pitch, 3400 * b.pitch, rng)
    return hiss * (0.05 + b.part**3 * np.minimum(1, (1 - b.part) * 12))


def dog(b: Beat, rng: np.random.Generator) -> Wave:
    pitch = 330 * b.pitch * (1 + 0.7 * arch(b.since, 0.1))
    voice = tone(glide(pitch), [1, 0.9, 0.8, 0.6, 0.5, 0.3, 0.2, 0.1], 560 * b.pitch)
    return (voice + 0.5 * noise(len(pitch), 400 * b.pitch, 2200 * b.pitch, rng)) * arch(b.since, 0.1)


def bird(b: Beat, rng: np.random.Generator) -> Wave:
    sweep = 1900 * b.pitch * (0.75 + b.part + 0.06 * np.sin(b.since * np.float32(2 * np.pi * 28)))
    return tone(glide(sweep), [1, 0.1], 3400 * b.pitch) * arch(b.part, 0.6)


def cat(b: Beat, rng: np.random.Generator) -> Wave:
    pitch = 420 * b.pitch * (0.75 + 0.6 * arch(b.part))
    return tone(glide(pitch), [0.6, 1, 0.9, 0.4, 0.5, 0.2], 570 * b.pitch) * arch(b.part, 0.9)


def frog(b: Beat, rng: np.random.Generator) -> Wave:
    pulse = np.exp((b.since * 42 % 1) * -5)
    voice = tone(b.since * np.float32(280 * b.pitch), [0.2, 0.5, 1, 0.9, 0.3], 280 * b.pitch)
    return voice * pulse * arch(b.part, 0.55)


def engine(b: Beat, rng: np.random.Generator) -> Wave:
    rev = 75 * b.pitch * (1 + 0.25 * arch(b.part))
    teeth = rng.uniform(0.5, 1, 24) / np.arange(1, 25) ** 0.6
    return tone(glide(rev), teeth.tolist(), 94 * b.pitch) * (0.3 + 0.7 * arch(b.part))


def drill(b: Beat, rng: np.random.Generator) -> Wave:
    on = np.clip(np.minimum(b.part, 0.65 - b.part) * 40, 0, 1)
    buzz = tone(glide(210 * b.pitch * (0.8 + 0.2 * on)), [h**-0.2 for h in range(1, 36)], 210 * b.pitch)
    return (buzz + noise(len(buzz), 2500, 7500, rng)) * (0.03 + on)


def alarm(b: Beat, rng: np.random.Generator) -> Wave:
    step = np.where(b.part < 0.5, np.float32(780 * b.pitch), np.float32(1050 * b.pitch))
    return tone(glide(step), [1, 0, 0.4, 0, 0.25, 0, 0.15], 1050 * b.pitch)


def clock(b: Beat, rng: np.random.Generator) -> Wave:
    tick = np.where(b.index % 2 == 0, np.float32(1900 * b.pitch), np.float32(1500 * b.pitch))
    metal = np.sin(b.since * tick * np.float32(2 * np.pi)) + 0.4 * noise(len(tick), 1000, 7000, rng)
    return metal * strike(b.since, 0.0003, 0.006)


def piano(b: Beat, rng: np.random.Generator) -> Wave:
    root = notes(b, 260, rng)
    chord = [tone(b.since * root * r, [1, 0.45, 0.25, 0.12, 0.06], 440 * b.pitch * r) for r in (1.0, 1.26, 1.5)]
    return (chord[0] + 0.7 * chord[1] + 0.7 * chord[2]) * strike(b.since, 0.003, 0.22)


def flute(b: Beat, rng: np.random.Generator) -> Wave:
    vibrato = 1 + 0.012 * np.sin(b.since * np.float32(2 * np.pi * 6))
    air = 0.12 * noise(len(b.part), 1200 * b.pitch, 3500 * b.pitch, rng)
    return (tone(glide(notes(b, 620, rng) * vibrato), [1, 0.12, 0.04], 1060 * b.pitch) + air) * arch(b.part) ** 0.5


def drum(b: Beat, rng: np.random.Generator) -> Wave:
    drop = b.since + 0.03 * (1 - np.exp(b.since * -40))  # the skin starts at 2.2 times its pitch and relaxes
    skin = tone(drop * np.float32(95 * b.pitch), [1, 0.1], 210 * b.pitch) * strike(b.since, 0.002, 0.07)
    return skin + 0.5 * noise(len(skin), 1500, 6000, rng) * strike(b.since, 0.0005, 0.008)


def guitar(b: Beat, rng: np.random.Generator) -> Wave:
    string = b.since * notes(b, 165, rng)
    pluck = [abs(np.sin(h * np.pi / 5)) / h**0.5 for h in range(1, 26)]
    bright = tone(string, pluck, 280 * b.pitch) * strike(b.since, 0.001, 0.05)
    return bright + tone(string, [a / h for h, a in enumerate(pluck, 1)], 280 * b.pitch) * strike(b.since, 0.001, 0.3)


SOURCES: dict[str, Callable[[Beat, np.random.Generator], Wave]] = {
    source.__name__: source
    for source in (wind, rain, thunder, waves, dog, bird, cat, frog)
    + (engine, drill, alarm, clock, piano, flute, drum, guitar)
}


def hum(samples: int, rng: np.random.Generator) -> Wave:
    """A mains hum of unit RMS with a random phase and a fundamental near 120 Hz."""
    cycles = np.arange(samples, dtype=np.float32) * np.float32(rng.uniform(117, 123) / RATE) + np.float32(rng.random())
    buzz = tone(cycles, [h**-0.5 for h in range(1, 31)], 123)
    return buzz / np.sqrt(np.mean(buzz**2))


def render(scene: Scene, seconds: float, rng: np.random.Generator) -> Wave:
    """The scene as mono float32 in [-1, 1] at 16 kHz; start, timing, pitch, gain and noises are drawn from ``rng``."""
    samples = round(seconds * RATE)
    pitch = PITCHES[scene.pitch] * float(np.exp(rng.normal(0, 0.04)))
    rate = EVENTS[scene.tempo] * rng.uniform(0.9, 1.1)
    wave = SOURCES[scene.family](beats(samples, rate, pitch, rng), rng)
    wave *= min(0.12 / (np.sqrt(np.mean(wave**2)) + 1e-9), 0.7 / (np.abs(wave).max() + 1e-9))
    wave *= np.exp(np.log(10) / 20 * np.linspace(*RAMPS[scene.envelope], samples)).astype(np.float32)
    wave += FLOOR * rng.standard_normal(samples, np.float32)
    if scene.background == "hum":
        wave += HUM * hum(samples, rng)
    return np.clip(wave * np.float32(10 ** rng.uniform(-0.3, 0)), -1, 1)
