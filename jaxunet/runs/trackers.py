"""A run's numbers, settings and pictures at the trackers that `config.track` names. `MetricWriter` feeds them.

To add a tracker, write a class with the methods of `Tracker` and a row of `TRACKERS`.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from PIL import Image

from jaxunet.core.errors import UserError, one_line
from jaxunet.core.files import write_atomically

_PROJECT = "jaxunet"  # where the tracker's own environment variable names no other
_LONGEST = 300  # characters of a library's error in a warning
_ENTRY: dict[str, Any] = {"run": None, "training": 0, "validation": 0}  # of a tracker in trackers.json, at first

Numbers = Mapping[str, float]
Pictures = Mapping[str, Image.Image]


class Tracker(Protocol):
    """A run at a tracker. `Tracker(name, run, settings)` starts or continues it, and any call may raise anything.

    Attributes:
      run: what the tracker knows the run by. A process that resumes gets it as `run`; for a new run that is None.
    """

    run: str

    def log(self, step: int, values: Numbers, pictures: Pictures) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class _Wandb:
    def __init__(self, name: str, run: str | None, settings: dict[str, Any]):
        import wandb

        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):  # `init` would ask for the key
            raise ValueError("nobody is logged in: run `wandb login`, or set WANDB_MODE=offline")
        self.run, self._image = run or secrets.token_hex(4), wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=name,
            id=self.run,
            resume="allow",
            config=settings,
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, values: Numbers, pictures: Pictures) -> None:
        images = {key: self._image(picture) for key, picture in pictures.items()}
        self._run.log({**values, **images}, step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Mlflow:
    def __init__(self, name: str, run: str | None, settings: dict[str, Any]):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 of 120 s each would hold up the training
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        import mlflow

        self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
        if run:
            self._client.update_run(run, status="RUNNING")
        else:
            experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
            run = self._client.create_run(experiment.experiment_id, run_name=name).info.run_id
            parameters = [mlflow.entities.Param(key, str(value)) for key, value in settings.items()]
            self._client.log_batch(run, params=parameters)
        self.run = run

    def log(self, step: int, values: Numbers, pictures: Pictures) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self.run, metrics=metrics)
        for key, picture in pictures.items():
            self._client.log_image(self.run, picture, key=key, step=step)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


class _Trackio:
    def __init__(self, name: str, run: str | None, settings: dict[str, Any]):
        import trackio

        self.run, self._trackio = run or f"{name}-{secrets.token_hex(2)}", trackio  # it knows runs by name
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        trackio.init(project=project, name=self.run, resume="allow", config=settings, embed=False)

    def log(self, step: int, values: Numbers, pictures: Pictures) -> None:
        images = {key: self._trackio.Image(picture) for key, picture in pictures.items()}
        self._trackio.log({**values, **images}, step=step)

    def close(self, *, failed: bool) -> None:
        self._trackio.finish()


TRACKERS: dict[str, Callable[[str, str | None, dict[str, Any]], Tracker]] = {
    "mlflow": _Mlflow,
    "trackio": _Trackio,
    "wandb": _Wandb,
}


def names(track: str) -> list[str]:
    """The trackers in `config.track`, such as "mlflow,wandb"."""
    return list(dict.fromkeys(name.strip() for name in track.split(","))) if track.strip() else []


def check_installed(track: str) -> None:
    """Raises UserError if a tracker in `config.track` is not installed."""
    for name in names(track):
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, such as wandb's own, is no package
            raise UserError(f"config.track={track!r} needs {name}: pip install 'jaxunet[{name}]'.")


def kind_of(row: Numbers) -> str:
    """Whether a row of `metrics.jsonl` is of "training" or of a "validation"."""
    return "validation" if any(key.startswith("val/") for key in row) else "training"


class Trackers:
    """The trackers of one run. One that raises is dropped with a warning, and the training continues.

    `trackers.json` in the workdir holds each tracker's run and the last training and validation steps that it got.
    A process that resumes repeats some steps; it does not send them again.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        track: str,
        settings: dict[str, Any],
        rows: list[dict[str, float]],
        warn: Callable[[str], None],
    ):
        """Args:
        workdir: of the run; its name is the run's name.
        track: `config.track`.
        settings: "section.key" -> value.
        rows: of `metrics.jsonl`, all that earlier processes wrote.
        warn: prints a line.
        """
        self._warn, self._trackers = warn, dict[str, Tracker]()
        file = workdir / "trackers.json"
        try:
            known = json.loads(file.read_text()) if file.is_file() and rows else {}  # without rows, the run begins anew
            self._known = {name: {key: entry[key] for key in _ENTRY} for name, entry in known.items()}
            for entry in self._known.values():
                for row in rows:
                    entry[kind_of(row)] = max(entry[kind_of(row)], int(row["step"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{file} is damaged ({error!r}): remove it, and trackers start new runs.") from error
        for name in names(track):
            with self._dropping(name):
                entry = self._known.get(name, _ENTRY)
                self._trackers[name] = TRACKERS[name](workdir.absolute().name, entry["run"], settings)
                self._known[name] = entry | {"run": self._trackers[name].run}
        if self._known:
            write_atomically(file, json.dumps(self._known, indent=2) + "\n")

    def log(self, step: int, values: Numbers, pictures: Pictures) -> None:
        kind = kind_of(values)
        if kind == "validation":  # the row of training at this step has the epoch
            values = {key: value for key, value in values.items() if key != "epoch"}
        for name, tracker in list(self._trackers.items()):
            if step > self._known[name][kind]:
                with self._dropping(name):
                    tracker.log(step, values, pictures)

    def close(self, *, failed: bool) -> None:
        for name in list(self._trackers):
            with self._dropping(name):
                self._trackers.pop(name).close(failed=failed)

    @contextlib.contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if dropped := self._trackers.pop(name, None):
                with contextlib.suppress(Exception):
                    dropped.close(failed=True)
            reason = one_line(f"{type(error).__name__}: {error}")[:_LONGEST]
            self._warn(f"warning: {name} no longer tracks this run, and the training continues ({reason})")
