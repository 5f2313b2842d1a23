"""House style of all figures, and the way a figure gets its caption and its alternative text.

    with figures.panels(1, 2, caption="…", alt="…", name="exp3") as (left, right):
        left.plot(…)

The palette is that of Okabe and Ito, which readers with any common colour vision tell apart.
"""

import base64
import contextlib
import io
from collections.abc import Iterator

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from PIL import Image

MIME = "application/vnd.eoslib.figure+json"

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "axes.formatter.useoffset": False,
    "figure.dpi": 100, "savefig.dpi": 160, "font.size": 10, "legend.frameon": False, "lines.linewidth": 1.3,
}  # fmt: skip


@contextlib.contextmanager
def panels(
    rows: int, columns: int, *, name: str, caption: str, alt: str, height: float = 3.0, width: float = 8.5, **options
) -> Iterator[list[Axes]]:
    """Axes of a rows × columns figure, shown with its caption at the end of the block.

    name: its label on the page, fig-<chapter>-<name>. caption: MyST markdown that can be read alone. alt: what a
    reader who cannot see it should know. height of a row and width of the figure in inches. options: of
    `plt.subplots`. A figure in which nothing was drawn, because nothing was run, is not shown.
    """
    from IPython.display import display

    with sns.axes_style("ticks"), plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(width, rows * height), squeeze=False, layout="constrained", **options
        )
        axes = list(axes.flat)
        try:
            yield axes
            if any(ax.has_data() for ax in axes):
                figure.savefig(png := io.BytesIO(), format="png", facecolor="white")
                shown = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": caption}
                shown[MIME] = {"name": name, "caption": caption, "alt": alt, "thumbnail": thumbnail(png)}
                display(shown, metadata={"image/png": {"alt": alt}}, raw=True)
        finally:
            plt.close(figure)


def thumbnail(png: io.BytesIO) -> str:
    """A small picture of a figure, for a card or a link: PNG at most 320 pixels wide and high, in base64."""
    small = Image.open(png).convert("RGB")
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


def threshold(ax: Axes, step_size: float, colour: str = "0.3", label: bool = True) -> None:
    """A dashed line at 2/η, the largest curvature that gradient descent on a quadratic endures."""
    ax.axhline(2 / step_size, color=colour, linestyle="--", linewidth=0.9)
    if label:
        ax.annotate(
            r"$2/\eta$", (1, 2 / step_size), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", color=colour, annotation_clip=False,
        )  # fmt: skip
