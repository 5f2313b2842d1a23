"""Sphinx extension: a chapter's equations carry its number, "(3.4)", so that none looks like one of the paper. Figures
carry the paper's own numbers and no other, although sphinx-exercise turns numbering on."""

from docutils import nodes


def number_equations(app, doctree) -> None:
    """Number n of chapter c becomes "c.n", where it stands and where it is referred to."""
    docname, chapters = app.env.docname, list(app.chapters)
    if docname not in chapters:
        return
    equations = app.env.get_domain("math").equations
    for block in doctree.findall(nodes.math_block):
        if block.get("number"):
            block["number"] = f"{chapters.index(docname) + 1}.{block['number']}"
            equations[block["label"]] = docname, block["number"]


def number_no_figures(app, config) -> None:
    config.numfig = False


def setup(app):
    app.connect("config-inited", number_no_figures, priority=900)  # after sphinx-exercise
    app.connect("doctree-read", number_equations)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
