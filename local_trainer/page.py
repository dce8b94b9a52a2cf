"""One offline HTML page: headings, tables, pictures and numbers, all inside a single file.

The page asks nothing of the network, so it can be opened anywhere and mailed. Text is shown as
text, never as markup; only `Page.markup` and `Page.script` take markup, for our own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from local_trainer.runs import write_atomically

Tone = Literal["plain", "good", "bad", "warn", "info"]


@dataclass(frozen=True)
class Badge:
    """A short word on a coloured ground: a state, or how grave a finding is."""

    text: str
    tone: Tone = "plain"


Cell = str | Badge
"""What a table or a list of facts holds."""


class Page:
    """Collects what a page shows, from top to bottom.

    Every method returns the page, so that calls can be chained. What is added after `section`
    lies in that section; a section to which nothing is added is left out.
    """

    def __init__(
        self,
        title: str,
        subtitle: str | Sequence[str] = "",
        badge: Badge | None = None,
        refresh_s: float | None = None,
        width_px: int = 960,
    ) -> None:
        """Begin a page.

        Args:
            title: The heading, and the title of the browser's tab.
            subtitle: A line below the heading, or several.
            badge: Shown beside the heading.
            refresh_s: Seconds after which a browser reads the file again; None for never.
            width_px: Widest the page gets.
        """
        self._title = title
        self._refresh_s = refresh_s
        self._width_px = width_px
        mark = f" {_cell(badge)}" if badge else ""
        self._header = f"<h1>{escape(title)}{mark}</h1>"
        lines = [subtitle] if isinstance(subtitle, str) else subtitle
        self._header += "".join(f"<p>{escape(line)}</p>" for line in lines if line)
        self._sections: list[tuple[str | None, list[str]]] = [(None, [])]
        self._styles: list[str] = []
        self._scripts: list[str] = []
        self._data: list[str] = []

    def section(self, heading: str) -> Page:
        """Begin a section, framed and with a heading."""
        self._sections.append((heading, []))
        return self

    def end_section(self) -> Page:
        """Add what follows outside of any frame, e.g. cards."""
        self._sections.append((None, []))
        return self

    def text(self, *paragraphs: str) -> Page:
        """Add paragraphs of plain text."""
        return self.markup("".join(f"<p>{escape(words)}</p>" for words in paragraphs))

    def cards(self, rows: Iterable[tuple[str, str]]) -> Page:
        """Add name and value pairs as a row of cards: the few numbers to see first."""
        cells = "".join(
            f"<div><span>{escape(name)}</span><strong>{escape(value)}</strong></div>"
            for name, value in rows
        )
        return self.markup(f"<div class=cards>{cells}</div>") if cells else self

    def facts(self, rows: Iterable[tuple[str, Cell]]) -> Page:
        """Add name and value pairs as a list of two columns."""
        body = "".join(
            f"<tr><th>{escape(name)}</th><td>{_cell(value)}</td></tr>" for name, value in rows
        )
        return self.markup(f"<table class=facts><tbody>{body}</tbody></table>") if body else self

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Page:
        """Add a table; columns whose name begins with ``>`` are aligned to the right.

        Cells that hold line breaks keep them. A table without rows is left out.
        """
        kinds = [" class=right" if name.startswith(">") else "" for name in columns]
        head = "".join(
            f"<th{kind}>{escape(name.removeprefix('>'))}</th>"
            for name, kind in zip(columns, kinds, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td{k}>{_cell(c)}</td>" for c, k in zip(row, kinds, strict=True))
            + "</tr>"
            for row in rows
        )
        if not body:
            return self
        return self.markup(
            f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>"
        )

    def picture(
        self, png: bytes | Path, caption: str = "", alt: str = "", min_width_px: int | None = None
    ) -> Page:
        """Add a PNG picture.

        Args:
            png: The picture, or its file.
            caption: Plain text above it.
            alt: Read out instead of the picture; the caption when left out.
            min_width_px: On a narrower screen the picture scrolls rather than shrinks further.
        """
        above = f"<p>{escape(caption)}</p>" if caption else ""
        wide = f' style="min-width:{min_width_px}px"' if min_width_px else ""
        return self.markup(
            f'{above}<div class=scroll><img{wide} alt="{escape(alt or caption)}" '
            f'src="{data_uri(png, "image/png")}"></div>'
        )

    def code(self, text: str) -> Page:
        """Add a program's text, or whatever keeps its spaces and line breaks."""
        return self.markup(f"<pre><code>{escape(text)}</code></pre>")

    def commands(self, rows: Iterable[tuple[str, str]]) -> Page:
        """Add what can be done next: a description and the command for it."""
        body = "".join(
            f"<dt>{escape(words)}</dt><dd><code>{escape(command)}</code></dd>"
            for words, command in rows
        )
        return self.markup(f"<dl>{body}</dl>") if body else self

    def details(self, summary: str, text: str) -> Page:
        """Add text that is folded away until its summary is clicked."""
        return self.markup(
            f"<details><summary>{escape(summary)}</summary>"
            f"<pre><code>{escape(text)}</code></pre></details>"
        )

    def markup(self, html: str) -> Page:
        """Add markup of our own, already escaped."""
        self._sections[-1][1].append(html)
        return self

    def script(self, javascript: str, data: dict[str, Any] | None = None, css: str = "") -> Page:
        """Add a program of our own that runs when the page is read.

        Args:
            javascript: Its text; must not hold ``</script``. Allowed by its hash, so nothing
                else on the page can run.
            data: What it finds in ``JSON.parse(document.getElementById("data").textContent)``;
                one for the whole page.
            css: Its styles.
        """
        self._scripts.append(javascript)
        self._styles.append(css)
        if data is not None:
            # In a script element only "<" could end the text early.
            text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
            self._data.append(f'<script type="application/json" id="data">{text}</script>')
        return self

    def html(self) -> str:
        """Return the page as a document."""
        refresh = (
            f'<meta http-equiv="refresh" content="{self._refresh_s:g}">\n'
            if self._refresh_s is not None
            else ""
        )
        style = _STYLE + f"main {{ max-width: {self._width_px}px; }}\n" + "".join(self._styles)
        sections = "\n".join(_section(*parts) for parts in self._sections if parts[1])
        scripts = "\n".join((*self._data, *(f"<script>{text}</script>" for text in self._scripts)))
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{self._policy()}">\n'
            f"{refresh}<title>{escape(self._title)}</title>\n<style>{style}</style>\n</head>\n"
            f"<body>\n<main>\n<header>{self._header}</header>\n{sections}\n</main>\n"
            f"{scripts}</body>\n</html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all, and return its path."""
        write_atomically(path, self.html())
        return path

    def _policy(self) -> str:
        """Return what the browser may load: nothing but what lies in the page."""
        policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
        hashes = [
            base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
            for text in self._scripts
        ]
        return policy + ("; script-src" if hashes else "") + "".join(
            f" 'sha256-{value}'" for value in hashes
        )  # fmt: skip


def data_uri(content: bytes | Path, kind: str) -> str:
    """Return a file's content as an address that holds it.

    Args:
        content: The bytes, or the file they are in.
        kind: Media type, e.g. ``image/png``.
    """
    data = content.read_bytes() if isinstance(content, Path) else content
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _section(heading: str | None, parts: Sequence[str]) -> str:
    content = "\n".join(parts)
    if heading is None:
        return content
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Badge):
        return f'<span class="badge {escape(cell.tone)}">{escape(cell.text)}</span>'
    return escape(cell)


_STYLE = """
:root { color-scheme: light dark; --ink: #1e293b; --muted: #64748b; --line: #e2e8f0;
  --ground: #f1f5f9; --card: #fff; --code: #f8fafc; --plain: #e2e8f0; --plain-ink: #1e293b;
  --good: #dcfce7; --good-ink: #166534; --bad: #fee2e2; --bad-ink: #991b1b;
  --warn: #fef3c7; --warn-ink: #92400e; --info: #dbeafe; --info-ink: #1e40af; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e2e8f0; --muted: #94a3b8; --line: #334155; --ground: #0f172a;
    --card: #1e293b; --code: #0f172a; --plain: #334155; --plain-ink: #e2e8f0;
    --good: #14532d; --good-ink: #bbf7d0; --bad: #7f1d1d; --bad-ink: #fecaca;
    --warn: #78350f; --warn-ink: #fde68a; --info: #1e3a8a; --info-ink: #bfdbfe; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.6rem; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 10px; }
header p { margin: 2px 0; color: var(--muted); overflow-wrap: anywhere; }
.badge { font-size: .8rem; font-weight: 600; padding: 3px 10px; border-radius: 99px;
  background: var(--plain); color: var(--plain-ink); white-space: nowrap; }
h1 .badge { vertical-align: middle; }
.badge.good { background: var(--good); color: var(--good-ink); }
.badge.bad { background: var(--bad); color: var(--bad-ink); }
.badge.warn { background: var(--warn); color: var(--warn-ink); }
.badge.info { background: var(--info); color: var(--info-ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px;
  margin: 18px 0; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.cards span { display: block; font-size: .8rem; color: var(--muted); }
.cards strong { font-size: 1.15rem; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px; margin: 14px 0; }
section p { margin: 6px 0 10px; color: var(--muted); overflow-wrap: anywhere; }
img, video { display: block; max-width: 100%; height: auto; border-radius: 6px; }
img { background: #fff; }
video { width: 100%; background: #0f172a; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  margin-bottom: 10px; }
th, td { text-align: left; vertical-align: top; padding: 6px 12px 6px 0;
  border-bottom: 1px solid var(--line); white-space: pre; }
th { font-size: .8rem; color: var(--muted); font-weight: 600; }
th.right, td.right { text-align: right; padding: 6px 0 6px 12px; }
table.facts { width: auto; }
table.facts td { white-space: pre-wrap; overflow-wrap: anywhere; }
table.facts th { padding-right: 20px; font-size: .9rem; }
pre { margin: 0 0 10px; overflow-x: auto; background: var(--code); border: 1px solid var(--line);
  border-radius: 6px; padding: 12px; font-size: .85rem; line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
dl { margin: 0; } dt { color: var(--muted); font-size: .9rem; }
dd { margin: 2px 0 12px; overflow-x: auto; }
dd code { background: var(--code); border: 1px solid var(--line); border-radius: 6px;
  padding: 4px 8px; display: inline-block; white-space: nowrap; }
summary { cursor: pointer; color: var(--muted); }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
