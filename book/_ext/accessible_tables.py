"""Sphinx extension: header cells say what they head, which neither docutils nor pandas writes."""

import re


def scoped(match: re.Match) -> str:
    """A table, or its head, in which every header cell has a scope."""
    scope = "col" if match["part"] == "thead" else "row"
    return re.sub(r"<th(?![^>]*\bscope=)(?=[ >])", f'<th scope="{scope}"', match[0])


def add_scopes(app, pagename, templatename, context, doctree) -> None:
    """Headers in a table's head are those of columns, others those of rows."""
    if "body" in context:
        context["body"] = re.sub(r"<(?P<part>thead|tbody)\b.*?</(?P=part)>", scoped, context["body"], flags=re.DOTALL)


def setup(app):
    app.connect("html-page-context", add_scopes)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
