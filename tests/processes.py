"""What tests do with a process."""


def carried(process):
    """All rows of a process until it is finished, each by tables."""
    rows = []
    while not process.finished:
        process.step()
        rows.append(process.observe())
    return rows


def step_row(process):
    """What the last step observed, of a process that has no table but that of the steps."""
    tables = process.observe()
    assert tables.keys() == {"step"}
    return tables["step"]


def step_rows(process):
    """All such rows until the process is finished."""
    rows = []
    while not process.finished:
        process.step()
        rows.append(step_row(process))
    return rows
