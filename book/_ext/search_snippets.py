"""Sphinx extension: search results quote mathematics as text, by ``book/_static/search.js`` on the search page."""


def load_script(app, pagename, templatename, context, doctree) -> None:
    if pagename == "search":
        app.add_js_file("search.js", loading_method="defer")  # after Sphinx's own, before it searches


def setup(app):
    app.connect("html-page-context", load_script)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
