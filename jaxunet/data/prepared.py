"""Prepared TFDS datasets on disk, built from an archive or a seed. This module imports TFDS late, as that is slow.

Every dataset has the features `image` uint8 [S, S, 1], `<mask>_mask` uint8 {0, 1} [S, S, 1] for each of its masks,
`label` (index into the classes of its spec) and `id`.
"""

import contextlib
import importlib
import io
import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket, local_path, locate
from jaxunet.data import verify
from jaxunet.data.archive import Archive, find_archive
from jaxunet.data.specs import spec_of

_ABANDONED_SECONDS = 3600.0


def data_root(dataset: ConfigDict) -> pathlib.Path:
    """The local folder of all prepared datasets. Raises UserError for a bucket, and if there is no home folder."""
    if in_bucket(dataset.data_dir):
        raise UserError(
            f"config.dataset.data_dir={dataset.data_dir} must be a local folder, because array_record cannot read "
            f"buckets. Only the archive can be in one: config.dataset.source=gs://BUCKET/covidqu.zip."
        )
    try:
        return local_path(dataset.data_dir or "~/tensorflow_datasets").absolute()
    except UserError as error:
        raise UserError("There is no home folder: name a folder with config.dataset.data_dir.") from error


def open_builder(dataset: ConfigDict, builder_config: str) -> Any:
    """The TFDS builder of `config.dataset`, with a subset as its builder config. Builds the dataset if it is missing.

    Raises UserError if the archive is missing or unusable, or if the dataset was built from another archive.
    """
    from jaxunet.devices import processes  # late: it imports JAX

    with processes.first_then_others():
        with reading(data_root(dataset) / dataset.name):
            builder = _make_builder(dataset, builder_config)
        data_dir = pathlib.Path(builder.data_dir)
        if data_dir.is_dir():
            _check_same_archive(builder, dataset)
            return builder
        try:
            _build(builder, dataset, data_dir)
        except OSError:
            if not data_dir.is_dir():
                raise
            return _make_builder(dataset, builder_config)  # another process was faster
    return builder


@contextlib.contextmanager
def reading(folder: pathlib.Path | str) -> Iterator[None]:
    """Turns errors from reading the prepared dataset in `folder` into a UserError."""
    try:
        yield
    except (UserError, PermissionError, MemoryError):
        raise
    except Exception as error:  # damaged files raise many kinds of errors in TFDS, array_record and Pillow
        raise UserError(
            f"The prepared dataset in {folder} is damaged ({error}): delete that folder, and prepare the dataset again."
        ) from error


def prepared(dataset: ConfigDict, builder_config: str) -> Any | None:
    """The TFDS builder of a dataset that is already prepared, else None. Builds nothing."""
    if spec_of(dataset).folder and not (dataset.source and local_path(dataset.source).is_dir()):
        return None
    builder = _make_builder(dataset, builder_config)
    return builder if pathlib.Path(builder.data_dir).is_dir() else None


def _make_builder(dataset: ConfigDict, builder_config: str) -> Any:
    module = importlib.import_module(spec_of(dataset).builder)  # late: it imports TFDS
    return module.make_builder(dataset, builder_config, data_root(dataset))


def _build(builder: Any, dataset: ConfigDict, data_dir: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    start = time.perf_counter()
    _remove_abandoned_builds(data_dir)
    if builder.spec.archive:
        part = builder.spec.subsets[builder.builder_config.name].part
        report, _ = verify.verify(archive_of(dataset).path, builder.spec, part)
        print(report.table(builder.spec.layout.parts[part]))
        report.raise_if_unusable()
    print(f"Building {builder.info.full_name} in {data_dir}")
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()  # three nested bars; the builders show one
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download of unknown size
        builder.download_and_prepare(download_config=download)
    print(f"Built in {time.perf_counter() - start:.0f} s")


def archive_of(dataset: ConfigDict) -> Archive:
    """The archive that the dataset is built from. Raises UserError if it has none, or none was found."""
    return find_archive(spec_of(dataset), dataset.source, data_root(dataset))


def dropped_from_train(builder: Any) -> frozenset[str]:
    """Ids of training images identical to a validation or test image, as the build found them."""
    return frozenset(verification(builder)["dropped_from_train"])


def near_in_train(builder: Any) -> frozenset[str]:
    """Ids of training images nearly identical to a validation or test image, as verification found them."""
    found = verification(builder)
    if builder.spec.folder:
        return frozenset(found["near_in_train"])
    return frozenset(i for pair in found["near"] for i in pair if builder.spec.in_train(i))


def number(builder: Any, split: str) -> int:
    """The number of images in a split."""
    return len(builder.in_split(split)) if builder.spec.folder else builder.info.splits[split].num_examples


def _check_same_archive(builder: Any, dataset: ConfigDict) -> None:
    """Raises UserError if the dataset was built from another archive than `dataset.source`."""
    if not builder.spec.archive or not dataset.source:
        return
    source = locate(dataset.source)
    if not source.exists():
        return
    built_from, archive = verification(builder), Archive(source, builder.spec)
    part = builder.spec.subsets[builder.builder_config.name].part
    same = archive.fingerprint == built_from["fingerprint"]
    if same and (contents := built_from.get("contents")):  # of older versions there are names and sizes alone
        unchanged = built_from["source"] == str(source) and built_from["modified"] not in ("", None)
        same = (unchanged and archive.modified(part) == built_from["modified"]) or archive.contents(part) == contents
    if not same:
        raise UserError(
            f"{builder.data_dir} was built from another archive ({built_from['source']}) than {source}: "
            f"set config.dataset.data_dir to another folder, or delete {builder.data_dir} to build it again."
        )


def verification(builder: Any) -> dict[str, Any]:
    """What verification found when the dataset was built; empty lists for a dataset that is drawn."""
    if builder.spec.folder:
        with reading(builder.data_dir):
            return dict(builder.verification())
    if not builder.spec.archive:
        return {"dropped_from_train": [], "near": []}
    with reading(builder.data_dir):
        report = json.loads((pathlib.Path(builder.data_dir) / "verify.json").read_text())
        ids = (*report["dropped_from_train"], *itertools.chain(*report["near"]))
        if not all(isinstance(text, str) for text in (report["fingerprint"], report["source"], *ids)):
            raise TypeError("verify.json does not hold what the build wrote")
        return report


def _remove_abandoned_builds(data_dir: pathlib.Path) -> None:
    """Removes temporary folders of killed builds. A running build writes to its folder more often than hourly."""
    for path in data_dir.parent.glob(f"incomplete.*{data_dir.name}*"):
        if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
