import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from driven import REWARD_CODE, evaluate_run, oval, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from local_trainer.cli.plot import plot
from local_trainer.errors import NotFound
from local_trainer.plots import write_plots
from local_trainer.report import MAX_VIDEO_BYTES, report_html, video_file, write_report
from local_trainer.runs import Run

VOID = {"img", "meta", "br"}


class Page(HTMLParser):
    """Collects tags, links and text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    track = oval()
    run = write_run(tmp_path_factory.mktemp("report") / "my-run", track, 2, 3)
    evaluate_run(run, track, laps=3, stamp="20260102030405")
    write_plots(run)
    return run


def test_the_page_holds_everything_and_asks_nothing_of_the_network(run: Run) -> None:
    video_file(run).write_bytes(b"not really a video")
    path = write_report(run)
    assert path == run.report_file
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("img") == 5 and page.tags.count("video") == 1
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"url\(|@import|<script|<link|<iframe", text)
    assert "default-src 'none'" in text
    shown = " ".join(page.text)
    for words in ("my-run", "oval", "finished", "Best lap", "3 of 3", "Lap complete"):
        assert words in shown
    for words in ("batch_size", "+15", "local-trainer train --resume my-run"):
        assert words in shown


def test_code_is_shown_as_text(run: Run) -> None:
    text = report_html(run, run.plots_dir)
    assert "<b>closer" not in text
    assert REWARD_CODE in "".join(Page(text).text)


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1))
def test_whatever_a_user_wrote_is_shown_as_text(run: Run, words: str) -> None:
    status = run.read_status()
    usual = Page(report_html(run, run.plots_dir)).tags
    run.write_status(replace(status, reason=words, job_name=words))
    run.config_file.write_text(words, encoding="utf-8", newline="")
    try:
        page = Page(report_html(run, run.plots_dir))
    finally:
        run.write_status(status)
    assert page.tags == usual or sorted(set(page.tags)) == sorted(set(usual))
    assert words in "".join(page.text)


def test_a_large_video_is_named_instead(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "evaluation.mp4").open("wb") as file:
        file.truncate(MAX_VIDEO_BYTES + 1)
    page = Page(report_html(run, tmp_path))
    assert "video" not in page.tags
    assert str(tmp_path / "evaluation.mp4") in "".join(page.text)


def test_what_is_missing_is_left_out(tmp_path: Path, run: Run) -> None:
    young = Run(tmp_path / "young")
    young.path.mkdir()
    young.status_file.write_bytes(run.status_file.read_bytes())
    page = Page(write_report(young).read_text(encoding="utf-8"))
    assert "img" not in page.tags and "video" not in page.tags
    assert "How to go on" in page.text


def test_a_page_can_be_written_elsewhere(run: Run, tmp_path: Path) -> None:
    write_plots(run, tmp_path)
    path = write_report(run, tmp_path)
    assert path == tmp_path / "report.html"
    assert Page(path.read_text(encoding="utf-8")).tags.count("img") == 5


def test_the_command_writes_plots_video_and_page_elsewhere(run: Run, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(plot)
    video_file(run).write_bytes(b"not really a video")
    result = CliRunner().invoke(app, [str(run.path), "--output", str(tmp_path), "--show-paths"])
    assert result.exit_code == 0, result.output
    printed = [Path(line) for line in result.stdout.split()]
    assert sorted(printed) == sorted(tmp_path.iterdir())
    assert printed[-1] == tmp_path / "report.html"
    assert "video" in Page(printed[-1].read_text(encoding="utf-8")).tags


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not a run"):
        write_report(Run(tmp_path))
