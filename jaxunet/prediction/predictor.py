"""A trained network that predicts X-rays of any size. loading.py builds it; predict, serve and export use it."""

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, overload

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import batches
from jaxunet.data.examples import RawBatch
from jaxunet.data.specs import image_size, masks_of, spec_of
from jaxunet.data.targets import COVID19, Target, answers_covid19, mask_targets
from jaxunet.devices import replicas
from jaxunet.models.averaging import Ensemble
from jaxunet.models.build import Forward, predict_step
from jaxunet.prediction.prediction import Prediction
from jaxunet.scoring import split_pass
from jaxunet.scoring.counts import sigmoid
from jaxunet.scoring.detection import Rule
from jaxunet.xrays import letterbox
from jaxunet.xrays.files import names_of
from jaxunet.xrays.pixels import Xray
from jaxunet.xrays.read import Source, read_xray


@dataclasses.dataclass(frozen=True)
class Fitted:
    """An X-ray scaled to the network: `square` uint8 [S, S], and `place`, where the X-ray lies in the square."""

    name: str
    xray: Xray
    square: np.ndarray
    place: letterbox.Placement


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictor:
    """A trained network with the settings it was trained with.

    Attributes:
      config: the run's config.
      step: training step of the checkpoint.
      best_step: step of the run's best checkpoint in validation; None if there is none.
      model: the network; one of averaging.py for an ensemble or with `config.eval.flips`.
      variables: its weights and running statistics (their averages if the run kept them).
      origin: where it was loaded from, in words.
      rule: when an image counts as COVID-19.
    """

    config: ConfigDict
    step: int
    best_step: int | None
    model: Forward
    variables: Any
    origin: str
    rule: Rule = Rule.not_chosen(answers=False)

    @property
    def records(self) -> dict[str, Target]:
        """Name -> record of each of `targets`."""
        return masks_of(self.config.dataset)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the masks, the last axis of `outputs(...)["masks"]`, such as ("infection", "lung")."""
        return mask_targets(self.config.dataset.targets)

    @property
    def answers_covid19(self) -> bool:
        """Whether the network also gives a probability of COVID-19 for the whole image."""
        return answers_covid19(self.config.dataset.targets)

    @property
    def image_size(self) -> int:
        """Pixels per side of the square images that the network takes."""
        return image_size(self.config.dataset)

    @property
    def gate(self) -> bool:
        """Whether the infection mask is blank in an X-ray that is not called COVID-19."""
        return self.answers_covid19 and self.config.eval.gate

    @property
    def checked(self) -> bool:
        """Whether pictures that are no frontal chest X-ray get no severity and no answer; see `frontal.refusal`."""
        return spec_of(self.config.dataset).frontal

    @property
    def threshold(self) -> float:
        """A pixel is positive if its probability exceeds this; see `counts.positive`."""
        return self.config.eval.threshold

    @functools.cached_property
    def weights_crc32(self) -> str:
        """Tells these weights from others, 8 hexadecimal digits."""
        crc = 0
        for leaf in jax.tree.leaves(self.variables):
            crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
        return f"{crc:08x}"

    def __repr__(self) -> str:
        return f"<Predictor: {self.in_words}>"

    @property
    def in_words(self) -> str:
        """What it predicts and where it was loaded from. `--mode=predict` and `--mode=serve` print it."""
        where = self.origin if isinstance(self.model, Ensemble) else f"step {self.step} of {self.origin}"
        return (
            f"{' and '.join(self.targets)} from {where}, {self.image_size} pixels per side, threshold {self.threshold}"
        )

    @property
    def rule_in_words(self) -> str:
        """When an image counts as COVID-19, and who chose that. `--mode=predict` and `--mode=serve` print it."""
        return f"{self.rule} ({self.rule.source})"

    @overload
    def predict(self, xray: Source, *, name: str | None = None) -> Prediction: ...

    @overload
    def predict(self, xray: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    def predict(
        self, xray: Source | list[Any] | tuple[Any, ...], *, name: str | None = None
    ) -> Prediction | list[Prediction]:
        """Predicts one X-ray, or several in batches of at most `config.eval.batch_size`.

        Args:
          xray: a path, the bytes of a file, a NumPy array [H, W] or an `Xray`, of any size; or a list or tuple of them.
          name: of the prediction of one X-ray, such as "patient7.png". None takes the file's name, or "xray.png".

        Returns:
          The prediction; for a list, the list of predictions in the same order.

        Raises:
          UserError: if an X-ray cannot be used (the sentence names its path, or its index in the list), or if `name` is
            given for a list.
        """
        several = isinstance(xray, list | tuple)
        sources: list[Any] = list(xray) if isinstance(xray, list | tuple) else [xray]
        if name is not None and several:
            raise UserError(f"name={name!r} names one X-ray, but a list was given: predict its X-rays one by one.")
        names = names_of(sources) if name is None else [name]
        size, found = self.batch_size(len(sources)), []

        def read(i: int) -> Xray:
            try:
                return read_xray(sources[i], keep_patient=self.config.predict.keep_patient)
            except UserError as error:
                if not several or isinstance(sources[i], str | os.PathLike):
                    raise
                raise UserError(f"Element {i} of the list: {error}") from error

        for start in range(0, len(sources), size):
            part = range(start, min(start + size, len(sources)))
            found += self.predict_fitted([self.fit(names[i], read(i)) for i in part], batch_size=size)
        return found if several else found[0]

    def fit(self, name: str, xray: Xray) -> Fitted:
        """Scales an X-ray to `image_size`. `name`: the name of its prediction."""
        square, place = letterbox.fit(xray.pixels, self.image_size, xray.aspect)
        return Fitted(name, xray, square, place)

    def predict_fitted(self, xrays: Sequence[Fitted], *, batch_size: int) -> list[Prediction]:
        """The predictions of X-rays from `fit`, in the same order. Each `batch_size` is compiled once."""
        if not xrays:
            return []
        found = self.outputs(np.stack([x.square for x in xrays]), batch_size)
        answers = sigmoid(found[COVID19].astype(np.float64)).tolist() if COVID19 in found else [None] * len(xrays)
        return [
            Prediction(
                *(x.name, x.xray, x.place, logits, self.records, answer),
                threshold=self.threshold,
                rule=self.rule,
                gate=self.gate,
                checked=self.checked,
                weights=self.weights_crc32,
                report=self.config.predict.report,
            )
            for x, logits, answer in zip(xrays, found["masks"], answers, strict=True)
        ]

    def batch_size(self, images: int) -> int:
        """The batch size for a number of images: at most `config.eval.batch_size`, and a power of 2 per device, so that
        few programs are compiled."""
        size = jax.device_count()
        while size < images:
            size *= 2
        return min(size, self.config.eval.batch_size)

    def outputs(self, images: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """Predicts in batches over all devices. Each batch size is compiled once.

        Args:
          images: uint8 [N, S, S] in [0, 255]; S is `image_size`.
          batch_size: None for `config.eval.batch_size`.

        Returns:
          The logits, `masks` float32 [N, S, S, C] with one channel per target, and if `answers_covid19`, `covid19`
          float32 [N].
        """
        if not len(images):  # a process may have no share of a few images
            answer = {COVID19: np.empty(0, np.float32)} if self.answers_covid19 else {}
            return {"masks": np.empty((*images.shape, len(self.targets)), np.float32), **answer}
        batch_size = batch_size or self.config.eval.batch_size
        return split_pass.map_split(self._compiled, self.variables, {"image": images}, batch_size)

    @functools.cached_property
    def _compiled(self) -> Callable[[Any, RawBatch], dict[str, Array]]:
        def outputs(variables: Any, raw: RawBatch) -> dict[str, Array]:
            return predict_step(variables, batches.decode_image(raw), model=self.model)

        return replicas.map_eval_step(outputs)
