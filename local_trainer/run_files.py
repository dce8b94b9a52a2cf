"""Making a run: everything is checked first, then its folder appears, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import yaml

from local_trainer.actions import (
    ActionSpace,
    default_action_space,
    load_action_space,
    metadata_text,
    metadata_tmp_text,
)
from local_trainer.config import RunConfig, config_text, load_config
from local_trainer.errors import ConfigError, NotFound
from local_trainer.hyperparameters import (
    hyperparameters_text,
    preset_json_text,
    preset_python_text,
)
from local_trainer.machine import gpus, has_fast_bf16
from local_trainer.reward import check_reward_file
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, RunStatus, find_run
from sim.track import Track
from sim.track_files import load_route, load_track, save_route

BUCKET = "bucket"
"""Name that stands for the runs folder where the service's files ask for a bucket."""

_PACKAGE_ROOT = Path(__file__).parents[1]


def create_run(
    config: RunConfig,
    runs_dir: Path = DEFAULT_RUNS_DIR,
    *,
    reward_path: Path | None = None,
    actions: ActionSpace | Path | None = None,
    preset_path: Path | None = None,
    environment_path: Path | None = None,
    track: Track | None = None,
    tracks: Sequence[Track] = (),
) -> Run:
    """Check a configuration and its files, and write the folder of a new run.

    Args:
        config: What to train. Without ``run`` the folder is called ``<track>-<yymmdd-HHMMSS>``
            (the engine names its runs as the original did, see `local_trainer.engine`).
        runs_dir: Folder of all runs; made if need be.
        reward_path: Reward function instead of ``config.files.reward``.
        actions: Action space, or its file, instead of ``config.files.model_metadata``. An
            `ActionSpace` counts as a custom one and also leaves ``model_metadata_tmp.json``.
        preset_path: Coach preset instead of ``config.files.preset``.
        environment_path: Environment instead of ``config.files.environment``.
        track: The track, if the caller has loaded it already; it counts if there is only one.
        tracks: All tracks, if the caller has loaded them already.

    Returns:
        The run, its status ``created``.

    Raises:
        ConfigError: If anything is not allowed, the name is taken, or the folder cannot be
            written.
        NotFound: If a file or run that was named does not exist.
        RewardFunctionError: If the reward function cannot be loaded or called.
    """
    files = config.files
    if not tracks:
        has_one = track is not None and len(config.all_tracks) == 1
        tracks = (track,) if track is not None and has_one else load_config_tracks(config)
    name = _free_name(config, tracks, runs_dir)
    if config.pretrained.run is not None:
        find_run(config.pretrained.run, runs_dir)
    reward_path = find_user_file("reward function", reward_path or Path(files.reward))
    preset_path = _python_file("preset", preset_path or files.preset)
    environment_path = _python_file("environment", environment_path or files.environment)
    contents = _action_files(actions or files.model_metadata)
    _check_machine(config)
    for one in tracks:
        check_reward_file(reward_path, one)

    # Several keep their surfaces with their routes.
    surface = config.surface or (tracks[0].surface if len(tracks) == 1 else None)
    config = config.model_copy(
        update={"run": name, "job_name": config.job_name or name, "surface": surface}
    )
    contents |= _config_files(config, name)
    reward = reward_path.read_bytes()
    contents |= {"reward_function.py": reward, "rewards/reward_function.py": reward}
    if preset_path is not None:
        contents["presets/preset.py"] = preset_path.read_bytes()
    if environment_path is not None:
        contents["environments/deepracer_racetrack_env.py"] = environment_path.read_bytes()
    contents |= _params_files(config, name, tracks)
    shown = ", ".join(one.name for one in tracks)
    contents["status.json"] = _status_text(config, name, shown).encode()
    return _write_folder(runs_dir, name, contents, tracks, config.surface)


def load_config_track(config: RunConfig) -> Track:
    """Return the track a configuration names; the first if there are several.

    Raises:
        ConfigError: If there is no such track or its file is not usable.
    """
    return _load_track(config, config.track)


def load_config_tracks(config: RunConfig) -> tuple[Track, ...]:
    """Return every track a configuration names.

    Raises:
        ConfigError: If there is no such track, its file is not usable, or two have one name.
    """
    tracks = tuple(_load_track(config, name) for name in config.all_tracks)
    names = [track.name for track in tracks]
    if len(set(names)) < len(names):
        raise ConfigError(f"tracks must have different names, got {', '.join(names)}.")
    return tracks


def load_run_track(run: Run) -> Track:
    """Return the track of a run of one track, whatever became of the track's own file.

    Raises:
        NotFound: If the folder holds no run.
        ConfigError: If its route file is damaged, or it drove several tracks.
    """
    tracks = load_run_tracks(run)
    if len(tracks) > 1:
        names = ", ".join(track.name for track in tracks)
        raise ConfigError(
            f"This takes runs of one track; {run.name!r} drove {len(tracks)}: {names}."
        )
    return tracks[0]


def load_run_tracks(run: Run) -> tuple[Track, ...]:
    """Return the tracks a run was made with, whatever became of the tracks' own files.

    Raises:
        NotFound: If the folder holds no run.
        ConfigError: If a route file is damaged.
    """
    try:
        if not run.tracks_file.exists():
            surface = load_config(run.config_file).surface or "asphalt"
            return (load_route(run.route_file, run.read_status().track, surface),)
        listed = json.loads(run.tracks_file.read_text(encoding="utf-8"))
        return tuple(
            load_route(run.tracks_file.parent / one["file"], one["name"], one["surface"])
            for one in listed
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"The run's routes cannot be read: {error}") from None


def _load_track(config: RunConfig, name: str) -> Track:
    try:
        return load_track(name, Path(config.files.tracks_dir))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def find_user_file(what: str, path: Path) -> Path:
    """Return the path of a user's file; one that is not there is looked for among ours.

    Raises:
        NotFound: If it is in neither place.
        ConfigError: If it is a folder.
    """
    ours = _PACKAGE_ROOT / path
    found = path if path.exists() or path.is_absolute() or not ours.exists() else ours
    if found.is_dir():
        raise ConfigError(f"The {what} must be a file, got the folder {path}.")
    if not found.exists():
        raise NotFound(f"No {what} file {path}.")
    return found


def training_params_text(config: RunConfig, run_name: str, track_name: str) -> str:
    """Return ``training_params.yaml``: what the service's simulator would be told."""
    evaluation = config.evaluation
    values = {
        "AWS_REGION": "us-east-1",
        "JOB_TYPE": "TRAINING",
        "KINESIS_VIDEO_STREAM_NAME": "",
        "METRICS_S3_BUCKET": BUCKET,
        "METRICS_S3_OBJECT_KEY": f"{run_name}/metrics/TrainingMetrics.json",
        "MODEL_METADATA_FILE_S3_KEY": f"{run_name}/model_metadata.json",
        "REWARD_FILE_S3_KEY": f"{run_name}/reward_function.py",
        "ROBOMAKER_SIMULATION_JOB_ACCOUNT_ID": "Dummy",
        "TRAINING_JOB_ARN": "arn:Dummy",
        "NUM_WORKERS": config.workers,
        "SAGEMAKER_SHARED_S3_BUCKET": BUCKET,
        "SAGEMAKER_SHARED_S3_PREFIX": run_name,
        "SIMTRACE_S3_BUCKET": BUCKET,
        "SIMTRACE_S3_PREFIX": run_name,
        "BODY_SHELL_TYPE": "deepracer",
        "CAR_COLOR": "Black",
        "CAR_NAME": config.job_name or run_name,
        "DISPLAY_NAME": config.job_name or run_name,
        "RACER_NAME": config.job_name or run_name,
        "MODEL_NAME": config.job_name or run_name,
        "VIDEO_JOB_TYPE": "",
        "LEADERBOARD_TYPE": "",
        "LEADERBOARD_NAME": "",
        "RACE_TYPE": "TIME_TRIAL",
        "WORLD_NAME": track_name,
        "REVERSE_DIR": config.reverse_direction,
        "ALTERNATE_DRIVING_DIRECTION": config.alternate_direction,
        "CHANGE_START_POSITION": config.episodes.change_start_position,
        "ROUND_ROBIN_ADVANCE_DIST": config.episodes.round_robin_advance,
        "START_POSITION_OFFSET": config.episodes.start_position_offset,
        "ENABLE_DOMAIN_RANDOMIZATION": config.simulator.randomization
        != type(config.simulator.randomization)(),
        "MIN_EVAL_TRIALS": evaluation.trials,
        "BEST_MODEL_METRIC": evaluation.best_metric,
        "CAMERA_MAIN_ENABLE": True,
        "CAMERA_SUB_ENABLE": True,
        "ENABLE_EXTRA_KVS_OVERLAY": False,
        "NUMBER_OF_RESETS": 0,
        "OFF_TRACK_PENALTY": 0.0,
        "COLLISION_PENALTY": 0.0,
        "NUMBER_OF_REVERSE_COUNTS": config.episodes.reversed_steps,
    }
    # Every value a quoted text: so do the service's own tools, and so its parsers expect it.
    return yaml.safe_dump(
        {key: str(value) for key, value in values.items()},
        default_style="'",
        explicit_start=True,
        sort_keys=False,
        width=10_000,
    )


def _params_files(config: RunConfig, name: str, tracks: Sequence[Track]) -> dict[str, bytes]:
    """Return the service's YAML files: one, and for several tracks one more for each.

    The list that tells its workers which file is theirs is as deepracer-for-cloud hands it over.
    """
    texts = [training_params_text(config, name, track.name).encode() for track in tracks]
    files = {"training_params.yaml": texts[0]}
    if len(tracks) == 1:
        return files
    workers = []
    for number, (track, text) in enumerate(zip(tracks, texts, strict=True), start=1):
        files[f"training_params_{number}.yaml"] = text
        workers.append({"config_file": f"training_params_{number}.yaml", "world_name": track.name})
    files["multi_config.json"] = json.dumps({"multi_config": workers}, indent=2).encode()
    return files


def _free_name(config: RunConfig, tracks: Sequence[Track], runs_dir: Path) -> str:
    if config.run is not None:
        if (runs_dir / config.run).exists():
            raise ConfigError(
                f"Run {config.run!r} exists already in {runs_dir}; choose another name or "
                "delete it."
            )
        return config.run
    more = f"-and-{len(tracks) - 1}-more" if len(tracks) > 1 else ""
    base = f"{tracks[0].name}{more}-{datetime.now():%y%m%d-%H%M%S}"
    name, count = base, 1
    while (runs_dir / name).exists():
        count += 1
        name = f"{base}-{count}"
    return name


def _check_machine(config: RunConfig) -> None:
    if config.instance == "gpu" and not gpus():
        raise ConfigError("instance must be cpu or auto on this machine (no GPU answers), got gpu.")
    if config.precision == "bf16" and not has_fast_bf16():
        raise ConfigError(
            "precision must be auto or fp32 on this machine (its processor has no bf16), got bf16."
        )


def _python_file(what: str, path: Path | str | None) -> Path | None:
    """Return the path of a Python file after checking that it can be compiled."""
    if path is None:
        return None
    found = find_user_file(what, Path(path))
    try:
        compile(found.read_bytes(), str(found), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{found}:{line}" if line else f"{found}"
        raise ConfigError(f"{where}: the {what} is not valid Python: {error}.") from None
    return found


def _action_files(actions: ActionSpace | Path | str | None) -> dict[str, bytes]:
    """Return the action space's files by their place in the run; a user's stays as it is."""
    if isinstance(actions, Path | str):
        path = find_user_file("action space", Path(actions))
        load_action_space(path)
        data = path.read_bytes()
        return {"model_metadata.json": data, "model/model_metadata.json": data}
    data = metadata_text(actions or default_action_space()).encode()
    files = {"model_metadata.json": data, "model/model_metadata.json": data}
    if actions is not None:
        files["actions/model_metadata_tmp.json"] = metadata_tmp_text(actions).encode()
    return files


def _config_files(config: RunConfig, name: str) -> dict[str, bytes]:
    texts = {
        "config.yaml": config_text(config),
        "ip/hyperparameters.json": hyperparameters_text(config.ppo),
        "presets/preset_hyperparameters.json": preset_json_text(config.ppo),
        "presets/preset_hyperparams.py": preset_python_text(config.ppo),
    }
    return {path: text.encode() for path, text in texts.items()}


def _status_text(config: RunConfig, name: str, track_name: str) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    status = RunStatus(
        run=name,
        job_name=config.job_name or name,
        track=track_name,
        status="created",
        created=now,
        updated=now,
    )
    return json.dumps(asdict(status), indent=2) + "\n"


def _save_routes(run: Run, tracks: Sequence[Track], surface: str | None) -> None:
    save_route(tracks[0], run.route_file)
    if len(tracks) == 1:
        return
    folder = run.tracks_file.parent
    folder.mkdir()
    listed = []
    for number, track in enumerate(tracks):
        file = f"{number}.npy"
        save_route(track, folder / file)
        listed.append({"name": track.name, "surface": surface or track.surface, "file": file})
    run.tracks_file.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _write_folder(
    runs_dir: Path,
    name: str,
    contents: dict[str, bytes],
    tracks: Sequence[Track],
    surface: str | None,
) -> Run:
    """Write all files beside their place and move them there in one step."""
    temporary: Path | None = None
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        # One level down: nobody listing the runs takes the unfinished folder for one.
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=runs_dir))
        folder = temporary / name
        for place, data in contents.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        _save_routes(Run(folder), tracks, surface)
        os.rename(folder, runs_dir / name)
    except OSError as error:
        raise ConfigError(
            f"The run must go into a folder that can be written, got {runs_dir}: {error.strerror}."
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return Run(runs_dir / name)
