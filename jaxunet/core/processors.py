"""How many processor cores there are for this process."""

import os


def cores() -> int:
    """The cores that this process may use; all cores if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
