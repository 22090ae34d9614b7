"""Datasets: from an archive, or a seed, to a prepared TFDS dataset on disk. Importing this is instant.

Both datasets have the features `image` uint8 [256, 256, 1], `lung_mask` and `infection_mask` uint8 {0, 1}
[256, 256, 1], `label` (index into `CLASSES`) and `id`.
"""

import contextlib
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
from jaxunet.core.files import in_bucket, locate, write_atomically
from jaxunet.data import duplicates, verify
from jaxunet.data.archive import PARTS, Archive, find_archive

_ABANDONED_SECONDS = 3600.0


def data_root(dataset: ConfigDict) -> pathlib.Path:
    """Where prepared datasets live.

    Raises:
      UserError: for a bucket.
    """
    if in_bucket(dataset.data_dir):
        raise UserError(
            f"config.dataset.data_dir={dataset.data_dir} must be a local folder, as array_record reads no buckets: "
            f"only the archive can lie in one (config.dataset.source=gs://BUCKET/covidqu.zip)."
        )
    return pathlib.Path(dataset.data_dir or "~/tensorflow_datasets").expanduser().absolute()


def open_builder(dataset: ConfigDict, builder_config: str) -> Any:
    """The prepared TFDS builder; builds the dataset if it is not there yet, else reuses it.

    Args:
      dataset: the `dataset` section of the config.
      builder_config: "infection", "infection_all" or "lung".

    Raises:
      UserError: if the archive is missing, unusable, or another than the one that the dataset was built from.
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
    """Whatever goes wrong while the prepared dataset in `folder` is read becomes a UserError."""
    try:
        yield
    except (UserError, PermissionError, MemoryError):
        raise
    except Exception as error:  # of many kinds: what damaged files make TFDS, array_record and Pillow stumble over
        raise UserError(
            f"The prepared dataset in {folder} is damaged ({error}): delete that folder, and prepare it again."
        ) from error


def prepared(dataset: ConfigDict, builder_config: str) -> Any | None:
    """The TFDS builder if its dataset is on this machine already; builds nothing."""
    builder = _make_builder(dataset, builder_config)
    return builder if pathlib.Path(builder.data_dir).is_dir() else None


def _make_builder(dataset: ConfigDict, builder_config: str) -> Any:
    root = str(data_root(dataset))
    if dataset.name == "covid_qu_ex":
        from jaxunet.data.covid_qu_ex import CovidQuEx

        return CovidQuEx(config=builder_config, data_dir=root, source=dataset.source)
    from jaxunet.data.synthetic import SyntheticCxr, synthetic_config

    synthetic = dataset.synthetic
    config = synthetic_config(
        train=synthetic.train,
        val=synthetic.val,
        test=synthetic.test,
        seed=synthetic.seed,
        controls=builder_config == "infection_all",
    )
    return SyntheticCxr(config=config, data_dir=root, file_format="array_record")


def _build(builder: Any, dataset: ConfigDict, data_dir: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    start = time.perf_counter()
    _remove_abandoned_builds(data_dir)
    if dataset.name == "covid_qu_ex":
        archive = find_archive(dataset.source, data_root(dataset))
        report, _ = verify.verify(archive.path, builder.part)
        print(report.table())
        report.raise_if_unusable()
    print(f"Building {builder.info.full_name} in {data_dir}")
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()  # three nested bars; the builders show one
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download of unknown size
        builder.download_and_prepare(download_config=download)
    print(f"Built in {time.perf_counter() - start:.0f} s")


def verify_source(dataset: ConfigDict, out: pathlib.Path | None) -> int:
    """Prints the findings about every part that the archive has; writes `verify.json` and, where X-rays are in two
    splits, `duplicates_<part>.png` into `out`.

    Returns:
      The exit status: 1 if a part cannot be used.
    """
    if dataset.name != "covid_qu_ex":
        raise UserError(f"config.dataset.name={dataset.name!r} has no archive to verify: use 'covid_qu_ex'.")
    archive = find_archive(dataset.source, data_root(dataset))
    parts = [p for p in PARTS if archive.has_part(p)] or ["infection"]
    reports = [verify.verify(archive.path, part)[0] for part in parts]
    print("\n\n".join(report.table() for report in reports))
    if out:
        write_atomically(out / "verify.json", json.dumps([r.to_dict() for r in reports], indent=2) + "\n")
        print(f"Written to {out / 'verify.json'}")
        for report in reports:
            picture, path = duplicates.draw(archive, report), out / f"duplicates_{report.part}.png"
            path.unlink(missing_ok=True)  # of an earlier archive
            if picture:
                write_atomically(path, picture)
                print(f"The X-rays that are in two splits, side by side: {path}")
    return int(any(report.errors for report in reports))


def dropped_from_train(builder: Any) -> frozenset[str]:
    """Ids of training images identical to a validation or test image, as verification found them at the build."""
    return frozenset(verification(builder)["dropped_from_train"])


def near_in_train(builder: Any) -> frozenset[str]:
    """Ids of training images nearly identical to a validation or test image, likewise."""
    return frozenset(i for pair in verification(builder)["near"] for i in pair if i.startswith("Train/"))


def _check_same_archive(builder: Any, dataset: ConfigDict) -> None:
    """A dataset built from another archive than the one named now must not be used in its place."""
    if dataset.name != "covid_qu_ex" or not dataset.source:
        return
    source = locate(dataset.source)
    if not source.exists():
        return
    built_from = verification(builder)
    if Archive(source).fingerprint != built_from["fingerprint"]:
        raise UserError(
            f"{builder.data_dir} was built from another archive ({built_from['source']}) than {source}: "
            f"set config.dataset.data_dir to another folder, or delete that one to build it anew."
        )


def verification(builder: Any) -> dict[str, Any]:
    """What verification found when the dataset was built; of a synthetic one, nothing."""
    if builder.name == "synthetic_cxr":
        return {"dropped_from_train": [], "near": []}
    with reading(builder.data_dir):
        report = json.loads((pathlib.Path(builder.data_dir) / "verify.json").read_text())
        if not all(isinstance(report[key], str) for key in ("fingerprint", "source")):
            raise TypeError("verify.json is not what was written")
        if not all(isinstance(i, str) for i in [*report["dropped_from_train"], *itertools.chain(*report["near"])]):
            raise TypeError("verify.json is not what was written")
        return report


def _remove_abandoned_builds(data_dir: pathlib.Path) -> None:
    """Temporary folders of builds that were killed; a build in progress writes to its own more often than hourly."""
    for path in data_dir.parent.glob(f"incomplete.*{data_dir.name}*"):
        if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
