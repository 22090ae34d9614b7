"""X-rays on a DICOMweb server, with dicomweb-client (`pip install 'jaxunet[pacs]'`): listed, read, and results stored.

The environment variables DICOMWEB_INPUT_AUTHORIZATION and DICOMWEB_OUTPUT_AUTHORIZATION have the Authorization headers.
"""

import contextlib
import functools
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxunet.core.errors import UserError

_UID = r"([\d.]+)"
_STUDY = re.compile(rf"(https?://[^@?#\s]+?)/studies/{_UID}(?:/series/{_UID}(?:/instances/{_UID})?)?/?")
_SERVER = re.compile(r"(https?://[^@?#\s]+?)/?")
_NO_PICTURES = ("SEG", "SR", "PR", "KO", "DOC")  # modalities
_SERIES_UID, _IMAGE_UID, _MODALITY = "0020000E", "00080018", "00080060"
_SECONDS = 60  # without an answer
_UNDIVIDED = 2**30  # bytes; larger requests are sent in chunks, which some servers refuse


def is_address(place: str) -> bool:
    """Whether `place` is the address of a server, not a path."""
    return place.startswith(("http://", "https://"))


def listed(address: str) -> Iterator[tuple[str, Callable[[], bytes] | None]]:
    """The instances at an address: "SERIES/IMAGE.dcm", and what reads it; None where it is no picture.

    The address is as in WADO-RS, http(s)://SERVER/PATH/studies/UID, maybe with /series/UID and /instances/UID.
    Raises UserError if it has another form, the server cannot be reached or refuses, or dicomweb-client is not
    installed.
    """
    if (parts := _STUDY.fullmatch(address)) is None:
        raise UserError(
            "--input must be http(s)://SERVER/PATH/studies/UID, maybe with /series/UID and /instances/UID, and have no "
            "password in it: DICOMWEB_INPUT_AUTHORIZATION has the Authorization header."
        )
    server, study, series, image = parts.groups()
    client = _client(server, "INPUT")
    with _explained(server, "INPUT"):
        found = client.search_for_instances(
            study, series, search_filters={"SOPInstanceUID": image} if image else {}, get_remaining=True
        )
        uids = [(_value(x, _SERIES_UID) or series, _value(x, _IMAGE_UID), _value(x, _MODALITY)) for x in found]
    for in_series, uid, modality in sorted(uids):
        get = None if modality in _NO_PICTURES else functools.partial(_read, client, server, study, in_series, uid)
        yield f"{in_series}/{uid}.dcm", get


def _value(entry: dict[str, Any], tag: str) -> str:
    return str(next(iter(entry.get(tag, {}).get("Value", [])), ""))


def _read(client: Any, server: str, study: str, series: str, image: str) -> bytes:
    data = io.BytesIO()
    with _explained(server, "INPUT"):
        client.retrieve_instance(study, series, image).save_as(data, enforce_file_format=True)
    return data.getvalue()


def store(address: str, files: Iterable[bytes]) -> None:
    """Sends DICOM files to a server: http(s)://SERVER/PATH, or the address of a study.

    Raises UserError if the address has another form, or the server does not take all of them.
    """
    client = _client(output_server(address), "OUTPUT")
    import pydicom

    with _explained(address, "OUTPUT"):
        answer = client.store_instances([pydicom.dcmread(io.BytesIO(file)) for file in files])
        if answer.get("FailedSOPSequence"):
            raise ValueError(f"failure {answer.FailedSOPSequence[0].get('FailureReason')}")


def output_server(address: str) -> str:
    """The server part of an output address. Raises UserError if it is none."""
    if (parts := _STUDY.fullmatch(address) or _SERVER.fullmatch(address)) is None:
        raise UserError(
            "--output must be http(s)://SERVER/PATH and have no password in it: DICOMWEB_OUTPUT_AUTHORIZATION has the "
            "Authorization header."
        )
    return parts[1]


def _client(server: str, use: str) -> Any:
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise UserError("DICOMweb addresses need dicomweb-client: pip install 'jaxunet[pacs]'.") from error
    said = os.environ.get(f"DICOMWEB_{use}_AUTHORIZATION")
    headers = {"Authorization": said} if said else None
    client = DICOMwebClient(server, headers=headers, chunk_size=_UNDIVIDED, timeout=_SECONDS)
    client.set_http_retry_params(max_attempts=3, wait_exponential_multiplier=250)
    return client


@contextlib.contextmanager
def _explained(server: str, use: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of requests, retrying, pydicom and dicomweb-client
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = f": set DICOMWEB_{use}_AUTHORIZATION" if status in (401, 403) else ""
        raise UserError(f"{server} failed ({' '.join(str(error).split())[:160]}){hint}.") from error
