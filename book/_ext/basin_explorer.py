"""Sphinx extension: the directive ``basin-explorer``, in which the reader explores what becomes of starting points.

    ```{basin-explorer} f4 f1
    The explorer needs JavaScript; {ref}`a figure <…>` shows the same.
    ```

The arguments name landscapes of `eoslib.problems.landscapes`, of one or two dimensions; what is shown of each at first
says ``book/explorer.yaml``. The content is for readers without JavaScript. ``book/_static/explorer`` does the rest, and
is loaded when a reader comes near. A link ``#explorer?f=f2&fraction=0.8`` opens a landscape at a step size.
"""

import yaml
from as_javascript import as_javascript
from docutils import nodes
from executed_chapters import ROOT, TEMPLATES
from sphinx.util.docutils import SphinxDirective

from eoslib.chapter.figures import BLUE, ORANGE, PURPLE, SKY, VERMILION
from eoslib.chapter.templates import render
from eoslib.papers.basins import Outcome
from eoslib.problems import landscapes

VIEWS = yaml.safe_load((ROOT / "book/explorer.yaml").read_text(encoding="utf-8"))
OUTCOMES = {
    Outcome.STABLE: (SKY, "converges, f falls at every step (stable)"),
    Outcome.UNSTABLE: (BLUE, "converges after f has risen (not stable)"),
    Outcome.DIVERGED: ("#F2F2F2", "diverges"),
    Outcome.DEGENERATE: (ORANGE, "rests where the Hessian is singular"),
    Outcome.SADDLE: (VERMILION, "rests at a saddle"),
    Outcome.CYCLING: (PURPLE, "cycles"),
    Outcome.WANDERING: ("#6E6E6E", "undecided after 5000 steps"),
}


class without_javascript(nodes.General, nodes.Element):
    """What only readers without JavaScript see."""


class BasinExplorer(SphinxDirective):
    """The explorer of some landscapes, once a page; the first is shown at first."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        names = self.arguments[0].split()
        try:
            explored = {name: as_javascript(landscapes.get(name)) | {"view": VIEWS[name]} for name in names}
        except KeyError as error:
            raise self.error(f"book/explorer.yaml says not what to show of {error}") from error
        except (ValueError, TypeError, NotImplementedError) as error:
            raise self.error(str(error)) from error
        html = render(TEMPLATES / "basin-explorer.html", landscapes=explored, outcomes=list(OUTCOMES.values()))
        self.env.metadata[self.env.docname]["explorer"] = True
        return [nodes.raw("", html, format="html"), without_javascript("", *self.parse_content_to_nodes())]


def load_assets(app, pagename, templatename, context, doctree) -> None:
    if "explorer" in app.env.metadata.get(pagename, ()):
        app.add_css_file("explorer/explorer.css")
        app.add_js_file("explorer/lazy.js", loading_method="defer")


def setup(app):
    tags = ("<noscript>\n", "</noscript>\n")
    visit, depart = (lambda self, node, tag=tag: self.body.append(tag) for tag in tags)
    app.add_node(without_javascript, html=(visit, depart))
    app.add_directive("basin-explorer", BasinExplorer)
    app.connect("html-page-context", load_assets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
