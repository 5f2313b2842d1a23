"""The HTML that a notebook shows, as Jinja2 templates."""

import functools
from pathlib import Path

FOLDER = Path(__file__).parent


def render(template: str | Path, /, **values) -> str:
    """The HTML of a template, in which every value is text and none is markup.

    template: the name of a file in this folder, or the path of one elsewhere. Raises jinja2.TemplateNotFound, and
    jinja2.UndefinedError where the template uses a value that is not given.
    """
    path = FOLDER / template
    return _environment(path.parent).get_template(path.name).render(values)


@functools.cache
def _environment(folder: Path):
    """Where templates find one another: those of one folder."""
    import jinja2  # here, because a machine that only computes may lack it

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
