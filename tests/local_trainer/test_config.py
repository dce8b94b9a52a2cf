"""The run config: precedence, one-line errors, and files that give back what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_trainer.config import (
    PROFILES,
    RunConfig,
    config_fields,
    config_text,
    load_config,
    resolve_config,
    save_config,
)
from local_trainer.errors import ConfigError, NotFound


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(
        tmp_path / "my.yaml", "profile: cloud\nppo: {batch_size: 32, clip: 0.3}\nseed: 1\n"
    )
    config = resolve_config(file, ["ppo.clip=0.25", "seed=2"], {"seed": 3, "stop.minutes": None})
    assert config.ppo.optimization_epochs == 10  # the profile
    assert config.ppo.batch_size == 32  # the file over the profile's 64
    assert config.ppo.clip == 0.25  # --set over the file
    assert config.seed == 3  # a named argument over --set
    assert config.stop.minutes == RunConfig().stop.minutes  # not given


def test_a_named_profile_beats_the_files(tmp_path: Path) -> None:
    file = write(tmp_path / "my.yaml", "profile: cloud\n")
    assert resolve_config(file, profile="fast") == RunConfig()


def test_the_cloud_profile_has_the_services_defaults() -> None:
    config = resolve_config(profile="cloud")
    ppo = config.ppo
    assert (ppo.batch_size, ppo.optimization_epochs, ppo.episodes_between_training) == (64, 10, 20)
    assert (ppo.learning_rate, ppo.discount_factor, ppo.beta_entropy) == (3e-4, 0.999, 0.01)
    assert (ppo.loss_type, ppo.exploration_type) == ("mean squared error", "categorical")
    assert config.episodes.max_steps == 100_000
    assert not ppo.bootstrap_time_up


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str) -> None:
    assert resolve_config(profile=profile).profile == profile


@pytest.mark.parametrize(
    ("setting", "names", "allowed", "got"),
    [
        ("ppo.batch_size=0", "ppo.batch_size", "an integer from 1 to 65536", "got 0."),
        ("ppo.batch_size=many", "ppo.batch_size", "an integer", "got 'many'."),
        ("ppo.batch_size=1.5", "ppo.batch_size", "an integer", "got 1.5."),
        ("ppo.batch_size=true", "ppo.batch_size", "an integer", "got True."),
        ("ppo.learning_rate=.nan", "ppo.learning_rate", "a number from 1e-08 to 1", "got nan."),
        ("ppo.clip=1", "ppo.clip", "a number > 0 and < 1", "got 1."),
        ("ppo.loss_type=mse", "ppo.loss_type", "mean squared error, huber", "got 'mse'."),
        ("ppo.stack_size=4", "ppo.stack_size", "1", "got 4."),
        ("simulator.backend=unity", "simulator.backend", "embedded", "got 'unity'."),
        ("simulator.camera=colour", "simulator.camera", "grey", "got 'colour'."),
        ("simulator.car.wheelbase_m=-1", "simulator.car.wheelbase_m", "> 0", "got -1.0"),
        ("simulator.car.wheelbase_m=x", "simulator.car.wheelbase_m", "a number", "got 'x'."),
        ("simulator=3", "simulator", "a section of keys", "got 3."),
        ("simulator.num_cars=0", "simulator.num_cars", "an integer from 1", "got 0."),
        (
            "evaluation.number_of_resets=1",
            "evaluation.number_of_resets",
            "0 or at least 2",
            "got 1.",
        ),
        ("episodes.change_start_position=perhaps", "start_position", "true or false", "'perhaps'."),
        ("stop.minutes=-1", "stop.minutes", "a number > 0 or null", "got -1."),
        ("job_name=../x", "job_name", "a name of letters", "got '../x'."),
        ("profile=best", "profile", "one of fast, cloud", "got 'best'."),
        ("ppo", "--set", "key=value", "got 'ppo'."),
        ("ppo.batch_size=[1", "ppo.batch_size", "a YAML value", "got '[1'."),
        ("ppo.batch_size=60000", "ppo.batch_size", "at most 10000", "got 60000."),
    ],
)
def test_a_bad_value_is_one_line(setting: str, names: str, allowed: str, got: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_config(sets=[setting])
    text = str(error.value)
    assert "\n" not in text
    for part in (names, allowed, got):
        assert part in text


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("ppo.bach_size", "ppo.batch_size"),
        ("ppo.lerning_rate", "ppo.learning_rate"),
        ("batch_size", "ppo.batch_size"),
        ("trak", "track"),
        ("simulator.car.wheelbas_m", "simulator.car.wheelbase_m"),
        ("simulator.randomization.noise", "simulator.randomization.noise_sigma"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    message = f"Unknown key '{key}'. Did you mean '{nearest}'?"
    with pytest.raises(ConfigError, match="Unknown key") as error:
        resolve_config(sets=[f"{key}=1"])
    assert str(error.value).startswith(message)
    *sections, last = key.split(".")
    text = "".join(f"{'  ' * i}{section}:\n" for i, section in enumerate(sections))
    file = write(tmp_path / "my.yaml", f"{text}{'  ' * len(sections)}{last}: 1\n")
    with pytest.raises(ConfigError) as error:
        resolve_config(file)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "says"),
    [("ppo: [1", "must be valid YAML, line"), ("- 1", "'key: value' lines"), ("\x00", "YAML")],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path / "my.yaml", text)
    with pytest.raises(ConfigError, match=says) as error:
        resolve_config(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No file"):
        resolve_config(tmp_path / "none.yaml")


def test_numbers_may_be_written_as_people_write_them() -> None:
    config = resolve_config(sets=["ppo.learning_rate=1e-3", "run=2026-01-02", "job_name=12"])
    assert config.ppo.learning_rate == 1e-3
    assert (config.run, config.job_name) == ("2026-01-02", "12")
    assert resolve_config(sets=["ppo.loss_type=Mean_Squared_Error"]) == RunConfig()


def test_rules_follow_the_config() -> None:
    config = resolve_config(
        sets=["episodes.max_steps=77", "evaluation.number_of_resets=3", "evaluation.max_steps=88"]
    )
    assert (config.episodes.rules().max_steps, config.episodes.rules().max_resets) == (77, 0)
    assert (config.evaluation.rules().max_steps, config.evaluation.rules().max_resets) == (88, 3)


CONFIGS = st.builds(
    lambda seed, batch, rate, minutes, track, name, grip, reverse: {
        "seed": seed,
        "ppo.batch_size": batch,
        "ppo.learning_rate": rate,
        "stop.minutes": minutes,
        "track": track,
        "job_name": name,
        "simulator.randomization.friction_scale": [min(grip), max(grip)],
        "reverse_direction": reverse,
    },
    st.integers(0, 2**32 - 1),
    st.integers(1, 10_000),
    st.floats(1e-8, 1.0),
    st.none() | st.floats(1e-3, 1e6),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.tuples(st.floats(0.05, 4.0), st.floats(0.05, 4.0)),
    st.booleans(),
)


@given(CONFIGS)
@settings(max_examples=60, deadline=None)
def test_a_saved_config_loads_the_same(
    tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, object]
) -> None:
    config = resolve_config(overrides=overrides)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    save_config(config, path)
    assert load_config(path) == config
    assert config_text(load_config(path)) == path.read_text(encoding="utf-8")


def test_every_key_says_what_it_means_and_takes() -> None:
    fields = config_fields()
    assert len(fields) > 60
    for field in fields:
        assert field.description, field.key
        assert field.allowed and field.allowed != "a value", field.key
