"""What the process asks of the machine before it computes."""

from __future__ import annotations

import ctypes
import sys

import torch

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
KEEP, LEAST = 1 << 30, 32 << 20  # bytes; glibc before 2.35 takes no threshold above the second


def settle(threads: int) -> None:
    """So many threads, and memory that is kept.

    glibc gives a tensor above 32 MB (an embedding table, its gradient) back to the system and takes new pages for the
    next one: a third of the processor time of a training step on the CPU (docs/log.md). Elsewhere nothing is done.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        if libc.mallopt(MMAP, KEEP) or libc.mallopt(MMAP, LEAST):
            libc.mallopt(TRIM, KEEP)  # alone it would switch off glibc's own rule, and help nothing
