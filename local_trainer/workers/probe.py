"""Tries models out: rebuilds graphs, restores weights, runs pictures through.

``python -m local_trainer.workers.probe --folder PATH``; reads ``request.json`` there and writes
``answer.json`` (`local_trainer.export.probe`).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from local_trainer.export.probe import ProbeRequest
from local_trainer.runs import write_atomically


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.probe")
    parser.add_argument("--folder", required=True, type=Path)
    folder = parser.parse_args(arguments).folder
    requests = json.loads((folder / "request.json").read_text(encoding="utf-8"))

    from coach_presets.export import answer_all

    answers = answer_all([ProbeRequest(**request) for request in requests])
    write_atomically(folder / "answer.json", json.dumps([asdict(answer) for answer in answers]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
