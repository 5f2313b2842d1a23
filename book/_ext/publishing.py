"""Sphinx extension: what a published page offers, all of it made from ``repository.url`` of _config.yml. Without an
address a page offers none of it.

Buttons lead to the page's source, to its editor, and to the other versions of the site; from an executed page to Colab,
which opens the notebook that the build executed, on the branch that Pages serves (``.github/publish.py``), and to
Binder, which opens the source, in the environment of ``.binder``. The notebooks that the site offers then begin with a
cell that installs the library where it is missing.
"""

import re
from pathlib import Path

import nbformat
import yaml
from claims_board import commit
from executed_chapters import ROOT, TEMPLATES, pages
from sphinx.errors import ConfigError

from eoslib.chapter.templates import render

COLAB, BINDER = "https://colab.research.google.com/github", "https://mybinder.org/v2/gh"
COLAB_ICON, BINDER_ICON = "_static/images/logo_colab.png", "_static/images/logo_binder.svg"  # of the theme
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)/?")


def repository(config) -> str | None:
    """OWNER/NAME of the repository; None if no address is configured. Raises ConfigError if it is not of GitHub."""
    address = config.html_theme_options.get("repository_url")
    if not address:
        return None
    if not (found := GITHUB.fullmatch(address)):
        raise ConfigError(f"_config.yml: repository.url is {address!r}, expected https://github.com/OWNER/NAME")
    return found[1]


def tag() -> str:
    """Of this version."""
    return "v" + yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]


def configure(app, config) -> None:
    """Switch the theme's own buttons on."""
    if repository(config):
        config.html_theme_options |= {"use_source_button": True, "use_edit_page_button": True}


def add_buttons(app, pagename, templatename, context, doctree) -> None:
    """Beside the theme's buttons, ours."""
    if not (name := repository(app.config)):
        return
    if page := pages(app).get(pagename):
        executed = (Path(pagename).parent / page.executions[-1].download).as_posix()  # live, if it was
        source = page.source.relative_to(ROOT).as_posix()
        colab = f"{COLAB}/{name}/blob/gh-pages/{tag()}/{executed}"
        binder = f"{BINDER}/{name}/{tag()}?urlpath=lab/tree/{source}"
        launch = [
            {"type": "link", "text": "Colab", "tooltip": "The executed notebook", "icon": COLAB_ICON, "url": colab},
            {"type": "link", "text": "Binder", "tooltip": "Its source", "icon": BINDER_ICON, "url": binder},
        ]
        group = {"type": "group", "tooltip": "Open it in", "icon": "fas fa-rocket", "label": "launch-buttons"}
        context["header_buttons"].append(group | {"buttons": launch})
    owner, project = name.split("/")
    versions = f"https://{owner}.github.io/{project}/versions.html"
    button = {"type": "link", "text": "", "tooltip": "All versions", "icon": "fas fa-clock-rotate-left"}
    context["header_buttons"].append(button | {"url": versions, "label": "versions-button"})


def add_installation(app, exception) -> None:
    """Put the cell that installs the library first, in the notebooks of the site."""
    name = repository(app.config)
    if exception or not name or app.builder.format != "html":
        return
    source = render(TEMPLATES / "installation.ipy", name=name, commit=commit() or tag())
    for page in pages(app).values():
        for one in page.executions:
            file = (Path(app.outdir) / one.docname).with_name(one.download)
            if not one.failure:
                notebook = nbformat.read(file, as_version=4)
                cell = nbformat.v4.new_code_cell(source, id="installation", metadata={"tags": ["installation"]})
                notebook.cells.insert(0, cell)
                nbformat.write(notebook, file)


def setup(app):
    app.connect("config-inited", configure)
    app.connect("html-page-context", add_buttons, priority=900)  # after the theme's
    app.connect("build-finished", add_installation, priority=950)  # after the notebooks were copied
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
