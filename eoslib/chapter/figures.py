"""House style of all figures, and the way a figure gets its caption, its alternative text and its files.

    with figures.panels(1, 2, caption="…", alt="…", name="exp3") as (left, right):
        left.plot(…)

The palette is that of Okabe and Ito, which readers with any common colour vision tell apart. It is legible on white
and on black; text, axes and reference lines are drawn in `INK` and `RULE`, which an SVG file turns light where it is
addressed as ``file.svg#dark``.

A figure is drawn at the size at which the page shows it, 96 pixels to the inch, and once more with its panels below
one another for a phone. In a panel without a label of its own the one of the left (y) or of the bottom (x) panel
holds, and the title of the top one.
"""

import base64
import contextlib
import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from eoslib.store import Run

MIME = "application/vnd.eoslib.figure+json"

NAMES = {
    "#0072b2": "blue", "#e69f00": "orange", "#009e73": "green", "#d55e00": "vermilion", "#cc79a7": "purple",
    "#56b4e9": "sky blue", "#f0e442": "yellow",
}  # fmt: skip
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW = PALETTE = tuple(NAMES)
INK, RULE = "#262626", "#4c4c4c"
DARK = {INK: "#d4d4d4", RULE: "#a6a6a6"}
WIDE, NARROW = 720, 344  # pixels: the column of a page on a wide screen and on a phone
PIXEL = 1 / 96  # inches
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "axes.formatter.useoffset": False,
    "axes.titley": 1,  # no ticks at the top, above which a title's place is sought
    "font.size": 9, "legend.frameon": False, "lines.linewidth": 1.3, "figure.dpi": 192, "svg.hashsalt": "eoslib",
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip


@contextlib.contextmanager
def panels(
    rows: int, columns: int, *, name: str, caption: str, alt: str, height: float = 2.5, runs: Sequence[Run] = (),
    **options,
) -> Iterator[list[Axes]]:  # fmt: skip
    """Axes of a rows × columns figure, shown with its caption at the end of the block.

    name: its label on the page, fig-<chapter>-<name>. caption: MyST markdown that can be read alone. alt: what a
    reader who cannot see it should know. height: of a row, in inches of 96 pixels. runs: whose values it shows, which
    its footer lists. options: of `plt.subplots`. A figure in which nothing was drawn, because nothing was run, is not
    shown, and none is outside a notebook.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display

    with sns.axes_style("ticks"), plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(WIDE * PIXEL, rows * height), squeeze=False, layout="constrained", **options
        )
        axes = list(axes.flat)
        try:
            yield axes
            if InteractiveShell.initialized() and any(ax.has_data() for ax in axes):
                png, files = drawn(figure, axes, columns, name)
                shown = {"image/png": base64.b64encode(png).decode(), "text/plain": caption}
                seconds = {run.key: run.manifest["wall_seconds"] for run in runs}
                said = {"name": name, "caption": caption, "alt": alt, "runs": seconds}
                shown[MIME] = said | {"thumbnail": thumbnail(png)} | files
                display(shown, metadata={"image/png": {"alt": alt}}, raw=True)
        finally:
            plt.close(figure)


def drawn(figure: Figure, axes: list[Axes], columns: int, name: str) -> tuple[bytes, dict]:
    """The picture of a figure for a notebook, and what a page needs: sizes in pixels, and packed files by suffix."""
    for ax in axes:
        for line in ax.lines:
            thin(line, WIDE // columns)
        for artist in ax.collections:
            artist.set_rasterized(is_heavy(artist))
    lay_out(figure)
    wide, wide_svg = pixels(figure), svg(figure)
    links = {"wide": linked(axes)}
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    picture.quantize(256).save(png := io.BytesIO(), "png")  # a third of the size
    stack(figure, axes, columns)
    narrow, narrow_svg = pixels(figure), svg(figure)
    links["narrow"] = linked(axes)
    files = {"svg": wide_svg, "narrow.svg": narrow_svg, "csv": table(axes, name)}
    packed = {suffix: pack(text) for suffix, text in files.items() if text}
    return png.getvalue(), {"wide": wide, "narrow": narrow, "links": links, "files": packed}


def linked(axes: list[Axes]) -> list[dict]:
    """The panels with a URL, as `ax.set(url=…, label=…)` gives them: and where each lies, in per cent of the figure."""
    found = []
    for ax in axes:
        if url := ax.get_url():
            left, bottom, width, height = (round(100 * float(share), 2) for share in ax.get_position().bounds)
            place = {"left": left, "top": round(100 - bottom - height, 2), "width": width, "height": height}
            found.append({"url": url, "label": ax.get_label(), "place": place})
    return found


def pixels(figure: Figure) -> list[int]:
    """Width and height."""
    return [round(inches / PIXEL) for inches in figure.get_size_inches()]


def pack(text: str) -> str:
    """A file's text as a notebook holds it: gzip in base64, a fifth of the size; a better packing takes twice as long
    for a hundredth of it."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def thin(line: Line2D, columns: int) -> None:
    """Keep of a curve with many points the least and the largest value in each of so many columns of pixels."""
    x, y = line.get_data(orig=False)
    if len(x) <= 4 * columns or line.get_marker() != "None" or not (np.diff(x) >= 0).all():
        return
    ax = line.axes
    across = (ax.transScale + ax.transLimits).transform(np.column_stack([x, np.ones(len(x))]))[:, 0]
    column = np.nan_to_num(across * columns, neginf=-1).astype(int)
    order = np.lexsort((y, column))  # nan comes last
    first = np.flatnonzero(np.diff(column[order], prepend=column.min() - 1))
    last = np.append(first[1:], len(x)) - 1
    known = np.add.reduceat(~np.isnan(y[order]), first, dtype=int)
    # the least, the largest, and one nan: a gap
    line.set_data(*np.array([x, y])[:, np.unique(order[[*first, *(first + np.maximum(known - 1, 0)), *last]])])


def is_heavy(artist: Collection) -> bool:
    """Whether clouds of points or filled contours are smaller as pixels, two to one of the page, than as SVG."""
    return sum(map(len, artist.get_paths())) + len(artist.get_offsets()) > 3000


def lay_out(figure: Figure) -> None:
    """Place the panels once and for all; a legend beside them has as many columns as there is room for."""
    for legend in list(figure.legends):
        handles, labels = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
        for columns in range(len(handles), 0, -1):
            legend.remove()
            legend = figure.legend(handles, labels, loc=f"outside {legend._outside_loc} center", ncols=columns)
            if legend.get_window_extent().width <= figure.bbox.width:
                break
    # what reaches no further than its panel's ticks is left out of the layout, which takes a third of the time
    for ax in figure.axes:
        for axis, side in ((ax.xaxis, "bottom"), (ax.yaxis, "left")):
            axis.set_in_layout(bool(axis.get_label_text()) or axis.get_tick_params()[f"label{side}"])
        for spine in ax.spines.values():
            spine.set_in_layout(False)
    figure.set_layout_engine("constrained")
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)  # or each file would be laid out again


def stack(figure: Figure, axes: list[Axes], columns: int) -> None:
    """Lay a figure out anew for a phone: one panel to a row, or of a grid half as many as before, two at least. Columns
    whose panels share their x axis stay whole, those that find no place beside the first below them."""
    rows = [axes[i : i + columns] for i in range(0, len(axes), columns)]
    across = max(columns // 2, 2) if len(rows) > 1 and columns % 2 == 0 else 1
    if across != columns and len(rows) > 1 and axes[0].get_shared_x_axes().joined(axes[0], axes[columns]):
        for row in rows:
            for ax in row[::across]:
                ax.set_ylabel(ax.get_ylabel() or row[0].get_ylabel())
                ax.tick_params(labelleft=True)
        axes = [ax for first in range(0, columns, across) for row in rows for ax in row[first : first + across]]
    elif across != columns:
        for row in rows:
            for top, bottom, ax in zip(rows[0], rows[-1], row, strict=True):
                ax.set_title(ax.get_title() or top.get_title())
                ax.set_xlabel(ax.get_xlabel() or bottom.get_xlabel())
                ax.set_ylabel(ax.get_ylabel() or row[0].get_ylabel())
                ax.tick_params(labelbottom=True, labelleft=True)  # shared axes have them on the outside only
    down = -(-len(axes) // across)
    for ax, place in zip(axes, figure.add_gridspec(down, across), strict=False):
        ax.set_subplotspec(place)
    height = figure.get_figheight() / len(rows)
    if all(ax.get_aspect() != "auto" for ax in axes):  # maps keep their shape, curves need no more height
        height *= (NARROW / across) / (WIDE / columns)
    figure.set_size_inches(NARROW * PIXEL, down * 0.9 * height)
    lay_out(figure)


def svg(figure: Figure) -> str:
    """A figure as SVG with text as outlines, on no background, light in ``file.svg#dark``."""
    about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text := io.StringIO(), format="svg", transparent=True, metadata=about)
    rules = "".join(
        f'#dark:target [style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    short = re.sub(r'(?<=\.\d\d)\d+(?=[ "])(?! -)', "", text.getvalue())  # coordinates, not scales
    return re.sub(r"<svg ([^>]*)>", rf'<svg id="dark" \1><style>{rules}</style>', short, count=1)


def table(axes: list[Axes], name: str) -> str:
    """The curves and points of a figure as CSV, one to a row, under a line that describes each panel."""
    text = io.StringIO(
        f"# figure {name}; of curves with many points: the least and the largest value in each column of pixels\n"
    )
    text.seek(0, io.SEEK_END)
    rows = []
    for number, ax in enumerate(axes, start=1):
        described = {"title": ax.get_title(), "x": ax.get_xlabel(), "y": ax.get_ylabel()}
        text.write(f"# panel {number}: " + "; ".join(f"{k}: {v}" for k, v in described.items() if v) + "\n")
        series = [
            (line, line.get_color(), line.get_data(orig=False))
            for line in ax.lines
            if line.get_transform() == ax.transData
        ] + [
            (points, points.get_facecolor()[0], points.get_offsets().data.T)
            for points in ax.collections
            if isinstance(points, PathCollection) and len(points.get_facecolor())
        ]
        for order, (artist, colour, (x, y)) in enumerate(series, start=1):
            colour, label = to_hex(colour), artist.get_label()
            meaning = ("" if label.startswith("_") else label, NAMES.get(colour, colour))
            rows += [(number, order, *meaning, f"{a:.6g}", f"{b:.6g}") for a, b in zip(x, y, strict=True)]
    csv.writer(text, lineterminator="\n").writerows([("panel", "curve", "label", "colour", "x", "y"), *rows])
    return text.getvalue() if rows else ""


def thumbnail(png: bytes) -> str:
    """A small picture of a figure, for a card or a link: PNG at most 320 pixels wide and high, in base64."""
    small = Image.open(io.BytesIO(png)).convert("RGB")
    small.thumbnail((320, 320))
    small.quantize(64).save(shrunk := io.BytesIO(), "png", optimize=True)
    return base64.b64encode(shrunk.getvalue()).decode()


def colours(count: int) -> tuple[str, ...]:
    """The first `count` colours of the palette."""
    if count > len(PALETTE):
        raise ValueError(f"{count} lines cannot be told apart by colour; the palette has {len(PALETTE)}")
    return PALETTE[:count]


def step_size_label(step_size: float) -> str:
    """η as the papers write it: 2/60 where 2/η is a whole number (or a half, …), else the plain number."""
    inverse = 2 / step_size
    return f"2/{inverse:.4g}" if abs(inverse * 20 - round(inverse * 20)) < 1e-6 * inverse else f"{step_size:.4g}"


def threshold(ax: Axes, step_size: float, colour: str = RULE, label: bool = True) -> None:
    """A dashed line at 2/η, the largest curvature that gradient descent on a quadratic endures."""
    ax.axhline(2 / step_size, color=colour, linestyle="--", linewidth=0.9)
    if label:
        ax.annotate(
            r"$2/\eta$", (1, 2 / step_size), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", color=colour, annotation_clip=False,
        )  # fmt: skip
