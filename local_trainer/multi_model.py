"""Several models or tracks in parallel: the original's calls, its names and defaults.

A job is a `DeepRacerEngine`; Ray packs the jobs on this machine's cores, and those that do not fit
wait for their turn. As with one engine, trainings go on when the notebook ends: ``local-trainer
runs list`` shows them, ``local-trainer runs stop`` ends them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_trainer.engine import DeepRacerEngine
from local_trainer.errors import ConfigError, LocalTrainerError, RunFailed
from local_trainer.launch.pack import check_ray, start_pack
from local_trainer.launch.ray_cluster import check_address
from local_trainer.launch.trials import Resources, fit_to_resources
from local_trainer.machine import gpus, num_cpus
from local_trainer.runs import Run, write_atomically

if TYPE_CHECKING:
    import pandas

Params = dict[str, Any]
Engines = Mapping[str, DeepRacerEngine]

RUNS_PICTURE = "multi_model_runs.png"
EVALUATION_PICTURE = "multi_model_evaluation.png"
"""Their names in the folder of the runs."""

_TRIALS = 5
_MEMORY_GB = 3.0
"""What one training takes at most, with the service's batch sizes."""


def param_gen_batch_sizes(
    min_batch: int = 64,
    max_batch: int = 512,
    job_duration: float = 3600,
    job_name_prefix: str | None = None,
    track_name: str = "reinvent_base",
) -> list[Params]:
    """Return parameters of jobs whose batch doubles from one to the next.

    Args:
        min_batch: Batch of the first job.
        max_batch: No batch is larger.
        job_duration: Seconds of training at most, each.
        job_name_prefix: Jobs are called ``<prefix>-batchsize-<n>``; required.
        track_name: Track of all jobs.

    Raises:
        ConfigError: If there is no prefix or no batch between the two.
    """
    prefix = _prefix(job_name_prefix)
    for name, value in (("min_batch", min_batch), ("max_batch", max_batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be an integer >= 1, got {value!r:.80}.")
    if max_batch < min_batch:
        raise ConfigError(f"max_batch must be at least min_batch {min_batch}, got {max_batch}.")
    sizes = [min_batch]
    while 2 * sizes[-1] <= max_batch:
        sizes.append(2 * sizes[-1])
    return [_params(f"{prefix}-batchsize-{size}", track_name, size, job_duration) for size in sizes]


def param_gen_tracks(
    job_name_prefix: str | None = None,
    batch_size: int = 64,
    job_duration: float = 3600,
    track_names: Sequence[str] = ("reinvent_base", "Oval_track", "Bowtie_track"),
) -> list[Params]:
    """Return parameters of jobs that differ in their track.

    Args:
        job_name_prefix: Jobs are called ``<prefix>-track-<track>``, with ``-`` for ``_``; required.
        batch_size: Batch of all jobs.
        job_duration: Seconds of training at most, each.
        track_names: A job each.

    Raises:
        ConfigError: If there is no prefix, or the tracks are no list of names.
    """
    prefix = _prefix(job_name_prefix)
    if isinstance(track_names, str) or not all(isinstance(name, str) for name in track_names):
        raise ConfigError(f"track_names must be a list of names, got {track_names!r:.80}.")
    return [
        _params(f"{prefix}-track-{name.replace('_', '-')}", name, batch_size, job_duration)
        for name in track_names
    ]


def start_multi_model_simulations(
    params: Sequence[Mapping[str, Any]],
    *,
    resources: Resources | None = None,
    address: str | None = None,
) -> dict[str, DeepRacerEngine]:
    """Start training several models and return at once; each engine says where it stands.

    Everything is checked for all jobs before the first begins. With more jobs than the machine has
    room for, the last wait.

    Args:
        params: What `DeepRacerEngine` takes, a dict a job.
        resources: What each job declares; by default the cores are shared out evenly.
        address: ``host:port`` of a Ray cluster; None for this machine alone.

    Returns:
        The engines by job name, in order.

    Raises:
        ConfigError: If Ray is not installed, a parameter is not allowed, or two jobs have one
            name; names the job. If nobody answers at the address, or this machine has less than
            a job declares. Nothing was started or written then.
        NotFound: If a job's file does not exist.
        RewardFunctionError: If a job's reward function cannot be loaded or called.
    """
    check_ray()
    engines = _checked(params)
    declared = resources or _even_share(list(engines.values()))
    for name, engine in engines.items():
        with _telling(f"Job {name!r}"):
            _check_processor(engine, declared)
    if address is None:
        _check_machine(declared)
    else:
        check_address(address)
    runs = _create_runs(engines)
    jobs = start_pack("training", list(runs.values()), declared, address=address)
    for name, run in runs.items():
        engines[name]._adopt(run, jobs[run.name])
    return engines


def start_multi_model_evaluation(
    engines: Engines, *, resources: Resources | None = None
) -> dict[str, DeepRacerEngine]:
    """Start greedy laps of every model; waits for trainings under way.

    A model whose training failed is left out, with a warning.

    Args:
        engines: What `start_multi_model_simulations` returned.
        resources: What each evaluation declares.

    Returns:
        The engines that are evaluated.

    Raises:
        ConfigError: If Ray is not installed, a training was not started, or this machine has less
            than an evaluation declares.
        RunFailed: If every training failed.
    """
    check_ray()
    good = _without_failed(engines, "training")
    for engine in good.values():
        engine._stop(engine._evaluation)
    runs = {name: engine._started_run() for name, engine in good.items()}
    declared = resources or _even_share(list(good.values()))
    _check_machine(declared)
    for folder in dict.fromkeys(run.path.parent for run in runs.values()):
        here = [name for name, run in runs.items() if run.path.parent == folder]
        jobs = start_pack(
            "evaluation",
            [runs[name] for name in here],
            declared,
            [good[name].config.evaluation.trials for name in here],
        )
        for name in here:
            good[name]._evaluation = jobs[runs[name].name]
    return good


def plot_multi_model_runs_output(engines: Engines, file: str | Path | None = None) -> Path:
    """Show reward and completion of all models, a curve a job, live until all have ended.

    In a notebook the picture renews itself; elsewhere it is the file. A job that failed keeps its
    curve, and is told with a warning in the end.

    Args:
        engines: What `start_multi_model_simulations` returned.
        file: Where the picture goes; ``multi_model_runs.png`` in the folder of the runs when left
            out.

    Returns:
        The picture's file.

    Raises:
        ConfigError: If a training was not started.
        RunFailed: If every training failed.
    """
    from local_trainer.plots import live_runs_plot

    path = Path(file or _folder(engines) / RUNS_PICTURE)
    runs = {name: engine._started_run() for name, engine in engines.items()}

    def named() -> dict[str, Run]:
        return {_label(name, engines[name]): run for name, run in runs.items()}

    live_runs_plot(named, path, lambda: not any(map(_trains, engines.values())))
    _without_failed(engines, "training")
    return path


def plot_multi_model_evaluation(
    engines: Engines, file: str | Path | None = None
) -> pandas.DataFrame:
    """Wait for all evaluations, draw them, and return their table.

    Args:
        engines: What `start_multi_model_evaluation` returned.
        file: Where the picture goes; ``multi_model_evaluation.png`` in the folder of the runs when
            left out.

    Returns:
        One row a lap: ``job``, ``trial``, ``completion_percentage``, ``elapsed_time`` (s). A model
        that could not be evaluated has none, and is told with a warning.

    Raises:
        ConfigError: If a training was not started.
        RunFailed: If no model could be evaluated.
    """
    import pandas

    from local_trainer.plots import (
        display,
        evaluation_table,
        plot_evaluations,
        png,
        read_evaluation,
    )

    good = _without_failed(_without_failed(engines, "training"), "evaluation")
    runs = {name: engine._started_run() for name, engine in good.items()}
    picture = png(plot_evaluations({name: read_evaluation(run) for name, run in runs.items()}))
    write_atomically(Path(file or _folder(engines) / EVALUATION_PICTURE), picture)
    display(picture)
    rows = [{"job": name, **row} for name, run in runs.items() for row in evaluation_table(run)]
    columns = ["job", "trial", "completion_percentage", "elapsed_time"]
    return pandas.DataFrame(rows, columns=columns)


def _prefix(job_name_prefix: str | None) -> str:
    if not isinstance(job_name_prefix, str) or not job_name_prefix:
        raise ConfigError(
            "job_name_prefix is required: what the jobs' names begin with, "
            f"got {job_name_prefix!r:.80}."
        )
    return job_name_prefix


def _params(job_name: str, track_name: str, batch_size: int, job_duration: float) -> Params:
    return {
        "job_name": job_name,
        "track_name": track_name,
        "batch_size": batch_size,
        "job_duration": job_duration,
        "evaluation_trials": _TRIALS,
    }


def _checked(params: Sequence[Mapping[str, Any]]) -> dict[str, DeepRacerEngine]:
    """Return an engine a job; nothing is written."""
    if isinstance(params, Mapping | str) or not isinstance(params, Sequence):
        raise ConfigError(f"Several models take a list of parameter dicts, got {params!r:.80}.")
    if not params:
        raise ConfigError("Several models take a list of parameter dicts, got an empty one.")
    engines: dict[str, DeepRacerEngine] = {}
    for number, one in enumerate(params, start=1):
        given = one.get("job_name") if isinstance(one, Mapping) else None
        with _telling(f"Job {given!r}" if given else f"Job {number} of {len(params)}"):
            engine = DeepRacerEngine(one)
            if engine.job_name in engines:
                raise ConfigError("each job needs a name of its own, this one is there twice.")
            if engine.config.simulator.backend == "gazebo":
                raise ConfigError(
                    "simulator.backend must be embedded for several models at once, got gazebo."
                )
            if (ray := engine.config.cluster.ray) is not None:
                raise ConfigError(
                    "cluster.ray cannot be set for several models at once: each plays its own "
                    f"episodes, and address names the cluster that trains them, got {ray}."
                )
            engines[engine.job_name] = engine
    return engines


def _check_processor(engine: DeepRacerEngine, declared: Resources) -> None:
    """Refuse a job that asks for a GPU and declares none, in the words in which it asks.

    Raises:
        ConfigError: Names ``instance_type``, or the override that takes its place.
    """
    try:
        fit_to_resources(engine.config, declared)
    except ConfigError:
        if "instance" in engine._params["overrides"]:
            raise
        raise ConfigError(
            "instance_type must be a processor, such as ml.c4.2xlarge, where a job has no GPU "
            f"(resources.gpus 0), got {engine._params['instance_type']}."
        ) from None


def _check_machine(declared: Resources) -> None:
    """Refuse what this machine never has room for, before there are runs that wait for it.

    Raises:
        ConfigError: If it has less than one job declares.
    """
    num_gpus = len(gpus()) if declared.gpus else 0
    for name, has, wanted in (
        ("cpus", num_cpus(), declared.cpus),
        ("gpus", num_gpus, declared.gpus),
    ):
        if wanted > has:
            raise ConfigError(
                f"resources.{name} must be at most the {has} of this machine for one job, "
                f"got {wanted:g}."
            )


def _create_runs(engines: Engines) -> dict[str, Run]:
    """Write the runs of all jobs; none stays if one cannot be written."""
    runs: dict[str, Run] = {}
    try:
        for name, engine in engines.items():
            with _telling(f"Job {name!r}"):
                runs[name] = engine._create_run()
    except BaseException:
        for run in runs.values():
            run.delete()
        raise
    return runs


@contextmanager
def _telling(job: str) -> Iterator[None]:
    """Begin the line of an error with the job that it is about."""
    try:
        yield
    except LocalTrainerError as error:
        error.args = (f"{job}: {error}",)
        raise


def _even_share(engines: Sequence[DeepRacerEngine]) -> Resources:
    """Return what each job declares if all share the machine's cores evenly."""
    cpus = max(1, num_cpus() // len(engines))
    num_gpus = len(gpus()) if any(engine.config.instance == "gpu" for engine in engines) else 0
    return Resources(
        cpus=float(cpus),
        # Whole ones if there are enough, else so that all have a part of one.
        gpus=min(1.0, num_gpus / len(engines)),
        memory_gb=_MEMORY_GB,
    )


def _without_failed(engines: Engines, what: str) -> dict[str, DeepRacerEngine]:
    """Wait for all trainings or evaluations and return the engines without those that failed.

    Raises:
        RunFailed: If that leaves none.
    """
    good, told = {}, []
    for name, engine in engines.items():
        engine._started_run()
        try:
            engine._wait_for(what)
        except RunFailed as error:
            told.append(f"Job {name!r}: {error}")
        else:
            good[name] = engine
    if told and not good:
        raise RunFailed(f"No {what} ended well. {told[0]}")
    for line in told:
        warnings.warn(line, RuntimeWarning, stacklevel=3)
    return good


def _folder(engines: Engines) -> Path:
    """Return the folder of the runs."""
    for engine in engines.values():
        return engine._started_run().path.parent
    raise ConfigError("There must be one engine at least, got none.")


def _trains(engine: DeepRacerEngine) -> bool:
    return engine._training is not None and engine._training.poll() is None


def _label(name: str, engine: DeepRacerEngine) -> str:
    """Return what the legend says: a job that has ended well is its name alone."""
    state = engine.state.partition(":")[0]
    return f"{name} ({state})" if state in ("waiting", "training", "stopped", "failed") else name
