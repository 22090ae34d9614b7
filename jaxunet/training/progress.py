"""What the training loop remembers and logs between calls: means over steps, speed, the best validation."""

import pathlib
import time
from collections.abc import Callable
from typing import Any, Self

import jax
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.runs.metric_log import MetricWriter
from jaxunet.training.optimizer import Durations

_INPUT_BOUND = 0.2  # warn if more than this share of steps found the device idle
_PROFILED_CALLS = (2, 5)  # first and last, counted from the start of the process
# The sums of a call -> their keys in saved checkpoints.
_SUMS = {"loss": "loss", "grad_norm": "grad_norm", "score_sum": "score", "score_count": "scored", "steps": "steps"}
_SHOWN_IDS = 8


class Progress:
    """Records the sums that each call returns and logs their means. `state()` is saved with every checkpoint."""

    def __init__(
        self,
        writer: MetricWriter,
        config: ConfigDict,
        *,
        watched_metric: str,
        schedule: Callable[[int], Any],
        length: Durations,
        ids_of_step: Callable[[int], list[str]],
        state: dict[str, float],
        flops_per_image: float | None,
        peak_flops: float | None,
    ):
        """Args:
        writer: receives the numbers and messages.
        config: the run's config.
        watched_metric: see `task.Task`.
        schedule: step -> learning rate.
        length: the run's duration.
        ids_of_step: step -> names of its images, for the error message.
        state: what `state()` returned before the last checkpoint; {} for a new run.
        flops_per_image: operations of training on one image; None if unknown.
        peak_flops: operations per second of one device; None if unknown.
        """
        self._writer, self._config, self._watched_metric = writer, config, watched_metric
        self._schedule, self._length = schedule, length
        self._ids_of_step, self._flops_per_image, self._peak_flops = ids_of_step, flops_per_image, peak_flops
        self._state = dict.fromkeys(_SUMS.values(), 0.0)
        self._state |= {"validated_step": 0, "best_score": -1.0, "evals_since_best": 0} | state
        self._totals: list[dict[str, Any]] = []
        self._timed_steps = 0
        self._idle, self._calls, self._warned = 0, 0, False
        self.restart_clock()

    def restart_clock(self) -> None:
        """Excludes the time since the last log from the measured speed, such as that of a validation."""
        self._clock = time.perf_counter()

    def record(self, totals: dict[str, Any], *, was_idle: bool) -> None:
        """Records a call and waits for the previous one, so that at most two calls are queued on the device. `totals`:
        sums over its steps, on the device. `was_idle`: whether the previous call had finished before this one was
        dispatched."""
        if self._totals:
            jax.block_until_ready(self._totals[-1])
        self._totals.append(totals)
        self._calls += 1
        self._idle += was_idle

    def previous_is_done(self) -> bool:
        """Whether the device is idle now."""
        return bool(self._totals) and self._totals[-1]["loss"].is_ready()

    def state(self) -> dict[str, float]:
        """What a later process needs to continue the log: sums since the last row and the best validation. Raises
        UserError if a loss or gradient was not finite."""
        for total in jax.device_get(self._totals):
            if total["bad_step"] >= 0:
                raise UserError(self._not_finite(int(total["bad_step"])))
            for name, key in _SUMS.items():  # call by call, so that an interruption does not change the rounding
                self._state[key] += float(total[name])
            self._timed_steps += int(total["steps"])
        self._totals = []
        return dict(self._state)

    def _not_finite(self, step: int) -> str:
        ids = self._ids_of_step(step)
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        return (
            f"The loss or its gradient was not finite at step {step} (learning rate {float(self._schedule(step)):.3g}; "
            f"images {', '.join(ids[:_SHOWN_IDS])}{more}). Nothing was saved after the last checkpoint. Lower "
            f"config.optimizer.learning_rate or set config.optimizer.clip_norm, and use another --workdir."
        )

    def validated(self, step: int, rank_value: float) -> None:
        """Records a validation. `rank_value`: the watched metric; larger is better."""
        better = rank_value > self._state["best_score"]
        self._state |= {
            "validated_step": step,
            "best_score": max(rank_value, self._state["best_score"]),
            "evals_since_best": 0 if better else self._state["evals_since_best"] + 1,
        }

    @property
    def validated_step(self) -> int:
        """The last step that was validated, or 0."""
        return int(self._state["validated_step"])

    @property
    def stops_improving(self) -> bool:
        """Whether the last `train.patience_evals` validations were not better than the best one before them."""
        patience = self._config.train.patience_evals
        return 0 < patience <= self._state["evals_since_best"]

    def log(self, step: int) -> None:
        """Writes the means since the last log. Raises UserError if a loss or gradient was not finite."""
        sums, config = self.state(), self._config
        n = sums["steps"]
        if not n:
            return
        rate = self._timed_steps * config.train.batch_size / (time.perf_counter() - self._clock)
        values, shown = {"train/loss": sums["loss"] / n}, {"loss": f"{sums['loss'] / n:.4f}"}
        if sums["scored"]:  # a few small batches can be without COVID-19 images
            mean = sums["score"] / sums["scored"]
            values[f"train/{self._watched_metric}"], shown[self._watched_metric] = mean, f"{mean:.3f}"
        values["train/grad_norm"] = sums["grad_norm"] / n
        values |= {"train/learning_rate": float(self._schedule(step - 1)), "images_per_second": rate}
        shown["images_s"] = f"{rate:.1f}"
        devices = jax.device_count()
        if devices > 1:
            shown["per_device"] = f"{rate / devices:.1f}"
        if self._flops_per_image and self._peak_flops:
            values["model_flops_utilisation"] = rate / devices * self._flops_per_image / self._peak_flops
            shown["mfu"] = f"{100 * values['model_flops_utilisation']:.1f}%"
        self._writer.write(step, {"epoch": step / self._length.steps_per_epoch, **values})
        self._writer.show(**shown)
        self._warn_if_input_bound()
        self._state |= dict.fromkeys(_SUMS.values(), 0.0)
        self._timed_steps = self._idle = self._calls = 0
        self.restart_clock()

    def _warn_if_input_bound(self) -> None:
        if self._calls and self._idle / self._calls > _INPUT_BOUND and not self._warned:
            self._warned = True
            share = 100 * self._idle / self._calls
            self._writer.message(
                f"input-bound: at {share:.0f} % of the steps the device was waiting for images. "
                f"Raise config.input.threads or config.input.prefetch_batches, or use config.input.mode=resident."
            )


class Profiler:
    """If `active`, writes a trace of a few calls into `folder`, for TensorBoard or Perfetto."""

    def __init__(self, folder: pathlib.Path, *, active: bool):
        self._folder, self._active, self._calls, self._tracing = folder, active, 0, False

    def before_call(self) -> None:
        self._calls += 1
        if self._active and self._calls == _PROFILED_CALLS[0]:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # its hook blocks new threads, such as Orbax's
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._tracing = True

    def after_call(self, state: Any) -> None:
        if self._tracing and self._calls == _PROFILED_CALLS[1]:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
