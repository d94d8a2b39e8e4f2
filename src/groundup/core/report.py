"""One page out of parts, as HTML and Markdown, with pictures of curves; what its figures mean is not its business."""

from __future__ import annotations

import base64
import html
import io
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groundup.core.files import atomic_write

Cell = str | int | float | None


def quantity(value: float) -> str:
    """A count for people: three digits and a suffix (`1.23k`, `45.6M`, `7.89B`, `1.20T`)."""
    sign, value = ("-" if value < 0 else ""), abs(value)
    for limit, divisor, suffix in ((999.5, 1.0, ""), (999.5e3, 1e3, "k"), (999.5e6, 1e6, "M"), (999.5e9, 1e9, "B")):
        if value < limit:
            return f"{sign}{_three_digits(value / divisor, whole=divisor == 1.0)}{suffix}"
    return f"{sign}{_three_digits(value / 1e12, whole=False)}T"


def duration(seconds: float) -> str:
    """A time for people: its two largest units (`8.1 s`, `2m 05s`, `3h 07m`, `4d 02h`)."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    return f"{hours // 24}d {hours % 24:02d}h"


def fenced(text: str) -> str:
    """Text as a Markdown block that shows it as it is, whatever backticks it has."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _three_digits(value: float, *, whole: bool) -> str:
    if whole and value == int(value):
        return str(int(value))
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f}"


@dataclass
class Report:
    """A page that grows by parts, each a method, and is written once as `report.html` and `report.md`.

    The HTML page is one file: style and pictures are inside it, it follows the reader's light or dark
    theme, and it asks no server for anything. In texts, words between backticks are set as code.
    """

    title: str
    _html: list[str] = field(default_factory=list, repr=False)
    _markdown: list[str | tuple[str, Path]] = field(default_factory=list, repr=False)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._add(f"<h2>{html.escape(text)}</h2>", f"## {_plain(text)}")

    def paragraph(self, text: str) -> None:
        """Running text."""
        self._add(f"<p>{_inline(text)}</p>", " ".join(text.split()))

    def tiles(self, tiles: Sequence[tuple[str, str, str]]) -> None:
        """The figures to see first, each as (label, value, remark)."""
        cells = "".join(
            f'<div class="tile"><span>{html.escape(label)}</span><strong>{html.escape(value)}</strong>'
            f"<small>{_inline(remark)}</small></div>"
            for label, value, remark in tiles
        )
        lines = [
            f"- **{_plain(label)}**: {value}" + (f" ({remark})" if remark else "") for label, value, remark in tiles
        ]
        self._add(f'<div class="tiles">{cells}</div>', "\n".join(lines))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; columns of numbers are set flush right.

        Raises:
            ValueError: a row has another length than the header.
        """
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"a row of this table has not {len(header)} cells")
        number = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
        self._add(_html_table(header, rows, number), _markdown_table(header, rows, number))

    def figure(self, path: Path, caption: str) -> None:
        """A PNG picture; the HTML page holds a copy, the Markdown page points to the file."""
        data = base64.b64encode(path.read_bytes()).decode()
        self._html.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_inline(caption)}</figcaption></figure>"
        )
        self._markdown.append((caption, path))

    def code(self, text: str) -> None:
        """Text shown as it is, in a fixed width."""
        self._add(f"<pre><code>{html.escape(text)}</code></pre>", fenced(text))

    def sample(self, prompt: str, text: str, title: str = "") -> None:
        """What a model wrote: the prompt it was given stands out from its own words."""
        head = f"<h3>{html.escape(title)}</h3>" if title else ""
        given = f"**{_plain(prompt)}**" if prompt.strip() == prompt != "" else _plain(prompt)
        quoted = "\n".join(f"> {line}  " if line.strip() else ">" for line in (given + _plain(text)).split("\n"))
        self._add(
            f'{head}<blockquote class="sample"><b>{html.escape(prompt)}</b>{html.escape(text)}</blockquote>',
            (f"**{_plain(title)}**\n\n" if title else "") + quoted,
        )

    def write(self, folder: Path, name: str = "report") -> tuple[Path, Path]:
        """Write `<name>.html` and `<name>.md` into a folder.

        Returns:
            The paths of the two files.

        Raises:
            StorageError: one cannot be written.
        """
        page, text = folder / f"{name}.html", folder / f"{name}.md"
        title = html.escape(self.title)
        body = "\n".join(self._html)
        atomic_write(page, _PAGE.replace("{title}", title).replace("{style}", _STYLE).replace("{body}", body))
        parts = [part if isinstance(part, str) else _picture(*part, folder) for part in self._markdown]
        atomic_write(text, "\n\n".join([f"# {_plain(self.title)}", *parts]) + "\n")
        return page, text

    def _add(self, as_html: str, as_markdown: str) -> None:
        self._html.append(as_html)
        self._markdown.append(as_markdown)


def _html_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], number: Sequence[bool]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>' if right else f"<{tag}>{cell}</{tag}>"
            for cell, right in zip(cells, number, strict=True)
        )

    top = line("th", [html.escape(name) for name in header])
    body = "".join(f"<tr>{line('td', [_inline(_shown(cell)) for cell in row])}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], number: Sequence[bool]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    rule = "|" + "|".join("---:" if right else "---" for right in number) + "|"
    return "\n".join([line(header), rule, *(line([_shown(cell) for cell in row]) for row in rows)])


def _shown(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, str):
        return re.fullmatch(r"[-+]?\d[\d.,]*(\s?[a-zA-Z%/]+)?|–", cell) is not None
    return True


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\*_\[\]<>#|`])", r"\\\1", text)


def _picture(caption: str, path: Path, folder: Path) -> str:
    link = Path(os.path.relpath(path, folder)).as_posix().replace(" ", "%20")
    return f"![{_plain(caption)}]({link})\n\n*{caption}*"


@dataclass(frozen=True)
class Line:
    """A named series of points, `x` ascending; where `x` has gaps the line goes straight on."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: what is shown, with its unit.
        lines: what is drawn; several get a legend.
        smooth: draw the points pale and their running mean strong.
        logarithmic: of the vertical axis; ignored where a value is not positive.
        trim: let the top few per cent of the first line's values leave the frame, so that the steep
            beginning of a loss does not flatten the rest.
    """

    title: str
    lines: Sequence[Line]
    smooth: bool = False
    logarithmic: bool = False
    trim: bool = False


def curve_png(path: Path, panels: Sequence[Panel], x_label: str, title: str = "") -> None:
    """Draw panels side by side, two in a row, as a PNG picture 1,800 pixels wide.

    Args:
        path: the file to write.
        panels: at least one.
        x_label: what all horizontal axes show.
        title: stands above all; empty for none.

    Raises:
        StorageError: it cannot be written.
        ValueError: there is no panel.
    """
    # Here and not above: a page without pictures, and every verb's --help, must not pay for matplotlib.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("a picture needs at least one panel")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    style: Any = {"font.family": font_families(), "font.size": 9}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A character no installed font has is drawn as a box; a run must not stop or complain for that.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        tall = 0.4 + 3.0 * rows
        figure = Figure(figsize=(10.0, tall), dpi=180)
        # In inches, as text is; a layout that measures all it draws takes as long again as the drawing.
        top = 1 - (0.6 if title else 0.4) / tall
        figure.subplots_adjust(left=0.07, right=0.98, bottom=0.5 / tall, top=top, wspace=0.16, hspace=0.35)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, ax in zip(panels, axes, strict=False):
            _draw(panel, ax, x_label)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        if title:
            figure.suptitle(literal(title), fontsize=11, fontweight="bold")
        buffer = io.BytesIO()
        canvas.print_png(buffer, metadata={"Software": ""})  # type: ignore[no-untyped-call]  # theirs
    atomic_write(path, buffer.getvalue())


_COLORS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#6b7280")
_CJK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "IPAGothic",
    "TakaoGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "Meiryo",
    "MS Gothic",
    "WenQuanYi Zen Hei",
)


def font_families() -> list[str]:
    """Latin first, then whichever font with Japanese is installed; naming one that is not would be complained of."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]


def _draw(panel: Panel, ax: Any, x_label: str) -> None:
    for line, color in zip(panel.lines, _COLORS * (1 + len(panel.lines) // len(_COLORS)), strict=False):
        x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
        marker = "o" if len(x) == 1 else None
        if panel.smooth and len(x) >= 20:
            ax.plot(*_thinned(x, y), color=color, alpha=0.25, linewidth=0.7)
            y = running_mean(y, max(3, len(y) // 50))
        ax.plot(*_thinned(x, y), color=color, linewidth=1.5, label=literal(line.name), marker=marker, markersize=4)
    values = [np.asarray(line.y, dtype=float) for line in panel.lines]
    finite = [y[np.isfinite(y)] for y in values]
    if panel.logarithmic and all(np.all(y > 0) for y in finite):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}" if _decades(finite) < 1 else "")
    elif panel.trim and finite and len(finite[0]) >= 20:
        low, high = float(finite[0].min()), float(np.quantile(finite[0], 0.97))
        margin = 0.05 * (high - low) or 0.5
        ax.set_ylim(low - margin, high + margin)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(literal(panel.title), fontsize=10, loc="left")
    ax.set_xlabel(literal(x_label))
    ax.grid(alpha=0.25, linewidth=0.5)
    if len(panel.lines) > 1:
        ax.legend(frameon=False, fontsize=8)


def _decades(values: Sequence[np.ndarray]) -> float:
    every = np.concatenate(values)
    return float(np.log10(every.max() / every.min())) if len(every) else 0.0


def literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """The mean of the values at most `width // 2` places away, fewer at the ends; NaN counts as absent."""
    y = np.asarray(y, dtype=float)
    known = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    place = np.arange(len(y))
    first, last = np.maximum(0, place - width // 2), np.minimum(len(y), place + width // 2 + 1)
    total, count = sums[last] - sums[first], counts[last] - counts[first]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _thinned(x: np.ndarray, y: np.ndarray, points: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Every k-th point, the last one kept: more than the picture has pixels would only take time."""
    step = -(-len(x) // points)
    if step <= 1:
        return x, y
    keep = np.unique(np.append(np.arange(0, len(x), step), len(x) - 1))
    return x[keep], y[keep]


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #62666d; --line: #e2e4e8; --page: #fff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7e9; --soft: #9aa0a8; --line: #33373d; --page: #16181b; --card: #1f2226; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 58rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Hiragino Sans", "Noto Sans JP", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: .85rem; margin: 1.25rem 0 .3rem; color: var(--soft); font-weight: 600; }
p { margin: .75rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tile { background: var(--card); border-radius: .6rem; padding: .8rem 1rem; }
.tile span, .tile small { display: block; color: var(--soft); font-size: .8rem; line-height: 1.35; }
.tile strong { display: block; font-size: 1.4rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.25rem 0; }
img { width: 100%; height: auto; border-radius: .6rem; background: #fff; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .4rem; }
code, pre { font: .87em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--card); border-radius: .6rem; padding: .9rem 1rem; overflow-x: auto; }
.sample { margin: 0 0 1rem; padding: .8rem 1rem; background: var(--card); border-radius: .6rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .95rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
