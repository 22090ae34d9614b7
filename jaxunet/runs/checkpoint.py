"""Checkpoints: the only file that imports orbax.

A checkpoint holds the whole train state and the resolved config. So it resumes exactly, and evaluation does not need
the config file. Saves are asynchronous and become visible only when complete. A checkpoint keeps a CRC-32 of every
array, because neither Orbax nor the network notices a bit that flips on disk.
"""

import pathlib
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket
from jaxunet.devices import processes, replicas
from jaxunet.runs.checkpoint_files import COMPLETE, RANK_VALUE, check_path, checksums_of, has_rank_value, move

_ASIDE = "Go on with the training, which puts it aside."
_DAMAGED, _REPLACED = ".damaged", ".replaced"  # added to the names of folders that are not to be used


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or does not hold what was saved."""


class Checkpoints:
    """The `checkpoints/` folder of a workdir. It keeps the latest few checkpoints and the best few in validation."""

    def __init__(self, workdir: pathlib.Path, checkpoint: ConfigDict, *, clean: bool = False):
        """Args:
        workdir: of the run.
        checkpoint: the `checkpoint` section of the config.
        clean: remove the remains of interrupted saves. Only the training process may do so.
        """
        check_path(workdir)
        directory = epath.Path(workdir / "checkpoints")
        self._directory = directory if in_bucket(directory) else directory.absolute()
        keep = policy.AnyPreservationPolicy(
            [
                policy.LatestN(checkpoint.keep_latest),
                policy.BestN(
                    get_metric_fn=lambda metrics: metrics[RANK_VALUE],
                    n=checkpoint.keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            cleanup_tmp_directories=clean,
            best_fn=lambda metrics: metrics[RANK_VALUE],
        )
        with processes.first_then_others():
            self._tidy(clean)
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._proven = False  # whether a save has been read back

    def save(
        self,
        state: Any,
        config: ConfigDict,
        *,
        rank_value: float | None,
        progress: dict[str, float],
        data: dict[str, Any] | None = None,
    ) -> None:
        """Starts saving `state`. A saved step is saved again only to add its validation.

        The first one is waited for and read back.

        Args:
          state: the train state.
          config: of the run.
          rank_value: the watched metric of this state; None if it was not validated.
          progress: numbers that `restore_latest` returns with the state.
          data: which images the run is trained on, for `origin`.

        Raises:
          DamagedCheckpoint: if the first one cannot be read back.
        """
        step = int(state.step)
        again = step in self._manager.all_steps()
        if again and rank_value is None:
            return
        if again:
            with processes.first_then_others():
                if processes.is_first():
                    self._move_over(step, self._folder(step, _REPLACED))
            self._manager.reload()
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),  # several processes write it together
            config=ocp.args.JsonSave(config.to_dict()),
            crc32=ocp.args.JsonSave(checksums_of(state)),
            progress=ocp.args.JsonSave(progress),
            data=ocp.args.JsonSave(data or {}),
        )
        metrics = None if rank_value is None else {RANK_VALUE: rank_value}
        self._manager.save(step, args=items, metrics=metrics, force=True)
        if again:
            self.wait()
            if processes.is_first():
                self._folder(step, _REPLACED).rmtree()
        if not self._proven:
            self._prove(step, state)

    def _prove(self, step: int, state: Any) -> None:
        """Reads a checkpoint that was just saved into host memory, and compares it with its checksums."""
        self.wait()
        error = None
        try:
            if processes.several():  # as a run that continues reads it
                self.restore(step, state)
            else:
                host = jax.tree.map(lambda x: np.empty(np.shape(x), x.dtype), state)
                args = ocp.args.Composite(state=ocp.args.StandardRestore(host), crc32=ocp.args.JsonRestore())
                restored = self._manager.restore(step, args=args)
                self._checked(step, restored.state, restored.crc32)
        except Exception as found:  # of many kinds, as in `restore`
            error = found
        if processes.gather(np.array([error is not None])).any():
            reason = (str(error or "another process cannot read it").splitlines() or ["unknown"])[0][:200]
            raise DamagedCheckpoint(
                f"The checkpoint of step {step}, just saved in {self._directory}, cannot be read back ({reason}): the "
                f"run ends here, as none of its checkpoints could be used. Use another --workdir."
            )
        self._proven = True

    def origin(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config and the `data` that a checkpoint was saved with; `{}` for what it does not hold."""
        found = []
        for name in ("config", "data"):
            try:
                args = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
                there = (self._folder(step) / name).exists()
                value = self._manager.restore(step, args=args)[name] if there else {}
            except Exception as error:
                raise self._damaged(step, str(error)) from error
            found.append(value if isinstance(value, dict) else {})
        return found[0], found[1]

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

    def restore_latest(self, like: Any) -> tuple[Any, dict[str, float]] | None:
        """The latest undamaged state and its `progress`; None if there is no checkpoint.

        Reports damaged later checkpoints and renames their folders, so that their steps can be saved again.

        Raises:
          DamagedCheckpoint: if all checkpoints are damaged. Nothing is renamed then.
        """
        damaged: list[tuple[int, DamagedCheckpoint]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            error = None
            try:
                state = self.restore(step, like)
                progress = self._progress(step)
            except DamagedCheckpoint as found:
                error = found
            if processes.gather(np.array([error is not None])).any():
                damaged.append((step, error or self._damaged(step, "another process cannot read it")))
                continue
            with processes.first_then_others():
                for late, error in damaged if processes.is_first() else ():
                    self._put_aside(late, error, f"from step {step}")
            if damaged:
                self._manager.reload()
            return state, progress
        if damaged:
            raise DamagedCheckpoint(f"{damaged[0][1]} There is no other to go on from: use another --workdir.")
        return None

    def _progress(self, step: int) -> dict[str, float]:
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress
            return {name: value + 0 for name, value in restored.items()}  # raises for what is no number
        except Exception as error:
            raise self._damaged(step, str(error)) from error

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, replicated over all devices. `like` has its structure (arrays or shapes).

        Raises:
          DamagedCheckpoint: if it cannot be read, or a checksum differs.
        """
        target: Any = replicas.replicated_shapes(like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), crc32=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:  # damaged files raise many kinds of errors in Orbax and TensorStore
            raise self._damaged(step, str(error)) from error
        return self._checked(step, restored.state, restored.crc32)

    def restore_weights(self, step: int) -> dict[str, Any]:
        """`{"params", "batch_stats"}` of any network, averaged over steps if the run kept averages. Needs no config."""
        path = self._folder(step) / "state"
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                shapes = checkpointer.metadata(path).item_metadata.tree
                names = ("ema_params", "ema_batch_stats") if shapes["ema_params"] else ("params", "batch_stats")
                target = replicas.replicated_shapes({name: shapes[name] for name in names})
                how = ocp.checkpoint_utils.construct_restore_args(target)
                restored = checkpointer.restore(
                    path, args=ocp.args.PyTreeRestore(item=target, restore_args=how, partial_restore=True)
                )
            checksums = self._manager.restore(step, args=ocp.args.Composite(crc32=ocp.args.JsonRestore())).crc32
        except Exception as error:
            raise self._damaged(step, str(error)) from error
        weights = self._checked(step, restored, checksums)
        return {name.removeprefix("ema_"): tree for name, tree in weights.items()}

    def _folder(self, step: int, suffix: str = "") -> epath.Path:
        return self._directory / f"{step}{suffix}"

    def _tidy(self, clean: bool) -> None:
        """Repairs or renames the remains of crashes that Orbax fails on."""
        for old in self._directory.glob(f"*{_REPLACED}") if clean else ():
            new = old.with_suffix("")
            if (new / COMPLETE).exists():
                old.rmtree()
            else:
                new.rmtree(missing_ok=True)
                move(old, new)
        for path in sorted(self._directory.glob("*/metrics/metrics")):  # Orbax fails if one of all scores is damaged
            step = path.parents[1].name
            if step.isdecimal() and not has_rank_value(path):
                error = self._damaged(int(step), "its score cannot be read")
                if not clean:
                    raise DamagedCheckpoint(f"{error} {_ASIDE}")
                self._put_aside(int(step), error, "without it")

    def _put_aside(self, step: int, error: DamagedCheckpoint, how: str) -> None:
        aside = self._folder(step, _DAMAGED)
        print(f"{error} Going on {how}; the damaged one was renamed {aside.name}.")
        self._move_over(step, aside)

    def _move_over(self, step: int, new: epath.Path) -> None:
        new.rmtree(missing_ok=True)
        move(self._folder(step), new)

    def _checked(self, step: int, tree: Any, checksums: dict[str, int]) -> Any:
        if not isinstance(checksums, dict):
            raise self._damaged(step, "its checksums cannot be read")
        if wrong := [name for name, value in checksums_of(tree).items() if checksums.get(name) != value]:
            raise self._damaged(step, f"{wrong[0]} is not what was saved")
        return tree

    def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
        reason = (reason.splitlines() or ["unknown"])[0][:200]
        return DamagedCheckpoint(
            f"Checkpoint {step} in {self._directory} is damaged, or was made by another version ({reason})."
        )

    def wait(self) -> None:
        """Blocks until every save has been written."""
        self._manager.wait_until_finished()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Waits for running saves. After an error it does not wait for other processes, which may have ended."""
        if not (error and processes.several()):
            self._manager.close()
