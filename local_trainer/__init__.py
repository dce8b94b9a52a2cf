"""Trains DeepRacer-style cars: settings, runs, rewards, rollouts, records and the commands."""

from typing import Any

_HOMES = {
    "DeepRacerEngine": "engine",
    "param_gen_batch_sizes": "multi_model",
    "param_gen_tracks": "multi_model",
    "start_multi_model_simulations": "multi_model",
    "start_multi_model_evaluation": "multi_model",
    "plot_multi_model_runs_output": "multi_model",
    "plot_multi_model_evaluation": "multi_model",
}
"""What a notebook imports from here, by the module it lies in; loaded when it is asked for."""


def __getattr__(name: str) -> Any:
    """Return a part of the notebook interface."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names, those that are not loaded yet among them."""
    return sorted({*globals(), *_HOMES})
