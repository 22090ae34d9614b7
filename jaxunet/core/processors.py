"""How many processor cores there are for this process."""

import os


def cores() -> int:
    """Those that it may use, as far as the system says; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
