"""Every rule that is known for the physical car's ``model.tar.gz``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from local_trainer.errors import LocalTrainerError
from local_trainer.export.car import GRAPH_NAME, METADATA_NAME, frozen_problem
from local_trainer.export.findings import Finding, not_checked, passed, refused, warning
from local_trainer.export.model_files import Metadata, Unusable, read_metadata
from local_trainer.export.probe import ProbeRequest, TryOut, probe


def check_car_folder(folder: Path, archive: Path, try_out: TryOut = probe) -> tuple[Finding, ...]:
    """Return every rule's finding.

    Args:
        folder: What the archive holds.
        archive: The archive, or the folder itself where it is not packed yet.
        try_out: Tries the model out.
    """
    return (*_form(archive), *_content(folder, try_out))


def _form(archive: Path) -> Iterator[Finding]:
    rule = "gzipped tar"
    mend = "pack it with local-trainer export car, or: tar czf model.tar.gz -C FOLDER ."
    if archive.is_dir():
        yield refused(rule, "a folder", mend)
        return
    with archive.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if is_gzip and archive.name.endswith(".tar.gz"):
        yield passed(rule, archive.name)
    elif is_gzip:
        yield refused(rule, archive.name, "let its name end in .tar.gz")
    else:
        yield refused(rule, "another kind of archive", mend)


def _content(folder: Path, try_out: TryOut) -> Iterator[Finding]:
    metadata: Metadata | None = None
    try:
        metadata = read_metadata(folder / METADATA_NAME)
        sensors = " + ".join(metadata.sensors)
        yield passed(METADATA_NAME, f"{metadata.algorithm}, {metadata.network}, {sensors}")
    except Unusable as problem:
        mend = "put the metadata that the model was trained with at the top"
        yield refused(METADATA_NAME, str(problem), mend)
    graph = folder / GRAPH_NAME
    if not graph.is_file():
        yield refused(GRAPH_NAME, "is missing", "put the frozen graph there")
    else:
        yield passed(GRAPH_NAME, f"{graph.stat().st_size / 2**20:.1f} MiB")
        yield _graph(graph, metadata, try_out)
    files = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    others = sorted(set(files) - {METADATA_NAME, GRAPH_NAME})
    if others:
        more = "" if len(others) <= 3 else f" and {len(others) - 3} more"
        mend = "nothing to do: the car reads the two files above"
        yield warning("nothing besides", f"{', '.join(others[:3])}{more}", mend)
    else:
        yield passed("nothing besides", "two files")


def _graph(graph: Path, metadata: Metadata | None, try_out: TryOut) -> Finding:
    rule = "the frozen graph runs"
    why = "without usable metadata" if metadata is None else metadata.why_not_rebuilt
    if why or metadata is None:
        return not_checked(rule, why)
    request = ProbeRequest(
        num_actions=metadata.num_actions,
        network=metadata.network,
        sensor=metadata.sensors[0],
        frozen=str(graph),
    )
    try:
        answer = try_out([request])[0]
    except LocalTrainerError as error:
        return not_checked(rule, str(error)[:200])
    problem = frozen_problem(answer, metadata.sensors[0], metadata.num_actions)
    if problem:
        mend = "freeze the policy of the checkpoint that goes with the metadata"
        return refused(rule, problem, mend)
    return passed(rule, f"{metadata.num_actions} actions, {answer.num_pictures} pictures")
