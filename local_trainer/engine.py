"""`DeepRacerEngine`: the original project's notebook interface, on this machine alone.

Parameters, method names (also the misspelt one) and file names are the original's. What was a
job in a cloud is a process here; what was an object-store prefix is the run's folder, named as
the original named it: ``<job_name>-sagemaker-<yymmdd-HHMMSS>`` in UTC.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from local_trainer.actions import (
    DEFAULT_SPEED_INTERVAL_MPS,
    DEFAULT_STEERING_INTERVAL_DEG,
    ActionSpace,
    custom_action_space,
    load_action_space,
)
from local_trainer.config import RunConfig, resolve_config
from local_trainer.errors import ConfigError, RunFailed, one_line, unknown_name
from local_trainer.run_files import create_run, find_user_file, load_config_track
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, write_atomically

if TYPE_CHECKING:
    import pandas

    from local_trainer.launch.cleanup import StoredRun

_STOP_LIMIT_S = 120.0
"""How long a process that was asked to stop may take to write what it has."""

_GOOD_ENDS = (0, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses that are no failure: stopped by the user is an end as good as any."""

_BOUNDS = ("min_speed", "max_speed", "min_steering_angle", "max_steering_angle")
_INTERVALS = ("speed_interval", "steering_angle_interval")

_HYPERPARAMETERS: dict[str, float] = {
    "learning_rate": 0.0003,
    "batch_size": 64,
    "optimizer_epsilon": 0.00001,
    "optimization_epochs": 10,
    "discount_factor": 0.999,
    "beta_entropy": 0.01,
}
"""The original's defaults; ``profile`` chooses others."""

_DEFAULTS: dict[str, Any] = {
    "track_name": "reinvent_base",
    "instance_type": "ml.c4.2xlarge",
    "instance_pool_count": 1,
    "job_duration": 3600,
    "racetrack_env": None,
    "reward_policy": "rewards/reward_estimator_optimal_path.py",
    "meta_file": None,
    "presets": None,
    "evaluation_trials": 5,
    "custom_action_space": False,
    "profile": None,
    "runs_dir": str(DEFAULT_RUNS_DIR),
    "overrides": {},
}

PARAMETERS = ("job_name", *_DEFAULTS, *_BOUNDS, *_INTERVALS, *_HYPERPARAMETERS)
"""Every parameter `DeepRacerEngine` takes."""


_MULTI_MODEL = (
    "param_gen_batch_sizes",
    "param_gen_tracks",
    "start_multi_model_simulations",
    "start_multi_model_evaluation",
    "plot_multi_model_runs_output",
    "plot_multi_model_evaluation",
)


def __getattr__(name: str) -> Any:
    """Return a call for several models, which the original has beside its engine."""
    if name in _MULTI_MODEL:
        from local_trainer import multi_model

        return getattr(multi_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Job(Protocol):
    """A training or evaluation under way: a process, or one job of several in one process."""

    def poll(self) -> int | None:
        """Return the exit status, None before the end."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status."""

    def terminate(self) -> None:
        """Ask for its end."""

    def kill(self) -> None:
        """End it at once."""


class DeepRacerEngine:
    """Trains, evaluates and plots one model."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        """Check the parameters; nothing is written or started yet.

        Args:
            params: ``job_name`` is required. The original's: ``track_name``, ``instance_type``
                (``ml.p*`` and ``ml.g*`` train on the GPU), ``instance_pool_count`` (rollout
                workers), ``job_duration`` (seconds at most), ``racetrack_env``,
                ``reward_policy``, ``meta_file``, ``presets`` (files), ``evaluation_trials``,
                ``custom_action_space`` with its four bounds and two intervals, and six
                hyperparameters. Ours: ``profile``, ``runs_dir``, and ``overrides``, a mapping of
                full config keys (``{"stop.until": "never"}``).

        Raises:
            ConfigError: If a parameter is missing, unknown or not allowed.
            NotFound: If a file does not exist.
        """
        self._params = {**_DEFAULTS, **_checked(params)}
        self._runs_dir = Path(self._params["runs_dir"])
        self.job_name: str = self._params["job_name"]
        self._actions = _action_space(self._params)
        self._reward_path = find_user_file("reward function", Path(self._params["reward_policy"]))
        self._preset_path = _file("preset", self._params["presets"])
        self._environment_path = _file("environment", self._params["racetrack_env"])
        self.config = _config(self._params)
        self._track = load_config_track(self.config)
        self.run: Run | None = None
        """The run's folder; None until training was started."""
        self._training: Job | None = None
        self._evaluation: Job | None = None

    def __repr__(self) -> str:
        """Return job name and state."""
        return f"DeepRacerEngine({self.job_name!r}: {self.state})"

    @property
    def state(self) -> str:
        """Where the job stands, one line.

        ``not started``, ``waiting`` (for its turn among several), ``training``, ``evaluating``,
        ``finished``, ``stopped``, or ``failed:`` with the reason.
        """
        for doing, job in (("evaluating", self._evaluation), ("training", self._training)):
            if job is not None and job.poll() is None:
                return "waiting" if _waits(job) else doing
        for job in (self._evaluation, self._training):
            if job is not None and (status := job.poll()) is not None:
                if status not in _GOOD_ENDS:
                    return f"failed: {self._reason(job, status)}"
                if status or self._status() == "stopped":
                    return "stopped"
        return "finished" if self._training is not None else "not started"

    def start_training_testing_process(self) -> Run:
        """Write the run's files and start training; does not wait for its end.

        Returns:
            The run.

        Raises:
            ConfigError: If the training of this engine runs already, or the run's folder cannot
                be written.
            RewardFunctionError: If the reward function cannot be loaded or called.
        """
        if self.check_if_simulation_active():
            raise ConfigError(f"Job {self.job_name!r} is running; stop it before starting again.")
        from local_trainer.launch.processes import start_stack_training, start_training

        is_in_stack = self.config.simulator.backend == "gazebo"
        run = self._create_run()
        self._adopt(run, (start_stack_training if is_in_stack else start_training)(run))
        return run

    def wait_for_training(self) -> None:
        """Wait until training has ended.

        Raises:
            RunFailed: If it failed.
        """
        self._wait_for("training")

    def plot_training_output(self) -> None:
        """Show reward and completion per episode, live until training has ended.

        In a notebook the picture renews itself; elsewhere it is the run's ``plots/training.png``.

        Raises:
            ConfigError: If training was not started.
            RunFailed: If it failed.
        """
        run, training = self._started_run(), self._training
        from local_trainer.plots import live_training_plot

        live_training_plot(run, lambda: training is None or training.poll() is not None)
        self.wait_for_training()

    def start_evaluation_process(self) -> None:
        """Start greedy laps with the best checkpoint; waits for a training under way.

        Raises:
            ConfigError: If training was not started.
            RunFailed: If training failed.
        """
        run = self._started_run()
        from local_trainer.launch.processes import start_evaluation

        self.wait_for_training()
        self._stop(self._evaluation)
        self._evaluation = start_evaluation(run, trials=self.config.evaluation.trials)

    def plot_evaluation_output(self) -> pandas.DataFrame:
        """Wait for the evaluation, draw it, and return its table.

        In a notebook the plot is displayed; it is always written to the run's
        ``plots/evaluation.png``.

        Returns:
            One row a trial: ``trial``, ``completion_percentage``, ``elapsed_time`` (s).

        Raises:
            ConfigError: If training was not started.
            RunFailed: If the evaluation failed.
        """
        run = self._started_run()
        import pandas

        from local_trainer.plots import (
            display,
            evaluation_table,
            plot_evaluation,
            png,
            read_evaluation,
        )

        self._wait_for("evaluation")
        figure = plot_evaluation(read_evaluation(run), title=f"Evaluation of {self.job_name}")
        picture = png(figure)
        write_atomically(run.plots_dir / "evaluation.png", picture)
        display(picture)
        columns = ["trial", "completion_percentage", "elapsed_time"]
        return pandas.DataFrame(evaluation_table(run), columns=columns)

    def start_model_evaluation(self) -> pandas.DataFrame:
        """Evaluate, then plot; returns the table of `plot_evaluation_output`."""
        self.start_evaluation_process()
        return self.plot_evaluation_output()

    def stop_training(self) -> None:
        """End training after the step under way; the run and its checkpoints stay."""
        self._stop(self._training)

    def check_if_simulation_active(self) -> bool:
        """Return whether a training or evaluation of this engine is running."""
        processes = (self._training, self._evaluation)
        return any(process is not None and process.poll() is None for process in processes)

    def delete_all_simulations(self) -> None:
        """End everything this engine started."""
        self._stop(self._evaluation)
        self._stop(self._training)

    def clean_up_simualtion_environmnet(self) -> None:  # the original's spelling
        """End everything this engine started; the run and its model stay."""
        self.delete_all_simulations()

    def delete_s3_simulation_resources(self) -> None:
        """End everything and delete the run, model included, and no other.

        What was trained in the container stack goes from the stack's bucket, too.

        Raises:
            ConfigError: If another process works on the run.
        """
        self.delete_all_simulations()
        if self.run is not None and self.run.path.exists():
            copy = self._stack_copy(self.run)
            self.run.delete()
            if copy is not None:
                copy.delete()
        self.run = self._training = self._evaluation = None

    def _stack_copy(self, run: Run) -> StoredRun | None:
        from local_trainer.launch.cleanup import find_stack_copy

        try:
            return find_stack_copy(run)
        except RunFailed:
            warnings.warn(
                f"The stack is down: what its bucket holds of {run.name} stays.", stacklevel=3
            )
            return None

    def _started_run(self) -> Run:
        if self.run is None:
            raise ConfigError(
                f"Job {self.job_name!r} has no run yet; call start_training_testing_process first."
            )
        return self.run

    def _create_run(self) -> Run:
        prefix = f"{self.job_name}-sagemaker-{datetime.now(UTC):%y%m%d-%H%M%S}"
        return create_run(
            self.config.model_copy(update={"run": prefix}),
            self._runs_dir,
            reward_path=self._reward_path,
            actions=self._actions,
            preset_path=self._preset_path,
            environment_path=self._environment_path,
            track=self._track,
        )

    def _adopt(self, run: Run, training: Job) -> None:
        """Take a run and its training."""
        self.run, self._training, self._evaluation = run, training, None

    def _wait_for(self, what: str) -> None:
        """Wait for the ``training`` or ``evaluation`` under way, if there is one."""
        job = self._training if what == "training" else self._evaluation
        if job is None:
            return
        status = job.wait()
        if status not in _GOOD_ENDS:
            run, reason = self._started_run(), self._reason(job, status)
            raise RunFailed(
                f"{what.capitalize()} of run {run.name!r} failed: {reason} (log: {run.log_file})"
            )

    def _reason(self, job: Job, status: int) -> str:
        """Return why a job failed, one line."""
        run = self._started_run()
        if run.failure_file.exists():
            said = str(json.loads(run.failure_file.read_text(encoding="utf-8"))["message"])
            return one_line(said)
        standing = getattr(job, "standing", None)
        return standing.reason if standing is not None else f"exit status {status}"

    def _status(self) -> str:
        """Return what the run says of itself; it may have been deleted."""
        if self.run is None or not self.run.status_file.exists():
            return ""
        return self.run.read_status().status

    def _stop(self, job: Job | None) -> None:
        if job is None or job.poll() is not None:
            return
        job.terminate()
        try:
            job.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            job.kill()
            job.wait()


def _waits(job: Job) -> bool:
    standing = getattr(job, "standing", None)
    return standing is not None and standing.state == "waiting"


def _checked(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given, after refusing what cannot be meant."""
    if not isinstance(params, Mapping):
        raise ConfigError(f"The engine takes a dict of parameters, got {params!r:.80}.")
    for name in params:
        if name not in PARAMETERS:
            raise ConfigError(unknown_name("parameter", str(name), PARAMETERS))
    given = {name: value for name, value in params.items() if value is not None}
    if "job_name" not in given:
        raise ConfigError("job_name is required: a name of letters, digits, '.', '_' and '-'.")
    if not isinstance(given.get("custom_action_space", False), bool):
        shown = f"{given['custom_action_space']!r:.80}"
        raise ConfigError(f"custom_action_space must be True or False, got {shown}.")
    for name in ("reward_policy", "meta_file", "presets", "racetrack_env", "runs_dir"):
        if not isinstance(given.get(name, ""), str | Path):
            raise ConfigError(f"{name} must be a path, got {given[name]!r:.80}.")
    if not isinstance(given.get("overrides", {}), Mapping):
        raise ConfigError(
            f"overrides must be a dict of config keys, got {given['overrides']!r:.80}."
        )
    return given


def _action_space(params: Mapping[str, Any]) -> ActionSpace | Path | None:
    """Return the custom action space, the file, or None for the default."""
    extra = [name for name in (*_BOUNDS, *_INTERVALS) if name in params]
    if not params["custom_action_space"]:
        if extra:
            raise ConfigError(
                f"{extra[0]} needs custom_action_space to be True, got "
                f"{params['custom_action_space']}."
            )
        path = _file("action space", params["meta_file"])
        if path is not None:
            load_action_space(path)
        return path
    missing = [name for name in _BOUNDS if name not in params]
    if missing:
        raise ConfigError(
            f"custom_action_space needs {', '.join(_BOUNDS)}; missing: {', '.join(missing)}."
        )
    return custom_action_space(
        params["min_speed"],
        params["max_speed"],
        params["min_steering_angle"],
        params["max_steering_angle"],
        speed_interval=params.get("speed_interval", DEFAULT_SPEED_INTERVAL_MPS),
        steering_angle_interval=params.get(
            "steering_angle_interval", DEFAULT_STEERING_INTERVAL_DEG
        ),
    )


def _config(params: Mapping[str, Any]) -> RunConfig:
    """Return the configuration; a mistake is told with the engine's name of the parameter."""
    names = {
        "job_name": "job_name",
        "track_name": "track",
        "instance_pool_count": "workers",
        "evaluation_trials": "evaluation.trials",
        **{name: f"ppo.{name}" for name in _HYPERPARAMETERS},
    }
    defaults = _HYPERPARAMETERS if params["profile"] is None else {}
    given = {**defaults, **params}
    overrides = {key: given[name] for name, key in names.items() if name in given}
    overrides["instance"] = _instance(params["instance_type"])
    overrides["stop.minutes"] = _seconds("job_duration", params["job_duration"]) / 60.0
    overrides |= {
        "files.reward": str(params["reward_policy"]),
        "files.model_metadata": params["meta_file"] and str(params["meta_file"]),
        "files.preset": params["presets"] and str(params["presets"]),
        "files.environment": params["racetrack_env"] and str(params["racetrack_env"]),
    }
    try:
        return resolve_config(
            overrides={**overrides, **params["overrides"]},
            profile="cloud" if params["profile"] is None else params["profile"],
        )
    except ConfigError as error:
        text = str(error)
        for name, key in names.items():
            if text.startswith(f"{key} "):
                text = name + text.removeprefix(key)
        raise ConfigError(text) from None


def _instance(instance_type: Any) -> str:
    if not isinstance(instance_type, str) or not re.fullmatch(
        r"ml\.[a-z][a-z0-9-]*(\.[a-z0-9]+)?", instance_type
    ):
        raise ConfigError(
            "instance_type must be a name such as ml.c4.2xlarge (processor), ml.p3.2xlarge or "
            f"ml.g4dn.xlarge (GPU), got {instance_type!r:.80}."
        )
    return "gpu" if instance_type.startswith(("ml.p", "ml.g")) else "cpu"


def _seconds(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0.0 < value < float("inf")):
        raise ConfigError(f"{name} must be a number of seconds > 0, got {value!r:.80}.")
    return float(value)


def _file(what: str, path: str | Path | None) -> Path | None:
    return None if path is None else find_user_file(what, Path(path))
