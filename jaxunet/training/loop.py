"""The training loop, in program order: data, network, state, resume, steps, validation, checkpoints."""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError, WeightsUnavailable
from jaxunet.core.files import exclusive_lock, in_bucket
from jaxunet.data import order
from jaxunet.data.batches import stream_batches, use_resident
from jaxunet.data.examples import Source, fingerprint, load_split
from jaxunet.data.specs import LABELLED_IMAGES
from jaxunet.data.targets import mask_targets
from jaxunet.devices import peak_rates, processes, replicas
from jaxunet.models.build import compute_dtype
from jaxunet.runs import checks
from jaxunet.runs.checkpoint import Checkpoints, check_path
from jaxunet.runs.config_file import check_origin, check_same_run, to_json
from jaxunet.runs.metric_log import MetricWriter
from jaxunet.training import learning_curve, programs
from jaxunet.training.initialize import initial_state, weights_file
from jaxunet.training.optimizer import Durations, build_optimizer, build_schedule, durations
from jaxunet.training.progress import Profiler, Progress
from jaxunet.training.state import TrainState, create_train_state
from jaxunet.training.step import augmented_batch, flops_per_image, train_step
from jaxunet.training.task import build_task

Advance = Callable[[TrainState, int, Progress], TrainState]


def train(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Trains as `config` says, continuing the run in `workdir` if there is one.

    Returns:
      Whether the run is complete; if not, it was asked to stop, and has saved.

    Raises:
      UserError: for settings, data or a workdir that cannot work, and when the loss stops being finite.
    """
    # ---- checks, before anything is built
    checks.check(config)
    check_path(workdir)
    check_same_run(config, workdir)
    if config.init.weights and not (workdir / "config.json").exists():  # continuing a run does not need them
        _check_weights(config)
    if config.profile and in_bucket(workdir):
        raise UserError("config.profile=True needs a local --workdir: JAX cannot write its trace into a bucket.")
    try:
        if in_bucket(workdir):
            (workdir / ".probe").touch()  # a bucket has no folders; is it one that may be written?
            (workdir / ".probe").unlink(missing_ok=True)
        else:
            workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise UserError(f"--workdir={workdir} cannot be made ({reason}): choose another folder.") from error
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
        for folder in unused:  # of a run that could not start
            with contextlib.suppress(OSError):  # not empty
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
    step_fn = functools.partial(
        train_step,
        model=model,
        loss_fn=task.loss_fn,
        score_fn=task.score_fn,
        tx=tx,
        accumulate_steps=config.train.accumulate_steps,
        ema_decay=config.train.ema_decay,
        reduce=replicas.reduce_mean,
    )

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
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    print(
        f"{config.model.name}, {parameters:,} parameters, {compute_dtype(config.model.dtype)} on "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}; {len(source)} training and "
        f"{len(task.val.ids)} validation images; "
        f"{length.total_steps} steps of {config.train.batch_size}; {origin}"
    )
    advance, max_steps = _build_advance(config, source, step_fn, start_step, length)

    # ---- steps
    every = {
        "log": config.train.log_every_steps,
        "eval": config.train.eval_every_epochs * length.steps_per_epoch,
        "checkpoint": config.train.checkpoint_every_steps,
    }
    step, replicas_checked = start_step, False
    peak = peak_rates.peak(jax.devices()[0].device_kind)
    with (
        MetricWriter(
            workdir,
            config,
            start_step=start_step,
            validated_step=validated_step,
            total_steps=length.total_steps,
        ) as writer,
        processes.stop_request() as stop,
        Profiler(workdir / "profile", active=config.profile and processes.is_first()) as profiler,
        checkpoints,
    ):
        progress = Progress(
            writer,
            config,
            score_name=task.score_name,
            schedule=schedule,
            length=length,
            ids_of_step=functools.partial(_ids_of_step, config, source),
            state=saved_progress,
            flops_per_image=peak and flops_per_image(model, state.eval_variables(), source.image_shape),
            peak_flops=peak and peak.flops,
        )
        while True:
            # ---- log, validate and save what is due at this step; after a resume, what was not done before
            due = {name for name, period in every.items() if step == _next_multiple(step - 1, period)}
            due = set() if step == 0 else set(every) if step == length.total_steps else due
            if due and step > start_step:
                progress.log(step)
            val_score = None
            if (
                "eval" in due
                and progress.validated_step < step
                and (validation := task.validate(state.eval_variables(), stop))
            ):
                values, val_score, words = validation
                progress.validated(step, val_score)
                writer.write(step, {"epoch": step / length.steps_per_epoch, **values})
                writer.message(f"step {step}, epoch {step / length.steps_per_epoch:.1f}: validation {words}")
                if processes.is_first():
                    learning_curve.learning_curve(writer.rows(), task.score_name, workdir / "learning_curve.png")
            ends = stop() or step == length.total_steps or progress.stops_improving
            if due & {"eval", "checkpoint"} or (ends and step > 0):
                if _has_vanished(workdir):
                    raise FileNotFoundError(workdir)
                if not replicas_checked:
                    replicas.assert_replicas_agree(state)
                    replicas_checked = True
                writer.flush()
                checkpoints.save(state, config, val_score=val_score, progress=progress.state(), data=data)
                progress.restart_clock()
            if ends:
                break

            # ---- steps until something is due
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
        print(f"Stopped and saved at step {step} of {length.total_steps}; the same command continues.")
        return False
    if step < length.total_steps:
        print(f"No better validation for {config.train.patience_evals} times: stopped early.")
    print(f"Done: {step} steps, best validation at step {best}. Results in {workdir}")
    return True


def _has_vanished(workdir: pathlib.Path) -> bool:
    """Whether somebody removed what the writer of this run made first."""
    return processes.is_first() and not (workdir / "config.json").exists()


def _check_weights(config: ConfigDict) -> None:
    """Raises WeightsUnavailable on all processes if one of them lacks the weights to start from."""
    problem = ""
    try:
        weights_file(config)
    except WeightsUnavailable as error:
        problem = str(error)
    lacking = np.flatnonzero(processes.gather(np.array([bool(problem)])))
    if len(lacking):
        raise WeightsUnavailable(problem or f"The weights to start from are not on the host of process {lacking[0]}.")


def _ids_of_step(config: ConfigDict, source: Source, step: int) -> list[str]:
    index = order.examples_of_step(config.seed, step, batch_size=config.train.batch_size, num_examples=len(source))
    return [source.ids[i] for i in index]


def _build_advance(
    config: ConfigDict, source: Source, step_fn: programs.Step, start_step: int, length: Durations
) -> tuple[Advance, int]:
    """`advance(state, n, progress)` runs the next n steps and reports them, and the largest n it takes."""
    make_batch = functools.partial(augmented_batch, seed=config.seed, augment=config.augment)
    resident = use_resident(
        config.input.mode,
        num_examples=len(source),
        image_shape=source.image_shape,
        masks=0 if config.dataset.name == LABELLED_IMAGES else len(mask_targets(config.dataset.targets)),
        limit_gib=config.input.resident_limit_gib,
    )
    if not resident:
        run = programs.map_streamed_step(step_fn, make_batch, batch_size=config.train.batch_size)
        batches = stream_batches(
            source,
            seed=config.seed,
            start_step=start_step,
            total_steps=length.total_steps,
            batch_size=config.train.batch_size,
            stream=config.input,
        )

        def advance_streamed(state: TrainState, n: int, progress: Progress) -> TrainState:
            batch = next(batches)
            was_idle = progress.previous_is_done()
            state, total = run(state, batch)
            progress.called(total, was_idle=was_idle)
            return state

        return advance_streamed, 1

    max_steps = config.train.steps_per_call or (1 if jax.default_backend() == "cpu" else 50)
    run = programs.map_resident_steps(
        step_fn,
        make_batch,
        seed=config.seed,
        batch_size=config.train.batch_size,
        num_examples=len(source),
        max_steps=max_steps,
    )
    arrays = replicas.replicate(load_split(source, threads=config.input.threads).arrays)

    def advance(state: TrainState, n: int, progress: Progress) -> TrainState:
        state, total = run(state, arrays, n)
        progress.called(total, was_idle=False)
        return state

    return advance, max_steps


def _next_multiple(step: int, period: float) -> int:
    """The smallest whole number above `step` at which a multiple of `period` (steps, maybe fractional) is passed."""
    if period <= 1:
        return step + 1
    k = math.floor(step / period)
    while math.ceil(k * period) <= step:
        k += 1
    return math.ceil(k * period)
