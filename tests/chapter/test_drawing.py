"""eoslib.chapter.figures: what a figure carries to the page, and labels that say what they mean."""

import base64
import csv
import gzip
import io
import re
from xml.etree import ElementTree

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from eoslib.chapter import figures
from eoslib.chapter.figures import panels, step_size_label
from eoslib.store import Run

WORDS = {"name": "exp3", "caption": "RP of *three* runs at $2/60$.", "alt": "Three curves settle at zero."}


def test_a_figure_is_shown_once_with_name_caption_and_alternative_text(shown):
    with panels(1, 2, **WORDS) as (left, right):
        left.plot([1, 2], [3, 4])
        assert shown == []
        right.plot([1, 2], [4, 3])
    (output,) = shown
    entry = output["data"][figures.MIME]
    assert {name: entry[name] for name in WORDS} == WORDS
    assert output["data"]["text/plain"] == WORDS["caption"]
    assert output["metadata"]["image/png"]["alt"] == WORDS["alt"]
    png = base64.b64decode(output["data"]["image/png"])
    assert png.startswith(b"\x89PNG")
    width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    assert (width, height) == (1440, 480)  # twice the pixels of the page's column


def test_a_figure_names_the_runs_that_it_shows(shown):
    runs = [Run({}, None, {"key": key, "wall_seconds": seconds}) for key, seconds in (("exp3-a", 2.5), ("exp3-b", 4.0))]
    for these in (runs, ()):
        with panels(1, 1, **WORDS, runs=these) as (ax,):
            ax.plot([1, 2], [3, 4])
    assert [output["data"][figures.MIME]["runs"] for output in shown] == [{"exp3-a": 2.5, "exp3-b": 4.0}, {}]


def test_a_figure_has_a_thumbnail_of_its_shape(shown):
    with panels(1, 2, **WORDS) as (left, _):
        left.plot([1, 2], [3, 4])
    entry = shown[0]["data"][figures.MIME]
    small = Image.open(io.BytesIO(base64.b64decode(entry["thumbnail"])))
    assert small.format == "PNG" and small.size == (320, 107)  # of 1440 × 480
    assert small.convert("L").getextrema()[0] < 200, "nothing is drawn"


def drawn(shown) -> tuple[dict, dict[str, str]]:
    """The entry of the last figure, and its unpacked files."""
    entry = shown[-1]["data"][figures.MIME]
    return entry, {suffix: gzip.decompress(base64.b64decode(text)).decode() for suffix, text in entry["files"].items()}


def text_sizes(svg: str) -> list[float]:
    """The sizes of the texts of an SVG in pixels: matplotlib scales outlines that are drawn at 100 points."""
    return [float(scale) * 100 * 96 / 72 for scale in re.findall(r"scale\((0\.\d+) -\1\)", svg)]


def places(svg: str, kind: str = "axes") -> set[tuple[float, float]]:
    """The upper left corners of the panels' backgrounds."""
    return {
        (float(x), float(y))
        for group in re.findall(rf'<g id="{kind}_\d+">.*?<path d="M (.*?)"', svg, re.DOTALL)
        for x, y in [re.findall(r"-?[\d.]+", group)[-2:]]
    }


def test_a_figure_comes_for_wide_screens_and_for_phones(shown):
    with panels(1, 2, **WORDS, height=2) as (left, right):
        left.plot([1, 2], [3, 4])
        right.plot([1, 2], [3, 4])
    entry, files = drawn(shown)
    assert entry["wide"] == [720, 192] and entry["narrow"][0] == 344 and entry["narrow"][1] > 192
    for suffix, side in (("svg", 1), ("narrow.svg", 0)):
        root = ElementTree.fromstring(files[suffix])
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        assert [width * 96 / 72, height * 96 / 72] == pytest.approx(entry["wide" if side else "narrow"], abs=1)
        one, other = places(files[suffix])
        assert one[side] == pytest.approx(other[side], abs=1), "the panels are not aligned"
        assert abs(one[1 - side] - other[1 - side]) > 50


def test_panels_that_lead_somewhere_are_links_in_both(shown):
    with panels(1, 2, **WORDS) as (left, right):
        left.imshow([[1, 2], [3, 4]])
        right.imshow([[1, 2], [3, 4]])
        right.set(url="#there", label="There")
    entry, files = drawn(shown)
    for layout, suffix in (("wide", "svg"), ("narrow", "narrow.svg")):
        (link,) = entry["links"][layout]
        assert (link["url"], link["label"]) == ("#there", "There")
        width, height = (float(side) for side in re.search(r'viewBox="0 0 (\S+) (\S+)"', files[suffix]).groups())
        left, top, wide, high = (link["place"][side] / 100 for side in ("left", "top", "width", "height"))
        corners = [(left * width, top * height), (left * width, (top + high) * height)]
        assert any(np.allclose(c, panel, atol=0.5) for c in corners for panel in places(files[suffix]))
        assert 0.1 < wide < 1


@pytest.mark.parametrize(
    ("rows", "columns", "across"), [(1, 3, 1), (2, 2, 2), (2, 6, 3), (3, 3, 1)], ids=["row", "2x2", "2x6", "3x3"]
)
def test_panels_stack(shown, rows, columns, across):
    with panels(rows, columns, **WORDS) as axes:
        for ax in axes:
            ax.plot([1, 2], [3, 4])
    _, files = drawn(shown)
    corners = places(files["narrow.svg"])
    assert len(corners) == rows * columns
    assert len({round(x / 40) for x, _ in corners}) == across


def test_columns_that_share_their_axis_stay_whole():
    figure, axes = plt.subplots(2, 4, sharex="col", squeeze=False, figsize=(7.5, 4))
    axes = list(axes.flat)
    axes[0].set_ylabel("above")
    axes[4].set_ylabel("below")
    for i in range(4):
        axes[i].set_title(f"title {i}")
        axes[4 + i].set_xlabel(f"x {i}")
    figures.stack(figure, axes, 4)
    places = [ax.get_subplotspec() for ax in axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (0, 0), (0, 1), (2, 0), (2, 1), (1, 0), (1, 1), (3, 0), (3, 1)
    ]  # fmt: skip
    assert [ax.get_title() for ax in axes[4:]] == [""] * 4 and [ax.get_xlabel() for ax in axes[:4]] == [""] * 4
    assert [ax.get_ylabel() for ax in axes] == ["above", "", "above", "", "below", "", "below", ""]
    plt.close(figure)


def test_stacked_panels_have_the_labels_that_they_shared():
    figure, axes = plt.subplots(2, 3, squeeze=False)
    axes = list(axes.flat)
    for i in range(3):
        axes[i].set_title(f"title {i}")
        axes[3 + i].set_xlabel(f"x {i}")
    axes[0].set_ylabel("above")
    axes[3].set_ylabel("below")
    axes[5].set_ylabel("own")
    figures.stack(figure, axes, 3)
    assert [ax.get_title() for ax in axes] == ["title 0", "title 1", "title 2"] * 2
    assert [ax.get_xlabel() for ax in axes] == ["x 0", "x 1", "x 2"] * 2
    assert [ax.get_ylabel() for ax in axes] == ["above"] * 3 + ["below", "below", "own"]
    assert all(ax.xaxis.get_major_ticks()[0].label1.get_visible() for ax in axes)
    plt.close(figure)


def test_text_is_legible_in_both_layouts_and_a_legend_keeps_inside(shown):
    with panels(1, 2, **WORDS) as (left, right):
        for i in range(6):
            left.plot([1, 2], [3, i], label=f"curve number {i} of six")
        right.set(title=r"$2/\eta$", xlabel="step", ylabel="loss")
        left.figure.legend(loc="outside lower center")
    _, files = drawn(shown)
    for suffix in ("svg", "narrow.svg"):
        sizes = text_sizes(files[suffix])
        assert len(sizes) > 20 and min(sizes) >= 11
        legend = ElementTree.fromstring(files[suffix]).find(".//*[@id='legend_1']")
        xs = [
            float(x)
            for x in re.findall(r"translate\((-?[\d.]+) [\d.-]+\) scale", ElementTree.tostring(legend, "unicode"))
        ]
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', files[suffix])[1])
        assert xs and min(xs) > 0 and max(xs) < width


def test_an_svg_is_the_same_each_time_and_light_when_addressed_as_dark(shown):
    for _ in range(2):
        with panels(1, 1, **WORDS) as (ax,):
            ax.plot([1, 2], [3, 4], color=figures.BLUE)
            ax.axhline(3, color="0.3")
    first, second = (output["data"][figures.MIME]["files"] for output in shown)
    assert first == second
    _, files = drawn(shown)
    root = ElementTree.fromstring(files["svg"])
    assert root.attrib["id"] == "dark"
    for colour in (figures.INK, figures.RULE):
        assert f"stroke: {colour}" in files["svg"]
        assert f'#dark:target [style*="stroke: {colour}"]' in files["svg"]
    assert "#ffffff" not in files["svg"], "a background"


def test_heavy_artists_become_pixels_and_light_ones_do_not(shown):
    many = np.random.default_rng(0).random((2, 4000))
    for points in (many, many[:, :100]):
        with panels(1, 1, **WORDS) as (ax,):
            ax.scatter(*points, s=3)
    heavy, light = (gzip.decompress(base64.b64decode(o["data"][figures.MIME]["files"]["svg"])).decode() for o in shown)
    assert "<image" in heavy and "<image" not in light


def test_the_data_of_a_figure_are_its_curves_and_points(shown):
    with panels(1, 2, **WORDS) as (left, right):
        left.plot([1, 2], [3, 4.5], color=figures.BLUE, label="loss")
        left.axhline(3)
        left.set(xlabel="step")
        right.scatter([7], [8], color="#123456")
    _, files = drawn(shown)
    lines = files["csv"].splitlines()
    assert [line for line in lines if line.startswith("#")][1:] == ["# panel 1: x: step", "# panel 2: "]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [tuple(row.values()) for row in rows] == [
        ("1", "1", "loss", "blue", "1", "3"),
        ("1", "1", "loss", "blue", "2", "4.5"),
        ("2", "1", "", "#123456", "7", "8"),
    ]


def test_a_picture_has_no_table(shown):
    with panels(1, 1, **WORDS) as (ax,):
        ax.imshow([[1, 2], [3, 4]])
    assert set(drawn(shown)[0]["files"]) == {"svg", "narrow.svg"}


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_thinned_curve_has_the_extremes_of_every_column_of_pixels_and_its_gaps(scale):
    columns, x = 37, np.arange(1, 5001)
    y = np.random.default_rng(0).normal(size=len(x)).cumsum()
    y[1000:1400] = np.nan
    ax = Figure().add_subplot(xscale=scale, xlim=(0.77, 5033.3))  # no point lies on the border of a column
    (line,) = ax.plot(x, y)
    figures.thin(line, columns)
    kept, values = line.get_data()
    assert len(kept) <= 3 * columns and np.array_equal(y[kept.astype(int) - 1], values, equal_nan=True)
    low, high = ax.transData.transform([(0.77, 1), (5033.3, 1)])[:, 0]
    across = (ax.transData.transform(np.column_stack([x, x]))[:, 0] - low) / (high - low)
    column = np.floor(across * columns)
    for here in (column == number for number in np.unique(column)):
        left = values[np.isin(kept, x[here])]
        for extreme in (np.fmin, np.fmax):
            assert np.array_equal(extreme.reduce(y[here]), extreme.reduce(left), equal_nan=True)
        assert np.isnan(y[here]).any() == np.isnan(left).any()


def test_curves_with_markers_and_curves_in_the_plane_keep_their_points():
    ax = Figure().add_subplot()
    angle = np.linspace(0, 6, 500)
    for line in (*ax.plot(angle, angle, "."), *ax.plot(np.cos(angle), np.sin(angle))):
        figures.thin(line, 10)
        assert len(line.get_xdata()) == 500


def test_a_figure_in_which_nothing_was_drawn_is_not_shown(shown):
    with panels(2, 2, **WORDS) as axes:
        assert len(axes) == 4
        axes[0].set_title("nothing was run")
    assert shown == []


def test_a_figure_of_one_drawn_panel_is_shown(shown):
    with panels(1, 2, **WORDS) as (_, right):
        right.plot([1, 2], [3, 4])
    assert len(shown) == 1


def test_an_error_while_drawing_is_not_hidden_and_leaves_nothing_open(shown):
    with pytest.raises(ZeroDivisionError), panels(1, 1, **WORDS) as (ax,):
        ax.plot([1, 2], [3, 4])
        raise ZeroDivisionError
    assert shown == []
    assert plt.get_fignums() == []


def test_the_house_style_does_not_leak(shown):
    before = dict(matplotlib.rcParams)
    with panels(1, 1, **WORDS) as (ax,):
        ax.plot([1, 2], [3, 4])
        assert not ax.spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


@pytest.mark.parametrize("missing", WORDS)
def test_no_figure_without_name_caption_and_alternative_text(missing):
    words = {name: text for name, text in WORDS.items() if name != missing}
    with pytest.raises(TypeError, match=missing), panels(1, 1, **words):
        pass


@pytest.mark.parametrize(
    ("step_size", "label"),
    [(2 / 60, "2/60"), (2 / 30, "2/30"), (2 / 0.25, "2/0.25"), (2 / 2.5, "2/2.5"), (0.01, "2/200"), (0.3, "0.3")],
)
def test_labels_of_the_step_sizes_that_occur(step_size, label):
    assert step_size_label(step_size) == label


@given(st.floats(1e-6, 1e3))
def test_a_label_is_a_number_close_to_the_step_size(step_size):
    numerator, *denominator = step_size_label(step_size).split("/")
    value = float(numerator) / (float(*denominator) if denominator else 1)
    assert value == pytest.approx(step_size, rel=1e-3)


@given(st.integers(1, 9999))
def test_a_whole_number_in_two_over_it_is_shown_exactly(inverse):
    assert step_size_label(2 / inverse) == f"2/{inverse}"


def test_the_palette_ends_where_colours_could_not_be_told_apart():
    assert figures.colours(7) == figures.PALETTE
    assert len({*figures.PALETTE}) == 7
    assert figures.colours(2) == (figures.BLUE, figures.ORANGE)
    with pytest.raises(ValueError, match="8 lines cannot be told apart"):
        figures.colours(8)


def test_the_threshold_is_at_two_over_the_step_size(shown):
    with panels(1, 1, **WORDS) as (ax,):
        figures.threshold(ax, 2 / 60)
        assert set(ax.lines[0].get_ydata()) == {60}
        assert [text.get_text() for text in ax.texts] == [r"$2/\eta$"]
        figures.threshold(ax, 2 / 60, label=False)
        assert len(ax.texts) == 1
