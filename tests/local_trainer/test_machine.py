"""What a process may use of its machine, where a container has less than the machine."""

from pathlib import Path

import pytest

from local_trainer import machine


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many processors this process may run on, four of them."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 5})
    return 4


def write_limits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, second: str | None, first: str | None
) -> None:
    """Let a container show these files: of version 2, and quota and period of version 1."""
    files = ((f"{folder}/cpu.max",), (f"{folder}/quota", f"{folder}/period"))
    if second is not None:
        (folder / "cpu.max").write_text(second)
    if first is not None:
        quota, period = first.split()
        (folder / "quota").write_text(f"{quota}\n")
        (folder / "period").write_text(f"{period}\n")
    monkeypatch.setattr(machine, "_CPU_FILES", files)


@pytest.mark.parametrize(
    ("second", "first", "expected"),
    [
        (None, None, 4),
        ("max 100000\n", None, 4),
        ("200000 100000\n", None, 2),
        ("250000 100000\n", None, 2),  # half a processor is no thread
        ("50000 100000\n", None, 1),
        ("1600000 100000\n", None, 4),
        (None, "300000 100000", 3),
        (None, "-1 100000", 4),
        ("nonsense\n", None, 4),
        ("100000 0\n", None, 4),
    ],
)
def test_threads_are_those_of_the_container(
    cpus: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: str | None,
    first: str | None,
    expected: int,
) -> None:
    write_limits(tmp_path, monkeypatch, second, first)
    assert machine.num_cpus() == expected
