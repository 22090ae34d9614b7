"""Whether two runs ended the same."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxunet.runs.metric_log import read_metrics


def final_leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint by its path, read without knowing the network."""
    directory = (workdir / "checkpoints").absolute()
    with ocp.CheckpointManager(directory) as manager:
        step = manager.latest_step()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(directory / str(step) / "state")
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_end(a: pathlib.Path, b: pathlib.Path, *, rtol: float = 0, atol: float = 0) -> None:
    """Checkpoints and logged numbers (speed aside) are equal bit for bit, or almost."""
    left, right = final_leaves(a), final_leaves(b)
    assert left.keys() == right.keys()
    assert len(left) > 20
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=rtol, atol=atol, err_msg=name)
    rows = [[{k: v for k, v in r.items() if k != "images_per_second"} for r in read_metrics(w)] for w in (a, b)]
    for row, other in zip(*rows, strict=True):
        assert row == pytest.approx(other, rel=rtol, abs=atol)
