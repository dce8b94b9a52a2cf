"""What is asked of the process that holds TensorFlow, and what it answers.

The graph is rebuilt from what the metadata say, a checkpoint's weights are put into it, and
pictures are run through it and through the frozen graph beside it.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from local_trainer.errors import RunFailed, last_line

TOLERANCE = 1e-6
"""Most that a probability of the frozen graph may differ from the live policy's."""

POLICY_NODE = "main_level/agent/main/online/network_1/ppo_head_0/policy"
INPUT_SHAPE = [-1, 120, 160, 1]
INPUT_TYPE = "float32"

_LIMIT_S = 600.0


def input_node(sensor: str) -> str:
    """Return the name of the one input that a policy for a sensor has."""
    return f"main_level/agent/main/online/network_0/{sensor}/{sensor}"


@dataclass(frozen=True)
class ProbeRequest:
    """One checkpoint, one frozen graph, or both of one policy."""

    num_actions: int
    network: str
    """Name as in ``model_metadata.json``."""
    sensor: str
    prefix: str | None = None
    """Checkpoint without suffix."""
    frozen: str | None = None
    """Frozen graph."""
    preset: str | None = None
    """A user's Coach preset, which builds the network instead of ``network``."""
    pictures: str | None = None
    """File of recorded pictures (`local_trainer.recorded_pictures`); None: they are drawn."""
    route: str | None = None
    """Route file they are drawn on then; None: a track of ours."""
    surface: str = "asphalt"
    save_weights: str | None = None
    """Write a checkpoint of the trainable variables alone to this prefix."""
    save_frozen: str | None = None
    """Write the checkpoint's frozen graph to this file."""


@dataclass(frozen=True)
class FrozenFacts:
    """What a frozen graph takes and gives."""

    input_name: str
    input_shape: list[int]
    """-1 where any number fits."""
    input_type: str
    num_actions: int
    devices: list[str]
    """Devices it names; none is right."""


@dataclass(frozen=True)
class ProbeAnswer:
    """What was found; texts are one line."""

    weights_problem: str = ""
    """Why the checkpoint does not restore; empty if it does or was not asked for."""
    num_weights: int = 0
    """Trainable variables that were restored."""
    other_variables: list[str] = field(default_factory=list)
    """What the checkpoint holds besides."""
    frozen_problem: str = ""
    """Why the frozen graph does not load or run."""
    frozen: FrozenFacts | None = None
    probability_sum_error: float = 0.0
    """Largest distance of a picture's probabilities from summing to 1; NaN stays NaN."""
    difference: float | None = None
    """Largest difference of frozen graph and live policy over all pictures and actions."""
    num_pictures: int = 0


TryOut = Callable[[Sequence[ProbeRequest]], list[ProbeAnswer]]
"""Answers requests: `probe`, or what it starts, where TensorFlow is at hand already."""


def probe(requests: Sequence[ProbeRequest]) -> list[ProbeAnswer]:
    """Try models out in a process of their own; TensorFlow stays out of this one.

    Raises:
        RunFailed: If the process fails; carries its last line.
    """
    from local_trainer.launch.processes import start_probe

    if not requests:
        return []
    with tempfile.TemporaryDirectory(prefix="local-trainer-") as folder:
        place = Path(folder)
        text = json.dumps([asdict(request) for request in requests])
        (place / "request.json").write_text(text, encoding="utf-8")
        process = start_probe(place)
        try:
            process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"The models took more than {_LIMIT_S:g} s to try out.") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        answer = place / "answer.json"
        if process.returncode or not answer.exists():
            raise RunFailed(f"The models cannot be tried out: {_last_word(place / 'probe.log')}")
        return [read_answer(data) for data in json.loads(answer.read_text(encoding="utf-8"))]


def read_answer(data: dict[str, Any]) -> ProbeAnswer:
    """Return the answer of its JSON object."""
    facts = data.pop("frozen")
    return ProbeAnswer(**data, frozen=None if facts is None else FrozenFacts(**facts))


def _last_word(log: Path) -> str:
    said = log.read_text(encoding="utf-8", errors="replace")
    return last_line(said) or "the process left no word"
