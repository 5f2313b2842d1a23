"""Sphinx extension: the directive ``basin-explorer``, a map of the starting points that the reader explores.

Its content is what a reader without JavaScript sees in its place. The map is drawn by ``book/_static/explorer``, which
only the pages with the directive load.
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ASSETS = "explorer"  # below _static


class explorer(nodes.General, nodes.Element):
    """The place of the explorer on a page; its children are shown until the script replaces them."""


class BasinExplorer(SphinxDirective):
    """The explorer, once a page; the content is required: ``This needs JavaScript; see {ref}`…```."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        return [explorer("", *self.parse_content_to_nodes())]


def visit(self, node) -> None:
    self.body.append('<div class="basin-explorer" role="region" aria-label="Explorer of starting points">\n')


def depart(self, node) -> None:
    self.body.append("</div>\n")


def load_assets(app, pagename, templatename, context, doctree) -> None:
    if doctree and any(doctree.findall(explorer)):
        app.add_css_file(f"{ASSETS}/explorer.css")
        for script in ("worker.js", "explorer.js"):
            app.add_js_file(f"{ASSETS}/{script}", loading_method="defer", priority=100)  # before MathJax, which is slow


def setup(app):
    app.add_node(explorer, html=(visit, depart))
    app.add_directive("basin-explorer", BasinExplorer)
    app.connect("html-page-context", load_assets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
