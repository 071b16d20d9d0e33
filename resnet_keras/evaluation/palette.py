"""How figures look, in light and in dark, whatever the user's own matplotlib settings are."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.rcsetup import cycler
from PIL import Image

from resnet_keras.evaluation.text import shortened

DPI = 150
# Of zlib; 6, the usual one, takes four times as long on pictures, for files that are 15 % smaller.
COMPRESSION = 1
NAME_LIMIT = 24
# DejaVu, which comes with matplotlib, has no Chinese, Japanese or Korean; the first of these
# that is installed does.
FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Microsoft YaHei",
    "Yu Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
)


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of a figure; those of lines keep apart for the colour-blind (Okabe and Ito)."""

    surface: str
    text: str
    muted: str
    grid: str
    colours: tuple[str, ...]
    ramp: tuple[str, str]

    def settings(self) -> dict[str, Any]:
        """Returns the matplotlib settings of the palette."""
        return {
            "figure.facecolor": self.surface,
            "axes.facecolor": self.surface,
            "savefig.facecolor": self.surface,
            "text.color": self.text,
            "axes.labelcolor": self.muted,
            "axes.edgecolor": self.grid,
            "axes.titlecolor": self.text,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "grid.color": self.grid,
            "axes.prop_cycle": cycler(color=self.colours),
        }


LIGHT = Palette(
    surface="#ffffff",
    text="#1c2430",
    muted="#5a6675",
    grid="#dfe4ea",
    colours=(
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#cc79a7",
        "#e69f00",
        "#56b4e9",
        "#7a5cc0",
        "#444444",
    ),
    ramp=("#ffffff", "#0b4f8a"),
)
DARK = Palette(
    surface="#171d26",
    text="#e6eaf0",
    muted="#9aa6b5",
    grid="#323c4a",
    colours=(
        "#56b4e9",
        "#f0843c",
        "#2fc79a",
        "#e39cc4",
        "#f0b840",
        "#8fd0ff",
        "#b09af0",
        "#c8c8c8",
    ),
    ramp=("#171d26", "#7cc4ff"),
)
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}


def render(draw: Callable[[Palette], Figure], palette: Palette) -> bytes:
    """Returns the figure that a function draws, as a PNG file."""
    with _looks(palette):
        return _png(draw(palette))


def render_both(draw: Callable[[Palette], Figure]) -> tuple[bytes, bytes]:
    """Returns the figure that a function draws, as PNG files: in light, and in dark.

    The dark one is arranged as the light one is: that is a third of the time of a figure.
    """
    with _looks(LIGHT):
        light = draw(LIGHT)
        light_png = _png(light)
    with _looks(DARK):
        dark = draw(DARK)
        dark.set_layout_engine("none")
        for own, arranged in zip(dark.axes, light.axes, strict=True):
            own.set_position(arranged.get_position(original=True), which="original")
        return light_png, _png(dark)


def _png(drawn: Figure) -> bytes:
    canvas: Any = FigureCanvasAgg(drawn)
    canvas.draw()
    file = io.BytesIO()
    # Opaque, so three channels hold it: smaller than with four, and written in 2/3 of the time.
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).save(file, "PNG", compress_level=COMPRESSION, dpi=(DPI, DPI))
    return file.getvalue()


@contextlib.contextmanager
def _looks(palette: Palette) -> Iterator[None]:
    fonts = {"font.family": ["DejaVu Sans", *_fallback_fonts()]}
    with (
        matplotlib.style.context(["default", {**STYLE, **palette.settings(), **fonts}]),
        warnings.catch_warnings(),
    ):
        # A script without an installed font shows as boxes in the figure, and right in the page.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")
        yield


@functools.cache
def _fallback_fonts() -> tuple[str, ...]:
    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in FALLBACK_FONTS if name in installed)[:1]


def figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches that arranges its parts by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def axes(width: float, height: float, *, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Returns a figure with one labelled plot."""
    drawn = figure(width, height)
    plot = drawn.add_subplot()
    plot.set_title(title)
    plot.set_xlabel(x)
    plot.set_ylabel(y)
    return drawn, plot


def label(name: str) -> str:
    """Returns a name, shortened, as matplotlib shows it literally: it takes $ for mathematics."""
    return shortened(name, NAME_LIMIT).replace("$", r"\$")
