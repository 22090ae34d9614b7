"""A PACS for tests: Debian's Orthanc with its DICOMweb plugin, on a free port of this machine, with a password."""

import base64
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest

AUTHORIZATION = f"Basic {base64.b64encode(b'test:secret').decode()}"
_PLUGIN = pathlib.Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@contextlib.contextmanager
def orthanc(folder: pathlib.Path) -> Iterator[str]:
    """Yields the address of its DICOMweb service. `folder` is for its files."""
    if not (shutil.which("Orthanc") and _PLUGIN.exists()):
        pytest.skip("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"test": "secret"},
        "StorageDirectory": str(folder / "pacs"),
        "IndexDirectory": str(folder / "pacs"),
        "Plugins": [str(_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}/dicom-web"
        for _ in range(100):
            with contextlib.suppress(OSError):
                call(f"{address}/studies")
                break
            assert process.poll() is None, (folder / "orthanc.log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def call(address: str, data: bytes | None = None, method: str | None = None) -> bytes:
    """The answer to GET, or to POST of `data`, or another method."""
    request = urllib.request.Request(address, data, {"Authorization": AUTHORIZATION}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()
