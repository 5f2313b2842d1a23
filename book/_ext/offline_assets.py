"""Sphinx extension: MathJax from the wheel ``sphinx-mathjax-offline``, so that no page asks another host.

The wheel can be used as an extension itself, but then copies all of MathJax (31 MB). A page needs one script
and the fonts that it loads.
"""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

SCRIPT = "tex-chtml-full.js"
FONTS = "output/chtml/fonts/woff-v2"


def configure(app, config) -> None:
    config.mathjax_path = f"mathjax/{SCRIPT}"  # below _static


def copy(app, exception) -> None:
    target = Path(app.outdir) / "_static" / "mathjax"
    if exception or app.builder.format != "html" or target.is_dir():
        return
    with as_file(files("sphinx-mathjax-offline") / "static" / "mathjax") as source:
        shutil.copytree(source / FONTS, target / FONTS)
        shutil.copyfile(source / SCRIPT, target / SCRIPT)


def setup(app):
    app.connect("config-inited", configure)
    app.connect("build-finished", copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
