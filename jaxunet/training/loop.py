"""The training loop, in program order: data, network, state, resume, steps, validation, checkpoints."""

import contextlib
import functools
import math
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError, WeightsUnavailable
from jaxunet.core.files import exclusive_lock, in_bucket
from jaxunet.data import draft, order
from jaxunet.data.examples import Source, fingerprint
from jaxunet.devices import peak_rates, processes, replicas
from jaxunet.models.build import compute_dtype
from jaxunet.runs import checks, trackers
from jaxunet.runs.checkpoint import Checkpoints
from jaxunet.runs.checkpoint_files import check_path
from jaxunet.runs.config_file import check_origin, check_same_run, to_json
from jaxunet.runs.metric_log import MetricWriter
from jaxunet.training import learning_curve, programs
from jaxunet.training.initialize import initial_state, weights_file
from jaxunet.training.optimizer import build_optimizer, build_schedule, durations
from jaxunet.training.progress import Profiler, Progress
from jaxunet.training.state import create_train_state
from jaxunet.training.step import flops_per_image
from jaxunet.training.task import build_task


def train(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Trains as `config` says, or continues the run in `workdir`.

    Returns:
      True if the run is complete; False if it was asked to stop. Both have saved a checkpoint.

    Raises:
      UserError: if the settings, the data or the workdir cannot be used, or the loss is no longer finite.
    """
    # ---- checks, before anything is built
    config = draft.settle(config)
    checks.check(config)
    trackers.check_installed(config.track)
    check_path(workdir)
    check_same_run(config, workdir)
    if config.init.weights and not (workdir / "config.json").exists():  # a run that continues does not need them
        _check_weights(config)
    if config.profile and in_bucket(workdir):
        raise UserError("config.profile=True needs a local --workdir: JAX cannot write its trace into a bucket.")
    try:
        if in_bucket(workdir):
            (workdir / ".probe").touch()  # a bucket has no folders: test whether it can be written
            (workdir / ".probe").unlink(missing_ok=True)
        else:
            workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise UserError(f"--workdir={workdir} cannot be created ({reason}): choose another folder.") from error
    processes.check_shared(workdir)
    processes.check_same("The settings", to_json(config))
    try:
        with exclusive_lock(workdir) if processes.is_first() else contextlib.nullcontext():
            return _train(config, workdir)
    except Exception as error:
        if not isinstance(error, UserError) and _has_vanished(workdir):
            raise UserError(
                f"{workdir} was removed while training: choose another --workdir, and start anew."
            ) from error
        raise
    finally:
        unused = () if in_bucket(workdir) else (workdir / "checkpoints", workdir)
        for folder in unused:  # left empty by a run that could not start
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _train(config: ConfigDict, workdir: pathlib.Path) -> bool:
    # ---- data
    task = build_task(config)
    source, model = task.source, task.model
    processes.check_same("The images", "\n".join([*source.ids, "", *task.val.ids]))
    length = durations(config.train, len(source))

    # ---- network, optimizer, state
    schedule = build_schedule(config.optimizer, length)
    tx = build_optimizer(config.optimizer, schedule)
    state = create_train_state(
        model, tx, seed=config.seed, image_shape=source.image_shape, ema=config.train.ema_decay > 0
    )
    step_fn = programs.build_step(config, model, tx, task.loss_fn, task.score_fn)

    # ---- resume
    data = {
        f"{what} of the {name} images": value
        for name, split in (("training", source), ("validation", task.val))
        for what, value in fingerprint(split, threads=config.input.threads).items()
    }
    checkpoints = Checkpoints(workdir, config.checkpoint, clean=True)
    restored = checkpoints.restore_latest(state)
    if restored:
        state, saved_progress = restored
        check_origin(config, data, checkpoints.origin(int(state.step)), workdir)
        origin = f"continuing at step {int(state.step)}"
    else:
        (state, origin), saved_progress = initial_state(config, state), {}
    start_step, validated_step = int(state.step), int(saved_progress.get("validated_step", 0))
    state = replicas.replicate(state)
    parameters, device = sum(x.size for x in jax.tree.leaves(state.params)), jax.devices()[0].device_kind
    print(
        f"{config.model.name}, {parameters:,} parameters, {compute_dtype(config.model.dtype)} on {jax.device_count()} "
        f"x {device}; {len(source)} training and {len(task.val.ids)} validation images; {length.total_steps} steps of "
        f"{config.train.batch_size}; {origin}"
    )
    advance, max_steps = programs.build_advance(config, source, step_fn, start_step, length)

    # ---- steps
    every = {
        "log": config.train.log_every_steps,
        "eval": config.train.eval_every_epochs * length.steps_per_epoch,
        "checkpoint": config.train.checkpoint_every_steps,
    }
    step, replicas_checked = start_step, False
    peak = peak_rates.peak(device)
    with (
        MetricWriter(
            workdir, config, start_step=start_step, validated_step=validated_step, total_steps=length.total_steps
        ) as writer,
        processes.stop_request() as stop,
        Profiler(workdir / "profile", active=config.profile and processes.is_first()) as profiler,
        checkpoints,
    ):
        progress = Progress(
            writer,
            config,
            watched_metric=task.watched_metric,
            schedule=schedule,
            length=length,
            ids_of_step=functools.partial(_ids_of_step, config, source),
            state=saved_progress,
            flops_per_image=flops_per_image(model, state.eval_variables(), source.image_shape) if peak else None,
            peak_flops=peak.flops if peak else None,
        )
        while True:
            # ---- log, validate and save if that is due at this step; after a resume, do what the last process did not
            due = {name for name, period in every.items() if step == _next_multiple(step - 1, period)}
            due = set() if step == 0 else set(every) if step == length.total_steps else due
            if due and step > start_step:
                progress.log(step)
            rank_value = None
            if (
                "eval" in due
                and progress.validated_step < step
                and (validation := task.validate(state.eval_variables(), stop))
            ):
                rank_value, epoch = validation.rank_value, step / length.steps_per_epoch
                progress.validated(step, rank_value)
                writer.write(step, {"epoch": epoch, **validation.values}, validation.pictures)
                writer.message(f"step {step}, epoch {epoch:.1f}: validation {validation.words}")
                if processes.is_first():
                    learning_curve.learning_curve(writer.rows(), task.watched_metric, workdir / "learning_curve.png")
            ends = stop() or step == length.total_steps or progress.stops_improving
            if due & {"eval", "checkpoint"} or (ends and step > 0):
                if _has_vanished(workdir):
                    raise FileNotFoundError(workdir)
                if not replicas_checked:
                    replicas.assert_replicas_agree(state)
                    replicas_checked = True
                writer.flush()
                checkpoints.save(state, config, rank_value=rank_value, progress=progress.state(), data=data)
                progress.restart_clock()
            if ends:
                break

            # ---- train until the next step at which something is due
            last = min(step + max_steps, length.total_steps, *(_next_multiple(step, p) for p in every.values()))
            profiler.before_call()
            state = advance(state, last - step, progress)
            profiler.after_call(state)
            writer.advance(last - step)
            step = last
        checkpoints.wait()
        best = checkpoints.best_step()
        complete = progress.validated_step == step and (step == length.total_steps or progress.stops_improving)
    if not complete:
        print(f"Stopped and saved at step {step} of {length.total_steps}. Start the same command again to continue.")
        return False
    if step < length.total_steps:
        print(f"Stopped early: the last {config.train.patience_evals} validations were not better than the best.")
    print(f"Done: {step} steps, best validation at step {best}. Results in {workdir}")
    return True


def _has_vanished(workdir: pathlib.Path) -> bool:
    """Whether somebody removed what the writer of this run made first."""
    return processes.is_first() and not (workdir / "config.json").exists()


def _check_weights(config: ConfigDict) -> None:
    """Raises WeightsUnavailable on every process if any process lacks the initial weights."""
    problem = ""
    try:
        weights_file(config)
    except WeightsUnavailable as error:
        problem = str(error)
    lacking = np.flatnonzero(processes.gather(np.array([bool(problem)])))
    if len(lacking):
        raise WeightsUnavailable(problem or f"The initial weights are not on the host of process {lacking[0]}.")


def _ids_of_step(config: ConfigDict, source: Source, step: int) -> list[str]:
    index = order.examples_of_step(config.seed, step, batch_size=config.train.batch_size, num_examples=len(source))
    return [source.ids[i] for i in index]


def _next_multiple(step: int, period: float) -> int:
    """The first step after `step` at which a multiple of `period` is reached. `period`: steps, can be fractional."""
    if period <= 1:
        return step + 1
    k = math.floor(step / period)
    while math.ceil(k * period) <= step:
        k += 1
    return math.ceil(k * period)
