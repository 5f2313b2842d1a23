"""eoslib.chapter.figures: what a figure carries to the page, and labels that say what they mean."""

import base64
import io

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eoslib.chapter import figures
from eoslib.chapter.figures import panels, step_size_label

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
    assert (width, height) == (1360, 480)  # 8.5 × 3 inches: twice the 680 pixels of the page's column


def test_a_figure_has_a_thumbnail_of_its_shape(shown):
    with panels(1, 2, **WORDS) as (left, _):
        left.plot([1, 2], [3, 4])
    entry = shown[0]["data"][figures.MIME]
    small = Image.open(io.BytesIO(base64.b64decode(entry["thumbnail"])))
    assert small.format == "PNG" and small.size == (320, 113)  # of 1360 × 480
    assert small.convert("L").getextrema()[0] < 128, "nothing is drawn"


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
