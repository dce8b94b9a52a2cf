"""Importing Coach stays quiet and quick; each check is a process of its own."""

import json
import subprocess
import sys

import pytest

BUILD = """
import json, sys
from coach_presets.agent import SessionSettings, build_agent
from coach_presets.preset import agent_parameters
from local_trainer.config import PpoConfig

slow = ("pandas", "scipy.signal", "redis", "matplotlib", "rl_coach.graph_managers.graph_manager")
loaded = [name for name in slow if name in sys.modules]
build_agent(agent_parameters(PpoConfig()), 3, 0, 0, SessionSettings(1, False, False))
print(json.dumps(loaded), file=open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, list[str]]:
    """Import and build an agent; return what was printed, what was warned and what was loaded."""
    file = tmp_path_factory.mktemp("compat") / "loaded.json"
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, json.loads(file.read_text())


def test_nothing_is_printed(built: tuple[str, str, list[str]]) -> None:
    assert built[0] == ""


def test_nothing_is_warned_of(built: tuple[str, str, list[str]]) -> None:
    # What TensorFlow's C++ side says about CUDA depends on the machine and cannot be turned off.
    lines = [line for line in built[1].splitlines() if "absl::" not in line and ".cc:" not in line]
    assert lines == []


def test_what_coach_imports_and_ppo_never_uses_is_not_loaded(
    built: tuple[str, str, list[str]],
) -> None:
    assert built[2] == []
