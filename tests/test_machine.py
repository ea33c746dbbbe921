"""What a process asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from polymnia.runs.machine import settle

FAULTS = """
import resource, sys, torch
from polymnia.runs.machine import settle
settle(1) if sys.argv[1] == "settled" else torch.set_num_threads(1)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(12_000_000)
before = faults()
for _ in range(60):
    torch.ones(12_000_000)  # 48 MB, 11,719 pages
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is asked")
def test_memory_of_a_freed_tensor_serves_the_next_one() -> None:
    plain, settled = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "settled")
    )
    assert settled < 60 * 11_719 / 3 < plain  # nearly every one was new


def test_the_number_of_threads_is_what_was_asked_for() -> None:
    before = torch.get_num_threads()
    settle(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
