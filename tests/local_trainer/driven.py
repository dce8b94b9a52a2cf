"""Episodes driven without a policy: a car that aims at a point of the centre line ahead of it.

Poses, progress, waypoints and flags come from the real track geometry, so that traces, plots and
reports are tested with what a run really holds.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.metrics import TrainingMetrics, evaluation_stamp, write_evaluation_metrics
from local_trainer.progress import (
    EndEvent,
    EpisodeEvent,
    EvaluationEvent,
    Event,
    ProgressLog,
    UpdateEvent,
)
from local_trainer.runs import Run, RunStatus
from local_trainer.simtrace import (
    RunLog,
    action_space_line,
    episode_lines,
    hyperparameters_text,
    policy_line,
    sensor_line,
    world_line,
    write_evaluation_trace,
    write_training_trace,
)
from local_trainer.step_files import evaluation_steps_file, write_steps
from sim.reward_params import measure
from sim.simulator import STEPS_PER_SECOND, EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus
from sim.track import Track

ACTIONS = [(angle, speed) for angle in (-30.0, -15.0, 0.0, 15.0, 30.0) for speed in (1.0, 2.0)]
METADATA = {
    "action_space": [
        {"steering_angle": angle, "speed": speed, "index": index}
        for index, (angle, speed) in enumerate(ACTIONS)
    ],
    "sensor": ["FRONT_FACING_CAMERA"],
    "neural_network": "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW",
    "version": "5",
    "training_algorithm": "clipped_ppo",
    "action_space_type": "discrete",
}
HYPERPARAMETERS = {
    "batch_size": 64,
    "beta_entropy": 0.01,
    "discount_factor": 0.99,
    "lr": 0.0003,
    "num_episodes_between_training": 20,
    "num_epochs": 4,
}
REWARD_CODE = '''def reward_function(params):
    """Reward the centre line: <b>closer & faster</b> is better."""
    share = params["distance_from_center"] / params["track_width"]
    return float(max(1e-3, 1.0 - 2.0 * share))
'''
WHEELBASE_M = 0.165
AXLE_TRACK_M = 0.16


def oval(straight_m: float = 3.0, radius_m: float = 1.0, width_m: float = 0.6) -> Track:
    """Return a counter-clockwise oval: two straights, two half circles."""
    turn = np.linspace(0.0, math.pi, 25)
    half = np.concatenate(
        [
            np.stack([np.linspace(0.0, straight_m, 13)[:-1], np.full(12, -radius_m)], axis=1),
            np.stack(
                [straight_m + radius_m * np.sin(turn[:-1]), -radius_m * np.cos(turn[:-1])], axis=1
            ),
        ]
    )
    center = np.concatenate([half, np.array([straight_m, 0.0]) - half])
    center = np.concatenate([center, center[:1]])
    tangent = np.roll(center[:-1], -1, axis=0) - np.roll(center[:-1], 1, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    tangent = np.concatenate([tangent, tangent[:1]])
    left = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    inner = center + left * width_m / 2.0
    outer = center - left * width_m / 2.0
    return Track.from_route("oval", np.concatenate([center, inner, outer], axis=1))


def drive(
    track: Track,
    index: int = 0,
    *,
    phase: str = "training",
    iteration: int = 0,
    noise_deg: float = 4.0,
    fraction: float = 0.0,
    is_reversed: bool = False,
    max_steps: int = 400,
    seed: int = 0,
) -> Episode:
    """Drive one episode with the closest action of `ACTIONS` to a pure pursuit plus noise."""
    random = np.random.default_rng([seed, iteration, index, phase == "evaluation"])
    driven = track.reverse() if is_reversed else track
    steps = np.zeros(max_steps, STEP_DTYPE)
    actions = np.zeros(max_steps, np.int32)
    x, y, yaw = driven.pose_at(fraction)
    speed = previous_progress = 0.0
    drift_deg = 0.0
    for i in range(max_steps):
        drift_deg += 0.3 * (random.normal(0.0, noise_deg) - drift_deg)
        wanted_deg = _aim_deg(driven, x, y, yaw) + drift_deg * 3.0
        wanted_speed = 2.0 if abs(wanted_deg) < 10.0 else 1.0
        cost = [abs(a - wanted_deg) + 15.0 * abs(v - wanted_speed) for a, v in ACTIONS]
        actions[i] = int(np.argmin(cost))
        angle_deg, target_mps = ACTIONS[actions[i]]
        speed += 0.4 * (target_mps - speed)
        yaw += speed / WHEELBASE_M * math.tan(math.radians(angle_deg)) / STEPS_PER_SECOND
        x += speed * math.cos(yaw) / STEPS_PER_SECOND
        y += speed * math.sin(yaw) / STEPS_PER_SECOND
        measure(
            track.arrays, is_reversed, x, y, yaw, _wheels(x, y, yaw), fraction,
            previous_progress, steps, i,
        )  # fmt: skip
        step = steps[i]
        previous_progress = float(step["progress"])
        step["steps"], step["sim_time"] = i + 1, (i + 1) / STEPS_PER_SECOND
        step["speed"], step["steering_angle"] = target_mps, angle_deg
        step["origin_x"], step["origin_y"], step["yaw"] = x, y, yaw
        step["actual_speed"], step["actual_steering"] = speed, math.radians(angle_deg)
        if step["progress"] >= 100.0:
            step["status"] = EpisodeStatus.LAP_COMPLETE
        elif step["is_offtrack"]:
            step["status"] = EpisodeStatus.OFF_TRACK
        elif i == max_steps - 1:
            step["status"] = EpisodeStatus.TIME_UP
        if step["status"]:
            step["done"] = True
            break
    count = i + 1
    steps = steps[:count]
    rewards = np.maximum(1e-3, 1.0 - 2.0 * steps["distance_from_center"] / steps["track_width"])
    return Episode(
        start=EpisodeStart(index, fraction, is_reversed, rules=EpisodeRules(max_steps=max_steps)),
        phase=phase,
        iteration=iteration,
        steps=steps,
        actions=actions[:count],
        rewards=rewards,
        wall_clock=1.7e9 + index * 100.0 + np.arange(count) * 0.01,
        probabilities=random.dirichlet(np.ones(len(ACTIONS)), count).astype(np.float32),
    )


def write_run(path: Path, track: Track, iterations: int = 3, per_iteration: int = 4) -> Run:
    """Write a finished run's folder with the product's own writers."""
    run = Run(path)
    for file, text in (
        (run.metadata_file, json.dumps(METADATA)),
        (run.model_dir / "model_metadata.json", json.dumps(METADATA)),
        (run.hyperparameters_file, json.dumps(HYPERPARAMETERS, indent=2, sort_keys=True)),
        (run.reward_file, REWARD_CODE),
        (run.config_file, f"job_name: {path.name}\ntrack: {track.name}\n"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    np.save(run.route_file, track.route())
    metrics, log = TrainingMetrics(run), RunLog(run)
    progress = ProgressLog(run.progress_file)
    log.write(hyperparameters_text(HYPERPARAMETERS))
    log.write(world_line(track.name))
    log.write(sensor_line(METADATA["sensor"], METADATA["neural_network"], 5.0))
    log.write(action_space_line(METADATA["action_space"]))
    total_steps = 0
    for iteration in range(iterations):
        noise_deg = 17.0 - 12.0 * iteration / max(1, iterations - 1)
        episodes = [
            drive(
                track,
                iteration * per_iteration + k,
                iteration=iteration,
                noise_deg=noise_deg,
                fraction=k / per_iteration,
            )
            for k in range(per_iteration)
        ]
        log.write(write_training_trace(run, iteration, episodes, metrics.extend(episodes), track))
        log.write(episode_lines(episodes, total_steps))
        write_steps(run.steps_file("training", iteration), episodes)
        trials = [
            drive(track, k, phase="evaluation", iteration=iteration, noise_deg=noise_deg / 2.0)
            for k in range(2)
        ]
        metrics.extend(trials)
        metrics.write()
        write_steps(run.steps_file("evaluation", iteration), trials)
        for episode in (*episodes, *trials):
            if episode.phase == "training":
                total_steps += len(episode.steps)
            progress.write(_episode_event(episode, total_steps))
        log.write(policy_line(-0.02, 0.003, 2.0, 0, 3e-4))
        progress.write(_update_event(iteration, iterations, total_steps))
        progress.write(_evaluation_event(iteration, trials))
    progress.write(EndEvent("finished", "the planned minutes are over", time=1.7e9 + 600.0))
    progress.close()
    log.close()
    run.write_status(_status(run, track, iterations, iterations * per_iteration, total_steps))
    return run


def evaluate_run(run: Run, track: Track, laps: int = 3, stamp: str | None = None) -> list[Episode]:
    """Write a finished evaluation into a run's folder and return its laps."""
    stamp = stamp or evaluation_stamp()
    episodes = [
        drive(track, k, phase="evaluation", iteration=99, noise_deg=2.0) for k in range(laps)
    ]
    write_evaluation_metrics(run, episodes, stamp)
    write_evaluation_trace(run, stamp, episodes, track)
    write_steps(evaluation_steps_file(run, stamp), episodes)
    return episodes


def _aim_deg(track: Track, x: float, y: float, yaw: float) -> float:
    lookahead_m = 0.45
    fraction = (track.project((x, y)) + lookahead_m) / track.length_m
    target_x, target_y, _ = track.pose_at(fraction)
    bearing = math.atan2(target_y - y, target_x - x) - yaw
    bearing = math.atan2(math.sin(bearing), math.cos(bearing))
    return math.degrees(math.atan2(2.0 * WHEELBASE_M * math.sin(bearing), lookahead_m))


def _wheels(x: float, y: float, yaw: float) -> np.ndarray:
    forward = np.array([math.cos(yaw), math.sin(yaw)])
    left = np.array([-forward[1], forward[0]])
    half = AXLE_TRACK_M / 2.0
    front = np.array([x, y]) + forward * WHEELBASE_M
    rear = np.array([x, y])
    return np.stack(
        [front + left * half, front - left * half, rear + left * half, rear - left * half]
    )


def _episode_event(episode: Episode, total_steps: int) -> Event:
    return EpisodeEvent(
        iteration=episode.iteration,
        episode=episode.index,
        phase=episode.phase,
        status=episode.status.trace_name,
        progress_percent=episode.progress,
        reward=episode.total_reward,
        steps=len(episode.steps),
        duration_s=episode.duration_s,
        total_steps=total_steps,
        time=1.7e9 + total_steps / 400.0,
    )


def _update_event(iteration: int, iterations: int, total_steps: int) -> Event:
    done = iteration / max(1, iterations - 1)
    return UpdateEvent(
        iteration=iteration,
        transitions=2000,
        epochs=4,
        policy_loss=-0.03 + 0.02 * done,
        value_loss=4.0 * math.exp(-3.0 * done) + 0.2,
        entropy=2.3 - 1.2 * done,
        kl_divergence=0.01 + 0.01 * math.sin(6.0 * done),
        clip_fraction=0.2,
        explained_variance=done,
        learning_rate=3e-4,
        seconds=1.0,
        time=1.7e9 + total_steps / 400.0,
    )


def _evaluation_event(iteration: int, trials: list[Episode]) -> Event:
    laps = [trial.duration_s for trial in trials if trial.is_complete]
    return EvaluationEvent(
        iteration=iteration,
        checkpoint=f"{iteration}_Step-{iteration * 500}.ckpt",
        trials=len(trials),
        completed=len(laps),
        mean_progress_percent=float(np.mean([trial.progress for trial in trials])),
        best_lap_s=min(laps, default=None),
        mean_lap_s=float(np.mean(laps)) if laps else None,
        is_best=bool(laps),
    )


def _status(run: Run, track: Track, iterations: int, episodes: int, steps: int) -> RunStatus:
    return RunStatus(
        run=run.name,
        job_name=run.name,
        track=track.name,
        status="finished",
        created="2026-01-02T03:04:05Z",
        updated="2026-01-02T03:14:05Z",
        reason="the planned minutes are over",
        iteration=iterations,
        episodes=episodes,
        steps=steps,
        minutes=10.0,
        best_checkpoint=f"{iterations - 1}_Step-{steps}.ckpt",
        best_progress_percent=100.0,
        best_lap_s=11.2,
    )
