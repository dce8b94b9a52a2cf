"""Every command, setting, reward parameter, metric and engine parameter is documented."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from local_trainer import metrics, progress, simtrace
from local_trainer.config import config_fields
from local_trainer.engine import PARAMETERS, DeepRacerEngine
from local_trainer.runs import RunStatus
from sim.reward_params import RewardParams
from sim.steps import STEP_DTYPE
from sim.track_files import load_track

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def codes(name: str) -> set[str]:
    """Return everything a page sets in code type."""
    return set(re.findall(r"`([^`\n]+)`", text(name)))


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(make_docs: ModuleType) -> None:
    stale = [path.name for path, page in make_docs.pages().items() if path.read_text() != page]
    assert not stale, "run: make docs"


def test_every_command_and_option_is_explained(make_docs: ModuleType) -> None:
    silent = [path for path, command in make_docs.walk_commands() if not command.help]
    for path, command in make_docs.walk_commands():
        silent += [f"{path} {p.name}" for p in command.params if not getattr(p, "help", None)]
    assert not silent


def test_every_command_is_in_the_readme(make_docs: ModuleType) -> None:
    readme = text("README.md")
    assert not [path for path, _ in make_docs.walk_commands() if path not in readme]


def test_commands_shown_in_the_docs_exist(make_docs: ModuleType) -> None:
    known = dict(make_docs.walk_commands())
    wrong = []
    for page in PAGES:
        for line in re.findall(r"local-trainer [^`\n|]+", page.read_text(encoding="utf-8")):
            words = line.split()
            path = next((p for n in (3, 2) if (p := " ".join(words[:n])) in known), None)
            if path is None:
                continue  # `local-trainer --help`, or a word of a sentence
            options = {name for param in known[path].params for name in param.opts}
            options |= {"--help", "--traceback"}
            used = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
            wrong += [f"{page.name}: {path} {option}" for option in used - options]
    assert not wrong


def test_every_setting_is_explained() -> None:
    assert not [field.key for field in config_fields() if not field.description]


def test_every_reward_parameter_is_documented_and_no_other() -> None:
    track = load_track("Oval_track")
    keys = set(RewardParams(track).dicts(np.zeros(1, STEP_DTYPE))[0])
    table = re.findall(r"^\| (`.*?`) \|", text("docs/reward-parameters.md"), re.MULTILINE)
    assert {key for cell in table for key in re.findall(r"`(\w+)`", cell)} == keys


def test_every_metric_is_documented() -> None:
    events = (
        progress.PhaseEvent,
        progress.EpisodeEvent,
        progress.UpdateEvent,
        progress.EvaluationEvent,
        progress.EndEvent,
    )
    names = {field.name for cls in (RunStatus, *events) for field in fields(cls)}
    names |= {cls.event for cls in events}
    names |= set(simtrace.TRACE_FIELDS)
    names |= {*metrics._COUNTED, "reset_count", "reward_score", "completion_percentage"}
    assert not names - codes("docs/metrics.md")


def test_every_engine_parameter_and_method_is_documented() -> None:
    shown = codes("docs/engine.md")
    public = [name for name in vars(DeepRacerEngine) if not name.startswith("_")]
    methods = {f"{name}()" for name in public if callable(getattr(DeepRacerEngine, name))}
    assert not set(PARAMETERS) - shown
    assert not methods - shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_is_reachable_from_the_readme(page: Path) -> None:
    if page.parent.name == "docs":
        assert f"docs/{page.name}" in text("README.md")
