"""The page maker: self-contained, escaped, the same words in HTML and Markdown; and its pictures."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.report import Line, Panel, Report, curve_png, duration, quantity, running_mean

VOID = {"meta", "img", "br", "hr"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects text and pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.pictures = "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def full(folder: Path) -> Report:
    curve_png(folder / "a picture.png", [Panel("loss", [Line("loss", [1, 2], [3.0, 2.0])])], "step")
    report = Report("nano <b>")
    report.tiles([("bits per byte", "1.234", "lower is `better`")])
    report.heading("日本語 & more")
    report.paragraph("It is 1 < 2, `x|y`.")
    report.table(["name", "value", "share"], [["a|b", 1234567, 0.12345], ["<i>", None, 1.0]])
    report.figure(folder / "a picture.png", "A curve")
    report.code("``` fenced")
    report.sample("In the *beginning*", "\n\n# no heading", title="one")
    return report


def test_a_page_nests_its_tags_and_asks_no_server_for_anything(tmp_path: Path) -> None:
    page, _ = full(tmp_path).write(tmp_path)
    text = page.read_text()
    outline = Outline(text)
    assert outline.open == []
    assert not re.search(r"https?://|<script|<link|url\(", text)
    assert [picture["src"][:22] for picture in outline.pictures] == ["data:image/png;base64,"]
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_what_is_reported_is_shown_and_not_interpreted(tmp_path: Path) -> None:
    page, markdown = full(tmp_path).write(tmp_path, "other")
    shown = Outline(page.read_text()).text
    for words in (
        "nano <b>",
        "日本語 & more",
        "1 < 2",
        "a|b",
        "<i>",
        "1,234,567",
        "0.1235",
        "# no heading",
        "``` fenced",
    ):
        assert words in shown, words
    text = markdown.read_text()
    assert "| a\\|b | 1,234,567 | 0.1235 |" in text and "| --- |" not in text.replace("|---|", "")
    assert "![A curve](a%20picture.png)" in text and "\n````\n``` fenced\n````\n" in text
    assert "> \\# no heading" in text and text.startswith("# nano \\<b\\>\n")
    assert (page.name, markdown.name) == ("other.html", "other.md")


@given(st.text(), st.text())
def test_no_text_breaks_the_page(tmp_path_factory: pytest.TempPathFactory, first: str, second: str) -> None:
    report = Report(first)
    report.paragraph(second)
    report.table([first], [[second]])
    report.sample(first, second)
    folder = tmp_path_factory.mktemp("page")
    assert Outline(report.write(folder)[0].read_text()).open == []


def test_columns_of_numbers_are_set_flush_right(tmp_path: Path) -> None:
    report = Report("t")
    report.table(["name", "a", "b", "c"], [["x", 1, "41.2%", "12.3k tokens/s"], ["y", None, "1.5M", "2m 05s left"]])
    page, markdown = report.write(tmp_path)
    assert "|---|---:|---:|---|" in markdown.read_text()
    assert page.read_text().count('<th class="n">') == 2


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Report("t").table(["a", "b"], [["only one"]])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00k"),
        (9_999, "10.0k"),
        (99_960, "100k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (3_214_567, "3.21M"),
        (1.5e9, "1.50B"),
        (2.53e24, "2530000000000T"),
        (0.25, "0.25"),
        (-1500, "-1.50k"),
    ],
)
def test_counts_have_three_digits_and_a_suffix(value: float, words: str) -> None:
    assert quantity(value) == words


@given(st.floats(0, 1e13))
def test_a_count_is_right_to_half_a_per_cent(value: float) -> None:
    shown = quantity(value)
    factor = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(shown[-1], 1.0)
    back = float(shown.rstrip("kMBT")) * factor
    assert abs(back - value) <= max(0.0051 * value, 0.0051)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1m 00s"), (125, "2m 05s"), (3599.6, "1h 00m"), (86400 * 4.1, "4d 02h")],
)
def test_times_have_their_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_running_mean_keeps_constants_and_skips_what_is_no_number() -> None:
    assert running_mean(np.full(9, 2.5), 4).tolist() == [2.5] * 9
    mean = running_mean(np.array([1.0, np.nan, 3.0, np.nan, np.nan, np.nan]), 3)
    assert mean[:4].tolist() == [1.0, 2.0, 3.0, 3.0] and np.isnan(mean[5])


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.integers(1, 20))
def test_a_running_mean_is_the_mean_of_its_neighbours(values: list[float], width: int) -> None:
    mean = running_mean(np.array(values), width)
    for i in range(len(values)):
        near = values[max(0, i - width // 2) : i + width // 2 + 1]
        assert mean[i] == pytest.approx(sum(near) / len(near), abs=1e-6)


def test_pictures_take_names_that_look_like_formulas_and_any_script_without_a_word(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panels = [
            Panel("聖書 $x_1$", [Line("文字 $", [1, 2], [1.0, 2.0]), Line("b", [1], [1.0])], logarithmic=True),
            Panel("nothing yet", [Line("empty", [], [])], smooth=True, logarithmic=True),
            Panel("holes", [Line("nan", range(30), [float("nan")] * 29 + [1.0])], smooth=True, trim=True),
        ]
        curve_png(tmp_path / "p.png", panels, "step", title="名前 $")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_series_is_thinned_but_keeps_its_end(tmp_path: Path) -> None:
    y = np.linspace(1.0, 0.0, 100_001)
    curve_png(tmp_path / "p.png", [Panel("loss", [Line("loss", range(100_001), y)], smooth=True, trim=True)], "step")
    assert (tmp_path / "p.png").stat().st_size < 500_000


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        curve_png(tmp_path / "p.png", [], "step")


def test_a_page_without_pictures_does_not_pay_for_matplotlib() -> None:
    program = "import sys, groundup.core.report as r; r.Report('t').heading('h'); print('matplotlib' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
