"""Checkpoints: the only file that imports orbax.

A checkpoint holds the whole train state and the resolved config, so that it resumes exactly and can be evaluated
without the training config at hand. Saves are asynchronous and become visible only when complete.
"""

import pathlib
from typing import Any, Self

import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from jaxunet import parallel
from jaxunet.errors import UserError
from jaxunet.train_state import TrainState

_BEST = "val_score"


class Checkpoints:
    """The `checkpoints/` folder of a workdir: kept are the latest few, and the best few in validation."""

    def __init__(self, workdir: pathlib.Path, checkpoint: ConfigDict, *, clean: bool = False):
        """Args:
        workdir: of the run.
        checkpoint: that section of the config.
        clean: remove what interrupted saves left; for the one process that trains here.
        """
        self._directory = (workdir / "checkpoints").absolute()
        keep = policy.AnyPreservationPolicy(
            [
                policy.LatestN(checkpoint.keep_latest),
                policy.BestN(
                    get_metric_fn=lambda metrics: metrics[_BEST],
                    n=checkpoint.keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            cleanup_tmp_directories=clean,
            best_fn=lambda metrics: metrics[_BEST],
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, state: TrainState, config: ConfigDict, *, val_score: float | None) -> None:
        """Starts saving `state`; a step that is already there is left alone."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config.to_dict()))
        metrics = None if val_score is None else {_BEST: val_score}
        self._manager.save(step, args=items, metrics=metrics, force=True)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        return self._manager.best_step()

    def resolve(self, which: str) -> int:
        """ "latest", "best" or a step number -> the step of an existing checkpoint."""
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(f"There is no finished checkpoint in {self._directory}: train first.")
        if which == "latest":
            return steps[-1]
        if which == "best":
            best = self.best_step()
            return steps[-1] if best is None else best
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f"--checkpoint={which} is not in {self._directory}: use latest, best or one of {steps}.")
        return int(which)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of `step`, replicated over the devices present; `like` gives the structure (arrays or shapes)."""
        target: Any = parallel.replicated_shapes(like)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        except (ValueError, KeyError) as error:
            raise UserError(
                f"Checkpoint {step} in {self._directory} does not fit the network of this config "
                f"({str(error).splitlines()[0]}): was the config or the code changed since?"
            ) from error
        return restored.state

    def restore_weights(self, step: int) -> dict[str, Any]:
        """`{"params", "batch_stats"}` of any network, the averages where they were kept; its config is not needed."""
        path = self._directory / str(step) / "state"
        with ocp.PyTreeCheckpointer() as checkpointer:
            shapes = checkpointer.metadata(path).item_metadata.tree
            names = ("ema_params", "ema_batch_stats") if shapes["ema_params"] else ("params", "batch_stats")
            target = parallel.replicated_shapes({name: shapes[name] for name in names})
            how = ocp.checkpoint_utils.construct_restore_args(target)
            restored = checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(item=target, restore_args=how, partial_restore=True)
            )
        return {name.removeprefix("ema_"): tree for name, tree in restored.items()}

    def wait(self) -> None:
        """Blocks until every save has been written."""
        self._manager.wait_until_finished()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what is being saved."""
        self._manager.close()
