"""Named values as a picture of bars; what they mean is not its business."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.core.files import atomic_write
from groundup.core.report import font_families, literal

_COLOR, _MARK = "#2563eb", "#d97706"


@dataclass(frozen=True)
class Bar:
    """A named value, with a standard error where there is one, and a mark at the value to compare it with."""

    name: str
    value: float
    error: float | None = None
    mark: float | None = None


def bars_png(path: Path, bars: Sequence[Bar], label: str) -> None:
    """Draw bars below one another, each with its value, as a PNG picture 1,800 pixels wide.

    Args:
        path: the file to write.
        bars: at least one.
        label: what the axis shows, with its unit.

    Raises:
        StorageError: it cannot be written.
        ValueError: there is no bar.
    """
    import matplotlib  # here, so that what draws nothing does not pay for it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not bars:
        raise ValueError("a picture needs at least one bar")
    style: Any = {"font.family": font_families(), "font.size": 9}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(10.0, 0.8 + 0.32 * len(bars)), dpi=180, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        ax = figure.subplots()
        places, top = range(len(bars)), max(bar.value for bar in bars) or 1.0
        ax.barh(places, [bar.value for bar in bars], color=_COLOR, height=0.65)
        for place, bar in zip(places, bars, strict=True):
            if bar.error is not None:
                ax.errorbar(bar.value, place, xerr=bar.error, color="black", capsize=3, linewidth=1)
            if bar.mark is not None:
                ax.plot([bar.mark, bar.mark], [place - 0.4, place + 0.4], color=_MARK, linewidth=2)
            color = "w" if bar.value > 0.08 * top else "black"
            place_of: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(f"{bar.value:.3f}", (0, place), color=color, **place_of)
        ax.set_yticks(list(places), [literal(bar.name) for bar in bars])
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel(literal(label))
        buffer = io.BytesIO()
        canvas.print_png(buffer, metadata={"Software": ""})  # type: ignore[no-untyped-call]  # theirs
    atomic_write(path, buffer.getvalue())
