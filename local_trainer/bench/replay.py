"""How fast recorded steps are judged again, and how many rewards come out the same.

Without a run it drives its own: noisy cars in the embedded simulator, both ways round the track,
recorded with the trainer's own writers.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from local_trainer.config import RunConfig
from local_trainer.episodes import Episode
from local_trainer.lab.recordings import Recording, read_own_run, read_recording
from local_trainer.lab.replay import CLOSE, replay
from local_trainer.reward import RewardFunction
from local_trainer.run_files import create_run, load_run_track
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, find_run
from local_trainer.simtrace import TRACE_FIELDS, trace_lines, trace_rows, write_training_trace
from local_trainer.step_files import write_steps
from sim.embedded import EmbeddedSimulator
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE
from sim.track import Track

_REWARDS_DIR = Path(__file__).parents[2] / "rewards"
_TRACED_REWARDS = (_REWARDS_DIR / "default.py", _REWARDS_DIR / "complex_reward.py")
_LOOK_AHEAD_WAYPOINTS = 4
_SPEEDS_MPS = (1.0, 1.5, 2.0, 2.5)
_MAX_STEPS = 500


def run(
    run_name: str | None = None,
    runs_dir: Path = DEFAULT_RUNS_DIR,
    num_episodes: int = 128,
    rounds: int = 5,
) -> dict[str, object]:
    """Measure, and return the figures of ``local-trainer bench replay``.

    Args:
        run_name: A run that has recorded steps; by default one is driven for this.
        runs_dir: Where it lies.
        num_episodes: Episodes of the driven run.
        rounds: How often the replay is repeated; its speed is the median.
    """
    with TemporaryDirectory() as folder:
        if run_name is None:
            recorded = record_run(Path(folder), num_episodes)
        else:
            recorded = find_run(run_name, runs_dir)
        recording = read_own_run(recorded)
        replays = [replay(recording) for _ in range(rounds)]
        within = {
            file.stem: traced_fraction(recording, file, Path(folder)) for file in _TRACED_REWARDS
        }
    return {
        "run": run_name or "driven for this",
        "reward": "the run's own",
        "episodes": len(recording.episodes),
        "steps": recording.num_steps,
        "steps_per_second": median(one.steps_per_second for one in replays),
        "exact_fraction": min(one.exact_fraction or 0.0 for one in replays),
        "exact_fraction_csv": min(within.values()),
        "within_1e-3_csv": within,
    }


def record_run(
    runs_dir: Path,
    num_episodes: int,
    track_name: str = "reinvent_base",
    seed: int = 0,
    reward_file: Path | None = None,
) -> Run:
    """Drive a run and record it as a training would.

    Args:
        runs_dir: Where to make its folder.
        num_episodes: Training episodes; as many laps of an evaluation follow for each 16.
        track_name: Where to drive.
        seed: Fixes how.
        reward_file: Its reward function; the default one if left out.
    """
    config = RunConfig(run="driven", track=track_name, seed=seed)
    made = create_run(config, runs_dir, reward_path=reward_file)
    track = load_run_track(made)
    with RewardFunction(made.reward_file, track) as function:
        training = drive(track, num_episodes, "training", function, seed)
        trials = drive(track, max(1, num_episodes // 16), "evaluation", function, seed)
    durations_s = [episode.duration_s for episode in training]
    starts_s = [0.0, *np.cumsum(durations_s[:-1]).tolist()]
    write_training_trace(made, 0, training, starts_s, track)
    write_steps(made.steps_file("training", 0), training)
    write_steps(made.steps_file("evaluation", 0), trials)
    return made


def drive(
    track: Track, num_episodes: int, phase: str, function: RewardFunction, seed: int = 0
) -> list[Episode]:
    """Drive one episode a car: towards the centre line ahead, some calmly, some wildly.

    Every second car drives against the row order.

    Args:
        track: Where.
        num_episodes: How many.
        phase: Written into the episodes.
        function: Judges them.
        seed: Fixes the noise.
    """
    random = np.random.default_rng([seed, phase == "evaluation"])
    simulator = EmbeddedSimulator(track, num_episodes, seed)
    rules = EpisodeRules(max_steps=_MAX_STEPS)
    starts = [
        EpisodeStart(i, i * 0.05 % 1.0, is_reversed=i % 2 == 1, rules=rules)
        for i in range(num_episodes)
    ]
    simulator.reset(np.arange(num_episodes), starts)
    noise_deg = np.linspace(0.0, 25.0, num_episodes)
    speed_mps = random.choice(_SPEEDS_MPS, num_episodes)
    drift_deg = np.zeros(num_episodes)
    driven: list[list[np.void]] = [[] for _ in range(num_episodes)]
    times: list[list[float]] = [[] for _ in range(num_episodes)]
    cars = np.arange(num_episodes)
    steering_deg = np.zeros(num_episodes)
    while len(cars):
        steps = simulator.step(cars, steering_deg[cars], speed_mps[cars])
        now = time.time()
        for car, step in zip(cars, steps, strict=True):
            driven[car].append(step)
            times[car].append(now)
        drift_deg[cars] += 0.3 * (random.normal(0.0, 1.0, len(cars)) - drift_deg[cars])
        wanted_deg = aim_deg(track, steps) + noise_deg[cars] * drift_deg[cars]
        steering_deg[cars] = np.round(wanted_deg)  # actions have whole degrees
        cars = cars[~steps["done"]]
    simulator.close()
    order = sorted(range(num_episodes), key=lambda car: times[car][-1])
    episodes = [
        _episode(starts[car], phase, np.array(driven[car], STEP_DTYPE), times[car], function)
        for car in order
    ]
    return sorted(episodes, key=lambda episode: episode.index)


def aim_deg(track: Track, steps: np.ndarray) -> np.ndarray:
    """Return the steering towards the centre line some waypoints ahead, degrees, shape (n,)."""
    num_waypoints = len(track.center) - 1
    ahead = (steps["next_waypoint"] + _LOOK_AHEAD_WAYPOINTS) % num_waypoints
    ahead = np.where(steps["is_reversed"], num_waypoints - ahead, ahead)
    to_x = track.center[ahead, 0] - steps["origin_x"]
    to_y = track.center[ahead, 1] - steps["origin_y"]
    turn = np.arctan2(to_y, to_x) - steps["yaw"]
    aimed: np.ndarray = np.degrees(np.arctan2(np.sin(turn), np.cos(turn)))
    return aimed


def traced_fraction(recording: Recording, reward_file: Path, folder: Path) -> float:
    """Return how many rewards stay within 1e-3 when all that is left of a run is its trace.

    The run's training steps go through the trace writer, which keeps four decimals, and are
    recomputed from that file.

    Args:
        recording: An own run.
        reward_file: What judges both.
        folder: Where the trace may be written.
    """
    training = [e for e in recording.episodes if e.phase == "training"]
    exact = replace(recording, episodes=training)
    file = folder / "0-iteration.csv"
    file.write_text(rounded_csv(training, recording.track), encoding="utf-8")
    np.save(folder / "route.npy", recording.track.route())
    traced = read_recording(file, track=str(folder / "route.npy"))
    old, new = (np.concatenate(replay(one, reward_file).rewards) for one in (exact, traced))
    return float((np.abs(old - new) <= CLOSE).mean())


def rounded_csv(episodes: list[Episode], track: Track) -> str:
    """Return a trace CSV with the values as the trace lines of a log have them."""
    rows = []
    clock_s = 0.0
    for episode in episodes:
        rows += trace_rows(episode, track, start_s=clock_s)
        clock_s += episode.duration_s
    values = [line.partition(":")[2] for line in trace_lines(rows)]
    return "\n".join([",".join(TRACE_FIELDS), *values]) + "\n"


def _episode(
    start: EpisodeStart,
    phase: str,
    steps: np.ndarray,
    times: list[float],
    function: RewardFunction,
) -> Episode:
    return Episode(
        start=start,
        phase=phase,
        iteration=0,
        steps=steps,
        actions=np.full(len(steps), -1, np.int32),
        rewards=function.rewards(steps),
        wall_clock=np.array(times),
    )
