"""A copy of the repository's files, for tests that change them or build from them."""

import pathlib
import shutil

ROOT = pathlib.Path(__file__).parents[2]
_MADE = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "build", "dist", "*.egg-info", ".hypothesis")


def copy_clone(folder: pathlib.Path) -> None:
    """Without what git ignores; `runs/` is ignored at the top alone, as `jaxunet/runs` is part of the program."""

    def ignored(path: str, names: list[str]) -> set[str]:
        return _MADE(path, names) | ({"runs"} if pathlib.Path(path) == ROOT else set())

    shutil.copytree(ROOT, folder, ignore=ignored)
