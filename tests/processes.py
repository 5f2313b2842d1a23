"""What tests do with a process."""


def carried(process):
    """All rows of a process until it is finished."""
    rows = []
    while not process.finished:
        process.step()
        rows.append(process.observe())
    return rows
