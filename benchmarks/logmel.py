"""Our log-mel front end beside torchlibrosa (PANNs' own), or beside librosa where that is not installed.

    python benchmarks/logmel.py [clips] [seconds]

Both compute the 64 bands of PANNs at 32 kHz from the same noise, in turns, so that a busy machine slows both down; the
ratio is what to look at. Times are the median, on the number of threads that OMP_NUM_THREADS says.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from polymnia.ops.audio import PANNS_32K, LogMel

ROUNDS = 7
Front = Callable[[torch.Tensor], torch.Tensor]


def torchlibrosa() -> Front:
    """PANNs' own: the transform as two strided convolutions with fixed kernels."""
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

    cfg = PANNS_32K
    spectrogram = Spectrogram(n_fft=cfg.n_fft, hop_length=cfg.hop, win_length=cfg.win_length, freeze_parameters=True)
    logmel = LogmelFilterBank(
        sr=cfg.sample_rate, n_fft=cfg.n_fft, n_mels=cfg.n_mels, fmin=cfg.fmin, fmax=cfg.fmax, top_db=None
    )
    return lambda x: logmel(spectrogram(x))[:, 0].transpose(1, 2)


def librosa() -> Front:
    """NumPy, a clip at a time."""
    from librosa import power_to_db
    from librosa.feature import melspectrogram

    cfg = PANNS_32K
    bands = {"n_mels": cfg.n_mels, "fmin": cfg.fmin, "fmax": cfg.fmax}

    def one(x: np.ndarray) -> np.ndarray:
        power = melspectrogram(
            y=x, sr=cfg.sample_rate, n_fft=cfg.n_fft, hop_length=cfg.hop, pad_mode="reflect", **bands
        )
        return power_to_db(power, ref=1.0, amin=cfg.floor, top_db=None)

    return lambda x: torch.from_numpy(np.stack([one(row) for row in x.numpy()]))


def rivals() -> dict[str, Front]:
    """Whatever of the two can be imported here (a broken install counts as none)."""
    found = {}
    for name, build in (("torchlibrosa", torchlibrosa), ("librosa", librosa)):
        try:
            found[name] = build()
        except (ImportError, OSError, RuntimeError):
            continue
    return found


def measure(fronts: dict[str, Front], x: torch.Tensor) -> dict[str, float]:
    """Median seconds of each, taken in turns after one run to warm up."""
    times: dict[str, list[float]] = {name: [] for name in fronts}
    for turn in range(ROUNDS + 1):
        for name, front in fronts.items():
            start = time.perf_counter()
            front(x)
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def main(clips: int = 8, seconds: int = 10) -> None:
    x = torch.randn(clips, PANNS_32K.sample_rate * seconds, generator=torch.Generator().manual_seed(0)) * 0.1
    fronts: dict[str, Front] = {"polymnia": LogMel(PANNS_32K), **rivals()}
    with torch.inference_mode():
        ours = fronts["polymnia"](x)
        medians = measure(fronts, x)
        apart = {name: (front(x) - ours).abs().max().item() for name, front in fronts.items()}
    title = f"log-mel, {clips} clips of {seconds} s, {torch.get_num_threads()} thread(s)"
    table = Table("", "ms a clip", "x real time", "time / ours", "max difference, dB", title=title)
    for name, median in medians.items():
        ratio = median / medians["polymnia"]
        cells = (1000 * median / clips, clips * seconds / median, ratio, apart[name])
        table.add_row(name, *(f"{cell:.{places}f}" for cell, places in zip(cells, (2, 0, 2, 5), strict=True)))
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
