"""What this machine offers: processor features, memory, disk, GPU. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_GIB = 2**30


@cache
def cpu_features() -> frozenset[str]:
    """Return the processor's feature names as Linux lists them; empty where it lists none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def has_fast_bf16() -> bool:
    """Return whether the processor multiplies bf16 numbers by itself."""
    return not cpu_features().isdisjoint({"avx512_bf16", "amx_bf16"})


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def num_cpus() -> int:
    """Return how many processor threads this process may use, at least 1.

    Those it may run on, or as many as the processor time of its container comes to if that is less.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    share = _cpus_of_group()
    return count if share is None else max(1, min(count, int(share)))


_CPU_FILES = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Processor time and its period, both in microseconds: version 2 (one line), version 1."""


def _cpus_of_group() -> float | None:
    """Return how many processors' time a container may use; None without a limit."""
    for files in _CPU_FILES:
        try:
            texts = [
                text for path in files for text in Path(path).read_text(encoding="ascii").split()
            ]
        except OSError:
            continue
        if len(texts) == 2 and all(text.isdecimal() for text in texts) and int(texts[1]):
            return int(texts[0]) / int(texts[1])
    return None


def available_memory_gib() -> float | None:
    """Return the memory free for use in GiB, or None where it cannot be told.

    Of the machine, or of the container this process is in if that is less.
    """
    amounts = [amount for amount in (_free_on_machine(), _free_in_group()) if amount is not None]
    return min(amounts) / _GIB if amounts else None


def _free_on_machine() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


_GROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of this process's group where a container shows its own: version 2, version 1."""


def _free_in_group() -> int | None:
    for limit, used in _GROUP_FILES:
        try:
            texts = [Path(path).read_text(encoding="ascii").strip() for path in (limit, used)]
        except OSError:
            continue
        if all(text.isdecimal() for text in texts):
            return max(0, int(texts[0]) - int(texts[1]))
    return None


def free_disk_gib(path: Path) -> float:
    """Return the free space in GiB where a path lies or would lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / _GIB


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as its driver reports it."""

    name: str
    memory_gib: float


def gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs whose driver answers; none without a driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in answer.stdout.splitlines():
        name, _, memory = line.rpartition(",")
        found.append(Gpu(name.strip(), float(memory) / 1024 if memory.strip().isdigit() else 0.0))
    return found
