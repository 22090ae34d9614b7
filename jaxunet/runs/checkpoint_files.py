"""The files of checkpoints, without Orbax: which paths can hold them, checksums, and how a folder is renamed."""

import json
import pathlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import jax
import numpy as np
from etils import epath

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket

RANK_VALUE = "val_score"  # the key in saved checkpoints
COMPLETE = "commit_success.txt"  # Orbax writes it last; a local folder also gets its name only then
_PATTERNS = "[]*?\\"  # Orbax takes a path for a pattern of names, and TensorStore a backslash for a slash


def check_path(workdir: pathlib.Path) -> None:
    """Raises UserError if `workdir` holds characters in its path that Orbax or TensorStore take for something else."""
    path = str(workdir if in_bucket(workdir) else workdir.absolute())
    if found := [c for c in path if c in _PATTERNS or "\ud800" <= c <= "\udfff"]:
        what = f"the character {found[0]}" if found[0] in _PATTERNS else "bytes that are no UTF-8"
        raise UserError(
            f"--workdir={path} has {what} in its path, where checkpoints cannot be kept: use a folder without it."
        )


def move(old: epath.Path, new: epath.Path) -> None:
    """Renames the folder of a checkpoint. In a bucket it copies first, so that one of the two is always complete."""
    if not in_bucket(old):
        old.rename(new)
        return
    files, root = fsspec.url_to_fs(str(old))
    for path in sorted(files.find(root), key=f"{root}/{COMPLETE}".__eq__):  # that one last
        files.cp_file(path, path.replace(root, files._strip_protocol(str(new)), 1))
    (old / COMPLETE).unlink(missing_ok=True)
    old.rmtree(missing_ok=True)


def has_rank_value(path: epath.Path) -> bool:
    """Whether `path`, the metrics of a checkpoint, says how good it was in validation."""
    try:
        return isinstance(json.loads(path.read_bytes())[RANK_VALUE], float)
    except (ValueError, TypeError, KeyError):
        return False


def checksums_of(tree: Any) -> dict[str, int]:
    """CRC-32 of every array, by its path."""
    # NumPy's stubs do not say that arrays are buffers, hence the ignored type.
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    with ThreadPoolExecutor() as pool:
        values = pool.map(lambda leaf: zlib.crc32(np.ascontiguousarray(leaf[1])), leaves)  # type: ignore[arg-type]
        return dict(zip(names, values, strict=True))
