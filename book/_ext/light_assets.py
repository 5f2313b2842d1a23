"""Sphinx extension: what the theme brings and no page uses is left out of the site.

Its icons are 2,000 glyphs in three fonts, 1 MB. They are cut to those that pages, scripts and style sheets show; one
that the style sheet or the fonts do not have fails the build. Source maps are for those who work on the theme.
"""

import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.util import logging

logger = logging.getLogger(__name__)

STYLE = "styles/pydata-sphinx-theme.css"  # below _static
FONTS = "vendor/fontawesome/webfonts"
GLYPH = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')  # of a class: its code point
ESCAPED = re.compile(r'"\\([ef][0-9a-f]{3})"')  # a code point in other rules
PRIVATE = re.compile("[\ue000-\uf8ff]")  # or the character itself
SOURCE_MAP = re.compile(r"/[/*]# sourceMappingURL=\S+( \*/)?\s*$")


def icons(site: Path) -> set[int]:
    """The code points of the icons in use."""
    static = site / "_static"
    css = (static / STYLE).read_text(encoding="utf-8")
    point = {name: int(code, 16) for names, code in GLYPH.findall(css) for name in re.findall(r"fa-[\w-]+", names)}
    used = set()
    for style in static.rglob("*.css"):
        rest = GLYPH.sub("", style.read_text(encoding="utf-8"))
        used |= {int(code, 16) for code in ESCAPED.findall(rest)} | {ord(char) for char in PRIVATE.findall(rest)}
    for script in static.rglob("*.js"):
        names = re.findall(r"\bfa-[\w-]+", script.read_text(encoding="utf-8"))
        used |= {point[name] for name in names if name in point}
    for page in site.rglob("*.html"):
        for names in re.findall(r'class="([^"]*\bfa-[^"]*)"', page.read_text(encoding="utf-8")):
            for name in re.findall(r"(?<!\S)fa-[\w-]+", names):
                if name in point:
                    used.add(point[name])
                elif f".{name}" not in css:
                    logger.warning("%s: the theme has no icon %s", page.relative_to(site), name)
    return used


def lighten(app, exception) -> None:
    """Cut the fonts, and remove what is never asked for. Sphinx restores all of it when it writes the site anew."""
    static = Path(app.outdir) / "_static"
    if exception or app.builder.format != "html":
        return
    (static / "scripts/fontawesome.js").unlink(missing_ok=True)
    for source_map in static.rglob("*.map"):
        file = source_map.with_suffix("")
        if file.exists():
            file.write_text(SOURCE_MAP.sub("", file.read_text(encoding="utf-8")), encoding="utf-8")
        source_map.unlink()
    if whole := list((static / FONTS).glob("*.ttf")):
        used = icons(Path(app.outdir))
        drawn = set().union(*(cut(font, used) for font in whole))
        for missing in sorted(used - drawn):
            logger.warning("an icon with the code point %x is in no font of the theme", missing)
        style = static / STYLE
        font_file = re.compile(r'url\((\S+?)\.woff2\) format\("woff2"\),url\(\S+?\.ttf\) format\("truetype"\)')
        style.write_text(
            font_file.sub(r'url(\1.woff) format("woff")', style.read_text(encoding="utf-8")), encoding="utf-8"
        )


def cut(path: Path, points: set[int]) -> set[int]:
    """Put a font of these code points in the place of the whole one; those that it draws."""
    font = TTFont(path, recalcTimestamp=False)
    options = subset.Options(layout_features=[], drop_tables=[*subset.Options().drop_tables, "FFTM"])
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=points)
    subsetter.subset(font)
    font.flavor = "woff"
    font.save(path.with_suffix(".woff"))
    for unused in (path, path.with_suffix(".woff2")):
        unused.unlink(missing_ok=True)
    return set(font.getBestCmap())


def setup(app):
    app.connect("build-finished", lighten)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
