"""papermill's engine, which writes the notebook once, however its execution ends.

papermill writes all of it before and after each cell, which takes a tenth of a chapter's time.
"""

from papermill.engines import NBClientEngine, papermill_engines

NAME = "written-once"


class WrittenOnce(NBClientEngine):
    """See the module."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options):
        """Execute the cells with nowhere to write to; papermill writes when this returns or raises."""
        path, nb_man.output_path = nb_man.output_path, None
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **options)
        finally:
            nb_man.output_path = path


papermill_engines.register(NAME, WrittenOnce)
