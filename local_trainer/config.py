"""What a user can set for a run: every key, its meaning, its range and its default.

Values come from four places, later ones win: the profile's defaults, a YAML file,
``--set key=value`` on the command line, named arguments such as ``--minutes``. Anything
unknown or out of range is a `ConfigError` of one line that names the full key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from local_trainer.config_keys import (
    NAME_PATTERN,
    ConfigField,
    assign,
    check_keys,
    first_problem,
    merge,
    parse_set,
    read_yaml_mapping,
    walk_fields,
)
from local_trainer.errors import ConfigError
from local_trainer.runs import write_atomically
from sim.car import CarConfig
from sim.randomization import RandomizationConfig
from sim.simulator import EpisodeRules

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0, le=3600.0)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_as_number(cls, value: object, info: Any) -> object:
        # Python counts True as 1; in a config file it is a mistake.
        if isinstance(value, bool) and not _takes_bool(
            cls.model_fields[info.field_name].annotation
        ):
            raise ValueError("a flag is no number")
        return value


def _takes_bool(annotation: Any) -> bool:
    return annotation is bool or any(_takes_bool(part) for part in get_args(annotation))


class FilesConfig(_Part):
    """The user's own files; `local_trainer.run_files` copies them into the run."""

    reward: str = "rewards/default.py"
    """Reward function, a Python file with ``reward_function(params)``."""

    model_metadata: str | None = None
    """Action space, sensor and network. None: ten actions, -30 to 30 degrees at 1 and 2 m/s."""

    preset: str | None = None
    """A Coach preset of your own. None: ours."""

    environment: str | None = None
    """A gym environment of your own (``deepracer_racetrack_env.py``). None: ours."""

    tracks_dir: str = "tracks"
    """Folder of imported tracks, looked at before the built-in ones."""


class SimulatorConfig(_Part):
    """The world the cars drive in."""

    backend: Literal["embedded", "gazebo"] = "embedded"
    """Which simulator. ``gazebo`` runs in a container, see docs/stack.md."""

    num_cars: int = Field(default=20, ge=1, le=4096)
    """Cars that drive at once, each in an episode of its own."""

    camera: Literal["grey"] = "grey"
    """What the network sees. ``colour`` is refused: the networks take one channel."""

    car: CarConfig = Field(default_factory=CarConfig)
    """The car's dimensions, lags and tyres."""

    randomization: RandomizationConfig = Field(default_factory=RandomizationConfig)
    """What varies from episode to episode; all off by default."""

    @property
    def channels(self) -> int:
        """Return the picture's channels."""
        return 1

    @model_validator(mode="after")
    def _gazebo_keeps_its_picture(self) -> SimulatorConfig:
        if self.backend == "gazebo" and self.randomization.changes_camera:
            raise ConfigError(
                "simulator.randomization must leave the picture as it is with simulator.backend "
                "gazebo (friction_scale and latency_steps may vary), got a range for the picture "
                "or the camera."
            )
        return self


class EpisodesConfig(_Part):
    """How a training episode begins and ends."""

    max_steps: int = Field(default=500, ge=10, le=100_000)
    """Steps (15 a second) after which an episode is cut off. Without a cap a car at full lock
    circles on the road for ever."""

    change_start_position: bool = True
    """Begin each episode a little further along the track."""

    round_robin_advance: Fraction = 0.381966
    """How much further, fraction of a lap. The golden section: episodes in a row lie evenly round
    the lap, and no two begin at the same place."""

    start_position_offset: Fraction = 0.0
    """Where the first episode begins, fraction of a lap."""

    start_sideways_m: float = Field(default=0.3, ge=0.0, le=1.0)
    """How far left or right of the centre line an episode may begin, drawn anew for each. Without
    it a policy that drives well forgets what to do near the border."""

    start_turn_deg: float = Field(default=30.0, ge=0.0, le=90.0)
    """How far the car may be turned at the start, to either side, drawn anew for each."""

    reversed_steps: int = Field(default=15, ge=1)
    """Consecutive steps with falling progress that end an episode."""

    immobilized_steps: int = Field(default=15, ge=1)
    """Consecutive steps without movement that end an episode."""

    def rules(self) -> EpisodeRules:
        """Return the rules of a training episode: no resets."""
        return EpisodeRules(
            max_steps=self.max_steps,
            reversed_steps=self.reversed_steps,
            immobilized_steps=self.immobilized_steps,
        )


class PpoConfig(_Part):
    """How the policy learns. Written to the run's ``ip/hyperparameters.json``."""

    learning_rate: float = Field(default=5e-4, ge=1e-8, le=1.0)
    """Adam's step size."""

    batch_size: int = Field(default=64, ge=1, le=65_536)
    """Transitions in one gradient step."""

    optimizer_epsilon: float = Field(default=1e-7, gt=0.0, le=1.0)
    """Adam's epsilon."""

    optimization_epochs: int = Field(default=2, ge=1, le=100)
    """How often an update goes through its transitions."""

    discount_factor: Fraction = 0.95
    """Weight of the next step's reward. At 15 steps a second, 0.95 looks about 1.3 s ahead, 0.99
    about 7 s."""

    beta_entropy: Fraction = 0.01
    """Weight of the entropy bonus; more keeps the policy trying things for longer."""

    gae_lambda: Fraction = 0.95
    """Generalised advantage estimation: 0 trusts the value function, 1 the returns."""

    clip: float = Field(default=0.2, gt=0.0, lt=1.0)
    """How far one update may move an action's probability ratio from 1."""

    episodes_between_training: int = Field(default=20, ge=1, le=1000)
    """Episodes played between two updates. More is steadier but slower."""

    loss_type: Literal["mean squared error", "huber"] = "mean squared error"
    """Loss of the value function. ``mean_squared_error`` is the same as with spaces."""

    exploration_type: Literal["categorical", "e-greedy"] = "categorical"
    """How training picks actions: as the policy says, or greedily with a share of chance."""

    e_greedy_value: Fraction = 0.05
    """Share of chance that ``e-greedy`` ends at; it begins at 1."""

    epsilon_steps: int = Field(default=10_000, ge=1)
    """Steps in which ``e-greedy`` gets there."""

    max_update_transitions: int | None = Field(default=1536, ge=1)
    """Most transitions one update learns from, the rest is left out evenly. None: all."""

    target_kl: float | None = Field(default=0.03, gt=0.0)
    """How far an update should move the policy (KL divergence): the learning rate rises and falls
    to keep to it, between a tenth of and twice ``learning_rate``. None: it stays."""

    max_kl: float | None = Field(default=0.06, gt=0.0)
    """An update ends early once the policy has moved this far (KL divergence) from the one that
    played, and is taken back if in the end it is four times further. Guards against a step too far,
    from which a policy does not come back. None: neither."""

    averaging: float = Field(default=0.7, ge=0.0, lt=1.0)
    """What is evaluated and kept is the mean of the weights over the last updates; this much of
    the mean stays at each, less at the first few. 0: the newest weights alone."""

    bootstrap_time_up: bool = True
    """Estimate the future of an episode that was cut off by ``max_steps``. The service counts
    it as over."""

    stack_size: Literal[1] = 1
    """Pictures the network sees at once. The service writes this key down and never uses it."""

    term_cond_max_episodes: int = Field(default=100_000, ge=1)
    """Updates after which a run ends. (Updates: the service's name misleads.)"""

    term_cond_avg_score: float = 100_000.0
    """Written down and never used, as in the service."""

    @field_validator("loss_type", "exploration_type", mode="before")
    @classmethod
    def _any_case(cls, value: object, info: Any) -> object:
        if not isinstance(value, str):
            return value
        value = value.strip().lower()
        return value.replace("_", " ") if info.field_name == "loss_type" else value


class EvaluationConfig(_Part):
    """The greedy laps that judge the policy."""

    trials: int = Field(default=5, ge=1, le=1000)
    """Laps an evaluation drives."""

    every_iterations: int = Field(default=1, ge=1)
    """Updates between two evaluations."""

    best_metric: Literal["progress", "reward", "laptime"] = "progress"
    """What makes a checkpoint the best; lap time decides between equals."""

    max_steps: int = Field(default=500, ge=10, le=100_000)
    """Steps after which a trial is cut off."""

    number_of_resets: int = Field(default=0, ge=0)
    """How often a car that left the road is put back. 0, or at least 2 as in the service."""

    off_track_penalty_s: Seconds = 2.0
    """Seconds a car waits after it was put back."""

    collision_penalty_s: Seconds = 5.0
    """Seconds a car waits after a crash."""

    @model_validator(mode="after")
    def _not_one_reset(self) -> EvaluationConfig:
        if self.number_of_resets == 1:
            raise ConfigError("evaluation.number_of_resets must be 0 or at least 2, got 1.")
        return self

    def rules(self) -> EpisodeRules:
        """Return the rules of an evaluation episode."""
        return EpisodeRules(
            max_steps=self.max_steps,
            max_resets=self.number_of_resets,
            off_track_penalty_s=self.off_track_penalty_s,
            collision_penalty_s=self.collision_penalty_s,
        )


class StopConfig(_Part):
    """When a run ends by itself; the first that holds."""

    minutes: float | None = Field(default=10.0, gt=0.0)
    """Minutes of training, over all resumptions. None: no limit."""

    episodes: int | None = Field(default=None, ge=1)
    """Training episodes. None: no limit."""

    until: Literal["steady", "never"] = "steady"
    """``steady``: as soon as the model drives steadily; ``never``: not for that reason."""

    steady_evaluations: int = Field(default=3, ge=1)
    """Evaluations in a row with every lap complete that count as steady."""


class ClusterConfig(_Part):
    """Rollout workers on other machines; see docs/scaling.md."""

    ray: str | None = None
    """Ray cluster whose nodes play the episodes, ``host:port`` or ``auto``. None: they are played
    by the trainer."""

    redis: str | None = Field(default=None, pattern=r"^rediss?://[^@\s]+$")
    """Redis server that trainer and nodes reach, ``redis://host:port/0``; its password is in
    REDIS_PASSWORD. None: one is started for the run on the trainer's machine."""

    @field_validator("ray", mode="before")
    @classmethod
    def _none_in_words(cls, value: object) -> object:
        # A run that is gone on with can leave its cluster.
        return None if value == "none" else value


class PretrainedConfig(_Part):
    """Another run to take the first weights from."""

    run: str | None = None
    """Name or folder of the run. None: begin with random weights."""

    checkpoint: Literal["best", "last"] = "best"
    """Which of its checkpoints."""


class RunConfig(_Part):
    """Everything about one run; saved as its ``config.yaml`` before anything starts."""

    profile: Literal["fast", "cloud"] = "fast"
    """Which defaults apply: ours, or the service's own."""

    job_name: Name | None = None
    """Name shown in metrics and tables. None: the run's name."""

    run: Name | None = None
    """Name of the run's folder. None: made of track, date and time."""

    track: str = Field(default="reinvent_base", min_length=1)
    """Name of a track, or path of a route or definition file."""

    tracks: tuple[str, ...] = Field(default=(), max_length=16)
    """Several tracks for one model, each as ``track`` says; episodes and laps go round them.
    Empty: ``track`` alone."""

    surface: Literal["asphalt", "carpet", "concrete", "wood"] | None = None
    """What the ground looks like. None: the track's own."""

    reverse_direction: bool = False
    """Drive the track against its row order."""

    alternate_direction: bool = False
    """Change the direction after each training episode."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numbers of the update. ``auto``: bf16 where the processor has it."""

    instance: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the network runs. ``auto``: on a GPU if there is one."""

    workers: int = Field(default=1, ge=1, le=256)
    """Rollout workers that share the cars."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Processor threads to use. None: all."""

    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Fixes everything random: same seed, same run."""

    files: FilesConfig = FilesConfig()
    """The user's own files."""

    simulator: SimulatorConfig = Field(default_factory=SimulatorConfig)
    """The world the cars drive in."""

    episodes: EpisodesConfig = EpisodesConfig()
    """How a training episode begins and ends."""

    ppo: PpoConfig = PpoConfig()
    """How the policy learns."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """The greedy laps that judge the policy."""

    stop: StopConfig = StopConfig()
    """When the run ends by itself."""

    pretrained: PretrainedConfig = PretrainedConfig()
    """Another run to take the first weights from."""

    cluster: ClusterConfig = ClusterConfig()
    """Rollout workers on other machines."""

    @model_validator(mode="before")
    @classmethod
    def _first_of_tracks(cls, data: Any) -> Any:
        """Let ``track`` be the first of ``tracks``."""
        tracks = data.get("tracks") if isinstance(data, dict) else None
        if not isinstance(tracks, list | tuple) or not tracks:
            return data
        if data.get("track", tracks[0]) != tracks[0]:
            raise ConfigError(
                f"track must be left out or the first of tracks, {tracks[0]!r}, "
                f"got {data['track']!r}."
            )
        return {**data, "track": tracks[0]}

    @model_validator(mode="after")
    def _tracks_go_together(self) -> RunConfig:
        if len(set(self.tracks)) < len(self.tracks):
            raise ConfigError(f"tracks must differ, got {', '.join(self.tracks)}.")
        if self.cluster.ray is not None and self.simulator.backend == "gazebo":
            raise ConfigError(
                "simulator.backend must be embedded with cluster.ray, got gazebo: its simulators "
                "are containers beside the trainer."
            )
        count = len(self.all_tracks)
        if count > 1 and self.simulator.backend == "gazebo":
            raise ConfigError(
                f"simulator.backend must be embedded with several tracks ({count}), got gazebo."
            )
        if count > self.ppo.episodes_between_training:
            raise ConfigError(
                "ppo.episodes_between_training must be at least the number of tracks, "
                f"{count}, got {self.ppo.episodes_between_training}."
            )
        return self

    @property
    def all_tracks(self) -> tuple[str, ...]:
        """Return every track, one or several."""
        return self.tracks or (self.track,)

    @model_validator(mode="after")
    def _batch_fits_a_rollout(self) -> RunConfig:
        most = self.ppo.episodes_between_training * self.episodes.max_steps
        if self.ppo.batch_size > most:
            raise ConfigError(
                f"ppo.batch_size must be at most {most} (ppo.episodes_between_training x "
                f"episodes.max_steps, the longest rollout), got {self.ppo.batch_size}."
            )
        return self


PROFILES: dict[str, dict[str, Any]] = {
    "fast": {},  # the defaults above
    "cloud": {
        "episodes": {
            "max_steps": 100_000,
            "round_robin_advance": 0.05,
            "start_sideways_m": 0.0,
            "start_turn_deg": 0.0,
        },
        "ppo": {
            "episodes_between_training": 20,
            "optimizer_epsilon": 1e-5,
            "learning_rate": 3e-4,
            "batch_size": 64,
            "optimization_epochs": 10,
            "discount_factor": 0.999,
            "max_update_transitions": None,
            "target_kl": None,
            "max_kl": None,
            "averaging": 0.0,
            "bootstrap_time_up": False,
        },
        "evaluation": {"max_steps": 100_000},
        "stop": {"until": "never"},
    },
}
"""What each profile sets before the user's own values."""

_NOT_YET = {
    ("simulator.camera", "colour"): "the networks take grey pictures only",
    ("simulator.camera", "color"): "the networks take grey pictures only",
}


def resolve_config(
    file: Path | None = None,
    sets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    profile: str | None = None,
) -> RunConfig:
    """Return the configuration of a new run.

    Args:
        file: YAML file of the user.
        sets: ``key=value`` texts with full keys, e.g. ``ppo.batch_size=64``.
        overrides: Named arguments by full key; None means not given.
        profile: Named argument; beats the ``profile`` key of file and sets.

    Raises:
        ConfigError: If anything given is not allowed, one line.
        NotFound: If the file does not exist.
    """
    given = read_yaml_mapping(file) if file is not None else {}
    check_keys(given, RunConfig)
    for text in sets:
        key, value = parse_set(text)
        assign(given, key, value, RunConfig)
    for key, value in (overrides or {}).items():
        if value is not None:
            assign(given, key, value, RunConfig)
    if profile is not None:
        given["profile"] = profile
    name = given.get("profile", "fast")
    defaults = PROFILES.get(name, {}) if isinstance(name, str) else {}
    try:
        return RunConfig.model_validate(merge(defaults, given))
    except ValidationError as error:
        raise ConfigError(first_problem(error, RunConfig, _NOT_YET)) from None


def load_config(path: Path) -> RunConfig:
    """Return the configuration saved in a run.

    Raises:
        ConfigError: If the file holds anything that is not allowed.
        NotFound: If it does not exist.
    """
    return resolve_config(path)


def save_config(config: RunConfig, path: Path) -> None:
    """Write every value to a YAML file; `load_config` gives the same configuration back."""
    write_atomically(path, config_text(config))


def config_text(config: RunConfig) -> str:
    """Return the YAML text of a configuration, keys in the order of the classes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_fields() -> list[ConfigField]:
    """Return every key a user can set, in the order of the classes (for reference pages)."""
    return list(walk_fields(RunConfig, RunConfig()))
