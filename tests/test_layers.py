"""Imports point one way, and each heavy dependency has one home."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim", "local_trainer", "coach_presets", "rewards")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Which of our packages a package may import. Workers are the top: they are started, not imported.
ALLOWED = {
    "sim": {"sim"},
    "local_trainer": {"sim", "local_trainer"},
    "coach_presets": {"sim", "local_trainer", "coach_presets"},
    "rewards": set(),
    "local_trainer.workers": {"sim", "local_trainer", "coach_presets"},
    "local_trainer.bench": {"sim", "local_trainer", "coach_presets"},
}

# Heavy dependency -> modules that may import it, by the beginning of their name.
HOMES = {
    "tensorflow": ("coach_presets", "local_trainer.bench"),
    "rl_coach": ("coach_presets", "local_trainer.bench"),
    "redis": ("local_trainer.transport",),
    "lz4": ("local_trainer.transport",),
    "minio": ("local_trainer.store",),
    "rospy": ("sim.gazebo",),
    "boto3": ("local_trainer.console_api",),
    "botocore": ("local_trainer.console_api",),
    "optuna": ("local_trainer.sweep",),
    "ray": ("local_trainer.launch",),
    "numba": ("sim",),
    "matplotlib": (
        "local_trainer.bench.parity_plots",
        "local_trainer.compare.plots",
        "local_trainer.plots",
        "local_trainer.sweep_plots",
        "local_trainer.track_plot",
        "local_trainer.lab.figures",
    ),
    "av": ("local_trainer.video",),
    "gym": ("sim.gym_env",),
    "gymnasium": ("sim.gym_env",),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    module = module_name(path)
    layer = max((name for name in ALLOWED if is_within(module, name)), key=len)
    wrong = [
        f"{path}:{line} imports {name}"
        for line, name in imports(path)
        if name.split(".")[0] in PACKAGES and name.split(".")[0] not in ALLOWED[layer]
    ]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_workers_are_started_not_imported(path: Path) -> None:
    if is_within(module_name(path), "local_trainer.workers"):
        return
    wrong = [line for line, name in imports(path) if is_within(name, "local_trainer.workers")]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_dependencies_stay_at_home(path: Path) -> None:
    module = module_name(path)
    wrong = [
        f"{path}:{line} imports {name}"
        for line, name in imports(path)
        if (homes := HOMES.get(name.split(".")[0])) and not module.startswith(homes)
    ]
    assert not wrong


def test_nothing_depends_on_an_unlisted_package() -> None:
    """Every import is the standard library's, ours, or a dependency of pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    declared = " ".join([*project["dependencies"], *extras]).lower()
    installed_as = {
        "PIL": "pillow",
        "botocore": "boto3",
        "rl_coach": "rl-coach",
        "yaml": "pyyaml",
    }
    unlisted = set()
    for path in SOURCES:
        for line, name in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in PACKAGES:
                continue
            if installed_as.get(top, top).lower() not in declared:
                unlisted.add(f"{path}:{line} imports {top}")
    # A preset may import the file that is generated beside it; IPython is there in a notebook.
    assert not {line for line in unlisted if not line.endswith((" IPython", "preset_hyperparams"))}
