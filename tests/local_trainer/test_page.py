import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from local_trainer.page import Badge, Page

PNG = b"\x89PNG\r\n\x1a\nnot really a picture"
VOID = {"img", "meta", "br"}


class Parsed(HTMLParser):
    """Collects tags with their classes, text and the policy; refuses tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.classes: list[str] = []
        self.text = ""
        self.policy = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.classes.append(values.get("class") or "")
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


NASTY = '</td></script><b onclick="x">\'&amp;'


def test_every_kind_of_content_is_shown_as_text() -> None:
    page = Page(NASTY, (NASTY, NASTY), Badge(NASTY, "bad"))
    page.cards([(NASTY, NASTY)])
    page.section(NASTY).text(NASTY).facts([(NASTY, Badge(NASTY))]).code(NASTY)
    page.table((NASTY, f">{NASTY}"), [(NASTY, Badge(NASTY))])
    page.picture(PNG, NASTY, alt=NASTY).commands([(NASTY, NASTY)]).details(NASTY, NASTY)
    parsed = Parsed(page.html())
    assert "b" not in parsed.tags and "script" not in parsed.tags
    # Title twice, two subtitles, badge, 2 card, heading, text, 2 facts, code, 4 table, caption,
    # 2 commands, 2 details; the alternative text is an attribute.
    assert parsed.text.count(NASTY) == 21


def test_a_section_without_content_is_left_out() -> None:
    page = Page("t").section("empty").table(("a",), []).facts([]).section("full").text("words")
    parsed = Parsed(page.html())
    assert "empty" not in parsed.text and "full" in parsed.text
    assert parsed.tags.count("section") == 1


def test_columns_marked_so_are_aligned_to_the_right() -> None:
    parsed = Parsed(Page("t").table(("name", ">count"), [("a", "1"), ("b", "2")]).html())
    cells = [c for tag, c in zip(parsed.tags, parsed.classes, strict=True) if tag in ("th", "td")]
    assert cells == ["", "right"] * 3


def test_a_row_with_too_few_cells_is_refused() -> None:
    with pytest.raises(ValueError):
        Page("t").table(("a", "b"), [("only one",)])


def test_pictures_lie_in_the_page(tmp_path: Path) -> None:
    file = tmp_path / "p.png"
    file.write_bytes(PNG)
    html = Page("t").picture(PNG).picture(file).html()
    assert html.count(base64.b64encode(PNG).decode()) == 2
    assert not re.search(r"https?:|url\(|@import|<link|<iframe", html)


def test_only_its_own_programs_may_run() -> None:
    assert "script-src" not in Parsed(Page("t").html()).policy
    program = 'document.title = "ü";'
    parsed = Parsed(Page("t").script(program).html())
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert parsed.policy.endswith(f"script-src 'sha256-{digest}'")
    assert "default-src 'none'" in parsed.policy


def test_data_for_a_program_cannot_end_its_element() -> None:
    html = Page("t").script("0", {"name": NASTY}).html()
    assert Parsed(html).tags.count("script") == 2
    found = re.search(r'id="data">(.*?)</script>', html)
    assert found is not None
    assert json.loads(found[1]) == {"name": NASTY}


def test_a_page_reads_itself_again_only_when_asked() -> None:
    assert "refresh" not in Page("t").html()
    assert '<meta http-equiv="refresh" content="1.5">' in Page("t", refresh_s=1.5).html()


def test_a_page_is_written_whole_and_alone(tmp_path: Path) -> None:
    page = Page("t").text("words")
    path = page.write(tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8") == page.html()
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
