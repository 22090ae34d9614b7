"""Where runs and data lie: in local folders, or in a bucket of Google Cloud Storage (`gs://bucket/folder`)."""

import contextlib
import os
import pathlib

from jaxunet.errors import UserError


def locate(place: str) -> pathlib.Path:
    """The folder or file `place`, which need not exist; one in a bucket is an `epath.Path`, with the same methods.

    Raises:
      UserError: for gs:// without the extra `gcs`, without credentials, or without the bucket.
    """
    if not place.startswith("gs://"):
        if "://" in place:
            raise UserError(f"{place} is neither a local path nor gs://BUCKET/PATH: nothing else can be used.")
        return pathlib.Path(place).expanduser()
    # What is said of a folder must be true now, not when it was last listed: TensorStore and other hosts write, too.
    os.environ.setdefault("EPATH_USE_TF", "false")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # another protocol, for buckets of other kinds
    try:
        import fsspec
        import gcsfs  # noqa: F401
        from etils import epath
        from google.api_core import exceptions
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.cloud import storage
    except ImportError as error:
        raise UserError(f"{place} needs gcsfs: install jaxunet with the extra gcs (pip install '.[gcs]').") from error
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    bucket = place.removeprefix("gs://").partition("/")[0]
    try:
        with contextlib.closing(storage.Client()) as client:
            client.get_bucket(bucket)  # Orbax asks the same
    except DefaultCredentialsError as error:
        raise UserError(
            f"There are no credentials for {place}: run `gcloud auth application-default login`, or let "
            f"GOOGLE_APPLICATION_CREDENTIALS name a key file."
        ) from error
    except exceptions.NotFound as error:
        raise UserError(f"{place}: there is no bucket {bucket!r}: create it, or correct its name.") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, OSError, ValueError) as error:
        raise UserError(
            f"{place} cannot be used ({' '.join(str(error).split())[:200]}): the credentials need "
            f"storage.buckets.get, and for its objects get, list, create and delete."
        ) from error
    return epath.Path(place)


def in_bucket(path: str | pathlib.Path) -> bool:
    """Whether `path` is one of those that begin with gs://."""
    return str(path).startswith("gs://")
