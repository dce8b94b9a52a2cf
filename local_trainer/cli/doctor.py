"""``local-trainer doctor``: is everything here that training needs, and how to mend what is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from local_trainer import machine
from local_trainer.cli.console import print_json
from local_trainer.cli.options import AsJson, RunsDir
from local_trainer.errors import last_line
from local_trainer.runs import DEFAULT_RUNS_DIR

_SYMBOLS = {"ok": "✓", "note": "·", "failed": "✗"}

# Import name of a package -> name it is installed by.
_PACKAGES = {
    "tensorflow": "tensorflow",
    "rl_coach": "rl-coach",
    "gym": "gym",
    "gymnasium": "gymnasium",
    "numba": "numba",
    "numpy": "numpy",
    "scipy": "scipy",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "av": "av",
}
_DISK_NEEDED_GIB = 2.0
_MEMORY_NEEDED_GIB = 2.5


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    state: str
    """``ok``, ``note`` (good to know) or ``failed``."""
    found: str
    mend: str = ""
    """Command or step that mends it."""


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Import the packages too (takes some seconds).")
    ] = False,
    stack: Annotated[
        bool, typer.Option("--stack", help="Check what Gazebo in containers needs, item by item.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Check that this machine can train, and say how to mend what is missing."""
    checks = list(examine(runs_dir, deep, stack))
    failed = [check for check in checks if check.state == "failed"]
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            print(f"{_SYMBOLS[check.state]} {check.name:<10} {check.found}")
            if check.mend:
                print(f"  {'':<10} → {check.mend}")
    if failed:
        raise typer.Exit(1)


def examine(runs_dir: Path, deep: bool, stack: bool = False) -> Iterator[Check]:
    """Yield every check's result.

    Args:
        runs_dir: Folder the runs lie in.
        deep: Whether packages are imported, too.
        stack: Whether what Gazebo in containers needs is needed.
    """
    yield _python()
    yield _packages()
    if deep:
        yield _imports()
    yield _cpu()
    yield _memory()
    yield _disk(runs_dir)
    yield _runs_dir(runs_dir)
    yield _gpu(deep)
    yield from _stack() if stack else [_docker()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    is_supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    if is_supported:
        return Check("python", "ok", version)
    mend = "make clean setup PYTHON=/path/to/python3.12"
    return Check("python", "failed", f"{version}; allowed: 3.11, 3.12", mend)


def _packages() -> Check:
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    missing, versions = [], {}
    for module, package in _PACKAGES.items():
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
            continue
        if find_spec(module) is None:
            missing.append(package)
    if missing:
        return Check("packages", "failed", f"missing: {', '.join(missing)}", "make clean setup")
    main = ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "rl-coach", "numpy"))
    return Check("packages", "ok", f"{len(versions)} found: {main}, …")


def _imports() -> Check:
    # In a process of its own: importing TensorFlow cannot be undone.
    code = "import coach_presets.compat, numba, av, matplotlib"
    problem = _try_python(code)
    if problem:
        return Check("imports", "failed", problem, "make clean setup")
    return Check("imports", "ok", "TensorFlow, Coach and the simulator's packages load")


def _try_python(code: str) -> str:
    """Run code in a new Python; return its last line of error output, empty if it worked."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer after 300 s"
    if done.returncode == 0:
        return ""
    return last_line(done.stderr) or f"ended with status {done.returncode}"


def _cpu() -> Check:
    names = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    features = [name for name in names if name in machine.cpu_features()]
    precision = "bf16" if machine.has_fast_bf16() else "fp32"
    found = (
        f"{machine.num_cpus()} threads, {machine.cpu_name()} ({', '.join(features) or 'no AVX2'}); "
        f"precision auto = {precision}"
    )
    return Check("processor", "ok", found)


def _memory() -> Check:
    available = machine.available_memory_gib()
    if available is None:
        return Check("memory", "note", "cannot be told on this system")
    found = f"{available:.1f} GiB available"
    if available >= _MEMORY_NEEDED_GIB:
        return Check("memory", "ok", found)
    mend = "close other programs, or train with fewer cars: --cars 8"
    return Check("memory", "failed", f"{found}; training takes {_MEMORY_NEEDED_GIB:g} GiB", mend)


def _disk(runs_dir: Path) -> Check:
    free = machine.free_disk_gib(runs_dir.absolute())
    found = f"{free:.1f} GiB free for runs"
    if free >= _DISK_NEEDED_GIB:
        return Check("disk", "ok", found)
    mend = "local-trainer runs delete RUN, or --runs-dir on another disk"
    return Check("disk", "failed", f"{found}; a run takes up to {_DISK_NEEDED_GIB:g} GiB", mend)


def _runs_dir(runs_dir: Path) -> Check:
    folder = runs_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and not _is_read_only(folder):
        return Check("runs", "ok", f"{runs_dir.absolute()} can be written")
    mend = "give a folder of your own with --runs-dir"
    return Check("runs", "failed", f"{folder} cannot be written", mend)


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _gpu(deep: bool) -> Check:
    found = machine.gpus()
    if not found:
        return Check("gpu", "note", "none; training runs on the processor")
    names = ", ".join(f"{gpu.name} ({gpu.memory_gib:.0f} GiB)" for gpu in found)
    if not deep:
        return Check("gpu", "ok", f"{names}; whether TensorFlow can use it: doctor --deep")
    problem = _try_python(
        "import tensorflow as tf; assert tf.config.list_physical_devices('GPU'), 'not usable'"
    )
    if not problem:
        return Check("gpu", "ok", f"{names}, usable by TensorFlow")
    return Check("gpu", "failed", f"{names}, not usable by TensorFlow", "make setup GPU=1")


def _stack() -> Iterator[Check]:
    """Look at everything that Gazebo in containers needs."""
    from local_trainer.launch.stack_checks import examine_stack

    for check in examine_stack():
        yield Check(check.name, "ok" if check.is_ok else "failed", check.found, check.mend)


def _docker() -> Check:
    """Tell the first thing that Gazebo in containers lacks; the embedded simulator needs none."""
    from local_trainer.launch.stack_checks import examine_stack

    found = []
    for check in examine_stack():
        if not check.is_ok:
            return Check(
                "docker", "note", f"{check.found}; only Gazebo in containers needs it", check.mend
            )
        found.append(check.found)
    return Check("docker", "ok", f"{', '.join(found[:2])}; Gazebo in containers can run")
