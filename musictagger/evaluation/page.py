"""One HTML page that needs nothing else: texts, tables and pictures as strings, everything in them escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from musictagger.evaluation.plots import svg_text

_CSS = """
:root { color-scheme: light dark; --ink: #1a1c1e; --paper: #fff; --soft: #5a6067; --line: #d8dbdf; --shade: #f4f5f7;
  --blue: #0072b2; --sky: #56b4e9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #16181b; --soft: #a3a9b0; --line: #3a3f45; --shade: #1f2226;
    --blue: #3f8fd0; --sky: #a5dcff }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1.5rem }
h1 { margin: 0 } h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line) }
p { max-width: 46rem } .soft, figcaption { color: var(--soft) }
nav a { margin-right: 1rem; white-space: nowrap } a { color: inherit }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; white-space: nowrap }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
td.number, th.number { text-align: right } tbody th { font-weight: normal }
figure { margin: 1rem 0; overflow-x: auto }
figure svg { display: block; max-width: 100%; min-width: 34rem; height: auto; color: var(--ink) }
pre { background: var(--shade); padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --shade: #f4f4f4;
    --blue: #0072b2; --sky: #56b4e9 }
  body { max-width: none; padding: 0; font-size: 10pt } nav { display: none }
  .wide, figure { overflow: visible } table { font-size: 8pt } th, td { padding-right: .5rem }
  figure svg { min-width: 0; max-height: 24cm } figure, tr { break-inside: avoid } h2 { break-after: avoid }
}
"""


@dataclass
class Page:
    """A page that grows from top to bottom."""

    title: str
    parts: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    figures: int = 0

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.headings.append(text)
        self.parts.append(f'<h2 id="s{len(self.headings)}">{html.escape(text)}</h2>')

    def text(self, *lines: str, soft: bool = False) -> None:
        """A paragraph, each line beginning a new one on the page."""
        kind = ' class="soft"' if soft else ""
        self.parts.append(f"<p{kind}>{'<br>'.join(map(html.escape, lines))}</p>")

    def code(self, text: str) -> None:
        """Text that was typed."""
        self.parts.append(f"<pre><code>{html.escape(text)}</code></pre>")

    def figure(self, picture: Figure, alt: str, caption: str = "") -> None:
        """A picture, with what it shows for those who cannot see it."""
        self.figures += 1
        below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        self.parts.append(f"<figure>{svg_text(picture, alt, f'f{self.figures}')}{below}</figure>")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
        """A table whose first column heads the rows. Below a header the other columns are numbers, else texts."""
        kind = ' class="number"' if header else ""
        parts = ['<div class="wide"><table>', f"<caption>{html.escape(caption)}</caption>" if caption else ""]
        if header:
            cells = "".join(f'<th scope="col"{kind}>{html.escape(name)}</th>' for name in header[1:])
            parts.append(f'<thead><tr><th scope="col">{html.escape(header[0])}</th>{cells}</tr></thead>')
        parts.append("<tbody>")
        for row in rows:
            cells = "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell in row[1:])
            parts.append(f'<tr><th scope="row">{html.escape(row[0])}</th>{cells}</tr>')
        self.parts.append("".join([*parts, "</tbody></table></div>"]))

    def document(self, subtitle: str) -> str:
        """The whole page as HTML."""
        title = html.escape(self.title)
        links = "\n".join(f'<a href="#s{i}">{html.escape(text)}</a>' for i, text in enumerate(self.headings, start=1))
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{_CSS}</style>\n</head>\n<body>\n<header><h1>{title}</h1>\n"
            f'<p class="soft">{html.escape(subtitle)}</p>\n<nav aria-label="Sections">{links}</nav></header>\n<main>\n'
            + "\n".join(self.parts)
            + "\n</main>\n</body>\n</html>\n"
        )
