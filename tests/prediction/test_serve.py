"""The page of --mode=serve: it shows the numbers of --mode=predict, contacts no other server and keeps nothing."""

import base64
import contextlib
import csv
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import waitress
from ml_collections import ConfigDict
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.prediction import connections, folder, loading, page, predictor, serve, web_guard
from jaxunet.runs import config_file
from jaxunet.scoring.detection import Rule
from jaxunet.xrays.read import read_xray
from tests.support.browser import chromium, opened, wait_for
from tests.support.xrays import SECRETS, Threshold, bomb, decoded, dicom, encoded, picture

ROOT = pathlib.Path(__file__).parents[2]
RULE = Rule("lung", 0.1)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
OURS = {web_guard.SENT_BY: "1"}


def ruled(config: ConfigDict) -> Threshold:
    network = Threshold(config)
    object.__setattr__(network, "rule", RULE)
    return network


@pytest.fixture
def client(config):
    return serve.make_app(ruled(config), host="127.0.0.1").test_client()


@pytest.fixture(scope="module")
def threshold(finished) -> float:
    """A threshold at which the network of six steps marks about half of an X-ray."""
    network = loading.load(config_file.load(finished), finished, checkpoint="latest")
    return float(1 / (1 + np.exp(-np.median(network.outputs(xray_of(0)[None])["masks"]))))


def xray_of(index: int) -> np.ndarray:
    return draw_chest_xray(0, index, "test", "COVID-19")[0]


# ---- one X-ray -------------------------------------------------------------------------------------------------------


def test_numbers_and_masks_are_those_of_predict(finished, threshold, tmp_path):
    """A PNG of another shape than the network's, and a DICOM file with pixel sizes."""
    config = config_file.load(finished)
    config.eval.threshold = threshold
    large = Image.fromarray(xray_of(1)).resize((300, 410))
    files = {"a.png": encoded(np.asarray(large)), "b.dcm": dicom(xray_of(2), PixelSpacing=[0.5, 0.4])}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    network = loading.load(config, finished, checkpoint="latest")
    assert folder.predict(network, str(tmp_path), tmp_path / "out", probabilities=False) == 0
    rows = json.loads((tmp_path / "out/predictions.json").read_text())["images"]

    app = serve.make_app(network, host="127.0.0.1").test_client()
    for row, (name, data) in zip(rows, files.items(), strict=True):
        found = app.post("/predict", data=data, headers=OURS).get_json()
        assert {k: v for k, v in row.items() if k not in ("input", "error")} == found["row"]
        expected = Image.open(tmp_path / f"out/masks/{name.removesuffix('.png')}_infection.png")
        np.testing.assert_array_equal(decoded(found["masks"]["infection"]), expected)
        assert 0.1 < np.asarray(expected).mean() / 255 < 0.9


def test_pictures_are_the_overlay_in_its_parts(client):
    found = client.post("/predict", data=encoded(picture()), headers=OURS).get_json()
    assert found["row"]["severity_percent"] == 12.5
    assert found["row"]["covid19_detected"] is True
    np.testing.assert_array_equal(decoded(found["xray"]), picture())
    infection, lung = decoded(found["layers"]["infection"]), decoded(found["layers"]["lung"])
    np.testing.assert_array_equal(infection > 0, picture() > 200)
    assert (infection[8, 10], infection[20, 10], infection[8, 20], lung[8, 20]) == (2, 1, 0, 2)


def test_dicom_is_turned_the_right_way_and_says_nothing_of_the_patient(client):
    values = (255 - picture()).astype(np.uint16) * 16
    window = {"WindowCenter": 2040.5, "WindowWidth": 4081, "PhotometricInterpretation": "MONOCHROME1"}
    answer = client.post("/predict", data=dicom(values, PatientOrientation=["R", "F"], **window), headers=OURS)
    found = answer.get_json()
    np.testing.assert_array_equal(decoded(found["masks"]["infection"]) > 0, picture() > 200)
    assert found["mirrored"] is True
    assert found["row"]["severity_left_percent"] == 25
    assert not any(secret in answer.data + str(answer.headers).encode() for secret in SECRETS)


@pytest.mark.parametrize(
    "data", [b"", b"some text", encoded(picture())[:90], bomb(30000, 30000), b"\0" * 128 + b"DICM"]
)
def test_what_is_no_xray_is_answered_with_the_readers_sentence(client, data):
    with pytest.raises(UserError) as caught:
        read_xray(data)
    answer = client.post("/predict", data=data, headers=OURS)
    assert (answer.status_code, answer.get_json()) == (400, {"error": str(caught.value)})
    assert client.post("/predict", data=encoded(picture()), headers=OURS).status_code == 200


def test_unexpected_errors_do_not_quote_the_file(client, monkeypatch, capfd):
    def fail(data: bytes, **_: object) -> None:
        raise ValueError(f"read {data}")

    monkeypatch.setattr(predictor, "read_xray", fail)
    answer = client.post("/predict", data=b"SECRET42", headers=OURS)
    assert (answer.status_code, answer.get_json()) == (500, {"error": "the server failed (ValueError)."})
    said = "".join(capfd.readouterr())
    assert re.fullmatch(r"error: ValueError in .*:\d+\n", said)


# ---- who may ask, and how much ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["by its header", "by what is read"])
def test_too_large(read, config, monkeypatch):
    monkeypatch.setattr(page, "MAX_BYTES", 2**20)
    app = serve.make_app(ruled(config), host="127.0.0.1")
    for extra, status in ((0, 400), (1, 413)):
        body = {"input_stream": io.BytesIO(b"x" * (2**20 + extra))}
        if read == "by its header":
            body["content_length"] = 2**20 + extra
        else:  # as waitress passes on a request in chunks
            body["environ_overrides"] = {"wsgi.input_terminated": True}
        answer = app.test_client().post("/predict", headers=OURS, **body)
        assert answer.status_code == status
    assert answer.get_json() == {"error": "the file has more than 1 MiB."}


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405])
def test_headers_of_every_answer(status, client):
    answer = {
        200: lambda: client.get("/"),
        400: lambda: client.post("/predict", data=b"text", headers=OURS),
        403: lambda: client.post("/predict", data=b"text"),
        404: lambda: client.get("/../etc/passwd"),
        405: lambda: client.get("/predict"),
    }[status]()
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.TEMPLATE.read_text(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"


@pytest.mark.parametrize(
    ("host", "headers", "allowed"),
    [
        ("127.0.0.1", {"Host": "localhost:9000"}, True),  # through a tunnel
        ("127.0.0.1", {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"}, True),
        ("127.0.0.1", {"Host": "[::1]:8080"}, True),
        ("127.0.0.1", {"Host": "evil.example:8080"}, False),
        ("127.0.0.1", {"Host": "127.0.0.1.evil.example"}, False),
        ("127.0.0.1", {"Host": "192.168.0.9:8080"}, False),
        ("127.0.0.1", {"Host": "[::1"}, False),
        ("127.0.0.1", {"Host": "localhost:x"}, False),
        ("127.0.0.1", {"Host": "localhost", "Origin": "http://[::1"}, False),
        ("127.0.0.1", {"Host": "localhost", "Origin": "http://evil.example"}, False),
        ("127.0.0.1", {"Host": "localhost", "Origin": "null"}, False),
        ("127.0.0.1", {"Host": "localhost:8080", "Origin": "http://localhost:9000"}, False),
        ("127.0.0.1", {"Host": "localhost", web_guard.SENT_BY: ""}, False),
        ("Ward.example", {"Host": "ward.example:80"}, True),
        ("0.0.0.0", {"Host": "192.168.0.9:8080"}, True),
        ("0.0.0.0", {"Host": "evil.example"}, False),
    ],
)
def test_other_sites_cannot_use_it(host, headers, allowed, config):
    address = host if host == "0.0.0.0" else "127.0.0.1"
    app = serve.make_app(ruled(config), host=host, address=address).test_client()
    answer = app.post("/predict", data=encoded(picture()), headers=OURS | headers)
    assert answer.status_code == (200 if allowed else 403)
    if headers["Host"] != "localhost" and not allowed and "Origin" not in headers:
        assert app.get("/", headers=headers).status_code == app.get("/network", headers=headers).status_code == 403


def test_page_needs_nothing_else():
    text = page.TEMPLATE.read_text()
    assert text.isascii()
    assert "http" not in text
    assert "innerHTML" not in text
    assert "Research only, not for clinical use" in text


# ---- starting and ending ---------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_sentence(config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^--host=127.0.0.1 --port={port} cannot be used \(Address already in use"
        ):
            serve.serve(ruled(config), host="127.0.0.1", port=port)
    with pytest.raises(UserError, match="no such host"):
        serve.serve(ruled(config), host="no.such.host.invalid", port=0)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "waitress", None)
    monkeypatch.delitem(sys.modules, "jaxunet.prediction.serve")
    with pytest.raises(UserError, match=r"pip install 'jaxunet\[serve\]'"):
        import jaxunet.prediction.serve  # noqa: F401


@pytest.mark.parametrize(("host", "everyone"), [("127.0.0.1", False), ("0.0.0.0", True), ("0", True)])
def test_ctrl_c_ends_it_and_a_host_for_all_warns(host, everyone, config, monkeypatch, capfd):
    network, statuses, create_server = Threshold(config), [], waitress.create_server

    def end(status: int) -> None:
        statuses.append(status)
        raise KeyboardInterrupt  # instead of ending this process

    def ask_and_press_ctrl_c(port: int) -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as asking:
                asking.sendall(b"GET / HTTP/1.0\r\nHost: 192.168.0.9\r\n\r\n")
                statuses.append(int(asking.makefile("rb").read().split()[1]))  # to the end: the server closed
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def create_pressed(app: Any, **options: Any) -> Any:
        server = create_server(app, **options)
        (listener,) = options["sockets"]
        thread = threading.Thread(target=ask_and_press_ctrl_c, args=(listener.getsockname()[1],))
        run = server.run
        server.run = lambda: (thread.start(), run(), thread.join())
        return server

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(waitress, "create_server", create_pressed)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        serve.serve(network, host=host, port=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert statuses == [200 if everyone else 403, 0]
    assert len(network.seen) == 1  # compiled before "Ready"
    said = capfd.readouterr()
    assert f"Ready: http://{host}:" in said.out
    assert said.err.count("\n") == said.err.count("unencrypted") == everyone


@contextlib.contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, **limits: float) -> Iterator[tuple[int, list[int]]]:
    """A server with these limits; yields its port, and how many bytes of uploads it held at its answers."""
    held: list[int] = []

    def app(environ: Any, start: Any) -> list[bytes]:
        held.append(sum(c._bytes for c in server.active_channels.values() if c.request is not None or c.requests))
        start("200 OK", [])
        return [b"%d" % len(environ["wsgi.input"].read())]

    for name, limit in limits.items():
        monkeypatch.setattr(connections, name, limit)
    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=1, **connections.OPTIONS)
    server.channel_class = connections.Connection
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.effective_port, held
    finally:
        server.trigger.pull_trigger(lambda: server.asyncore.close_all(server._map))  # ends the loop
        thread.join()


def test_uploads_fit_in_memory_together(monkeypatch):
    size, limit = 2**20, 3 * 2**20
    with answering(monkeypatch, MOST_HELD=limit) as (port, held), ThreadPoolExecutor(20) as pool:

        def upload(_: int) -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            with contextlib.closing(connection):
                connection.request("POST", "/", b"x" * size)
                return connection.getresponse().read()

        assert list(pool.map(upload, range(20))) == [b"%d" % size] * 20
    assert size < max(held) < limit + size + 20 * connections.OPTIONS["recv_bytes"]


@pytest.mark.parametrize("sent", [b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nx"])
def test_a_request_that_comes_in_too_slowly_is_dropped(sent, monkeypatch):
    with (
        answering(monkeypatch, _PATIENCE=0.5) as (port, held),
        socket.create_connection(("127.0.0.1", port), timeout=20) as slow,
    ):
        begun = time.monotonic()
        slow.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while not select.select([slow], [], [], 0.05)[0] and time.monotonic() - begun < 10:
                slow.sendall(b"x")
            assert slow.recv(1) == b""
        assert 0.4 < time.monotonic() - begun < 10
        assert not held


# ---- the program, in a browser ---------------------------------------------------------------------------------------

# Says what is opened for writing, as an audit hook is told of it, temporary files included.
WATCHED = """
import os, runpy, sys
def watch(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(2, f"WRITES {args[0]}\\n".encode())
sys.addaudithook(watch)
sys.argv = ["launch.py", *sys.argv[1:]]
runpy.run_path("launch.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def server(finished, threshold, tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Starts the program and yields its address; `said()` is what it printed to stderr after "Ready"."""
    log = tmp_path_factory.mktemp("serve") / "stderr"
    command = [sys.executable, "-c", WATCHED, "--mode=serve", f"--workdir={finished}", "--port=0"]
    command += [f"--config.eval.threshold={threshold}"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, cwd=ROOT, env=environment)
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("Ready: http://127.0.0.1:"), log.read_text()
        before = len(log.read_text())
        yield {"url": lines[2].split()[1], "process": process, "said": lambda: log.read_text()[before:]}
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(downloads, silent=False) as chrome:  # refused requests are tried, too
        chrome.downloads = downloads
        yield opened(chrome, server["url"])


def ask(url: str, data: bytes) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/predict", data, OURS)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def red_pixels(browser: Any, image: np.ndarray) -> float:
    """The share of red pixels in the picture. The other pixels must be the X-ray, enlarged four times."""
    script = "return document.getElementById('picture').toDataURL().split(',')[1]"
    shown = decoded(browser.execute_script(script))[..., :3].astype(int)
    assert shown.shape == (1024, 1024, 3)
    red = shown[..., 0] - shown[..., 1] > 15
    expected = np.kron(image.astype(int), np.ones((4, 4), int))
    assert np.abs(shown[..., 0] - expected)[~red].mean() < 5
    return red.mean()


def pick(browser: Any, path: pathlib.Path) -> None:
    find(browser, "#file").send_keys(str(path))
    wait_for(lambda: browser.execute_script("return running === null"))


def test_idle_and_slow_connections_keep_nobody_out(server):
    """100 of each kind, and then 50 uploads at once, each of which gets its own answer."""
    address = server["url"].removeprefix("http://").split(":")
    beginnings = [b"", b"POST /predict HTTP/1.1\r\nX-", b"POST /predict HTTP/1.1\r\nContent-Length: 60000000\r\n\r\nx"]
    xrays = [encoded(xray_of(i)) for i in range(10)]
    with contextlib.ExitStack() as stack:
        for beginning in 100 * beginnings:
            stack.enter_context(socket.create_connection(address, timeout=20)).sendall(beginning)
        begun = time.monotonic()
        alone = [ask(server["url"], data) for data in xrays]
        assert time.monotonic() - begun < 5
        assert len({json.dumps(answer) for _, answer in alone}) == len(xrays)
        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(lambda data: ask(server["url"], data), 5 * xrays)) == 5 * alone


def test_page_in_a_browser(browser, server, tmp_path, finished, threshold):
    from selenium.webdriver.common.keys import Keys

    hostile = "<img src=x onerror=alert(1)>.png"
    (tmp_path / hostile).write_bytes(encoded(xray_of(1)))
    (tmp_path / "notes.txt").write_text("no X-ray")
    pick(browser, tmp_path / hostile)
    row = ask(server["url"], encoded(xray_of(1)))[1]["row"]
    assert find(browser, "#severity").text == f"{row['infected_share_percent']:.1f} %"  # this network has no lung
    assert find(browser, "#decision").text == "Resembles the COVID-19 images of the training data"
    assert f"{row['infected_pixels']:,} pixels" in find(browser, "#numbers").text
    assert find(browser, "#status").text.startswith(hostile)
    assert browser.find_elements("css selector", "img") == []
    text = find(browser, "body").text
    assert "Research only, not for clinical use." in text
    assert f"probability above {threshold}" in text

    assert red_pixels(browser, xray_of(1)) > 0.01
    for toggle in ("#original", "#show-infection"):
        find(browser, toggle).send_keys(" ")
        assert red_pixels(browser, xray_of(1)) == 0
        find(browser, toggle).send_keys(" ")
    before = red_pixels(browser, xray_of(1))
    find(browser, "#fill").send_keys(Keys.HOME)
    assert 0.01 < red_pixels(browser, xray_of(1)) < before - 0.01  # only the outline

    find(browser, "#save-infection").send_keys(Keys.ENTER)
    saved = wait_for(lambda: [p for p in browser.downloads.iterdir() if p.suffix == ".png"])
    mask = np.asarray(Image.open(saved[0]))
    assert (mask == 255).sum() == row["infected_pixels"]

    pick(browser, tmp_path / "notes.txt")
    assert find(browser, "#error").text == "notes.txt: it is not a PNG, JPEG, TIFF or DICOM file."
    assert not find(browser, "#result").is_displayed()

    opened = "window.opened = 0; document.getElementById('file').addEventListener('click', (e) => {"
    browser.execute_script(opened + " window.opened += 1; e.preventDefault(); })")
    find(browser, "#drop").send_keys(Keys.ENTER)
    assert browser.execute_script("return window.opened") == 1
    drop = """
      const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
      transfer.items.add(new File([bytes], 'dropped.png'));
      document.getElementById('drop').dispatchEvent(
        new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: transfer }));
    """
    browser.execute_script(drop, base64.b64encode(encoded(xray_of(0))).decode())
    wait_for(lambda: find(browser, "#status").text.startswith("dropped.png: done."))
    assert not find(browser, "#error").is_displayed()

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    assert browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)") == [
        server["url"] + path for path in ("/network", "/predict", "/predict", "/predict")
    ]


def test_a_folder_is_listed_and_saved_as_one_zip(browser, server, tmp_path):
    inside = tmp_path / "ward" / "deeper"
    inside.mkdir(parents=True)
    for i, path in enumerate((tmp_path / "ward/=1.png", inside / "b.png")):
        path.write_bytes(encoded(xray_of(i)))
    (tmp_path / "ward/notes.txt").write_text("no X-ray")
    (tmp_path / "ward/.hidden").write_text("no X-ray")
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(tmp_path / "ward")], "dragOperationsMask": 1}
        browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})
    wait_for(lambda: find(browser, "#status").text.startswith("3 files: done. 1 cannot be used."))
    lines = [line.text for line in browser.find_elements("css selector", "#list-rows tr")]
    assert [line.split()[0] for line in lines] == ["ward/=1.png", "ward/deeper/b.png", "ward/notes.txt"]
    assert "It is not a PNG, JPEG, TIFF or DICOM file." in lines[2]
    browser.find_elements("css selector", "#list-rows button")[1].click()
    wait_for(lambda: find(browser, "#status").text.startswith("ward/deeper/b.png: done."))
    assert red_pixels(browser, xray_of(1)) > 0.01

    find(browser, "#save-all").click()
    saved = wait_for(lambda: [p for p in browser.downloads.iterdir() if p.suffix == ".zip"])
    with zipfile.ZipFile(saved[0]) as archive:
        assert archive.testzip() is None
        masks = {"masks/ward/=1_infection.png", "masks/ward/deeper/b_infection.png"}
        assert set(archive.namelist()) == masks | {"predictions.csv", "predictions.json"}
        rows = json.loads(archive.read("predictions.json"))["images"]
        table = list(csv.DictReader(archive.read("predictions.csv").decode("utf-8-sig").splitlines()))
        mask = np.asarray(Image.open(io.BytesIO(archive.read("masks/ward/deeper/b_infection.png"))))
    row = ask(server["url"], encoded(xray_of(1)))[1]["row"]
    assert {key: rows[1][key] for key in row} == row
    assert (mask == 255).sum() == row["infected_pixels"] == int(table[1]["infected_pixels"])
    assert [line["error"] for line in table] == ["", "", "it is not a PNG, JPEG, TIFF or DICOM file."]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]


def test_rule_and_share_are_told_apart_in_the_browser(browser):
    def shown(rule: float, share: float) -> list[str]:
        return browser.execute_script("return ruleAndShare(...arguments)", rule, share)

    assert shown(10, 12.5) == ["10.0 %", "12.5 %"]
    assert shown(2.13, 2.1412) == ["2.13 %", "2.14 %"]
    assert shown(2.134567, 2.1349) == ["2.1346 %", "2.1349 %"]
    assert shown(2.134567, 2.1346) == ["2.1346 %", "2.1346 %"]  # the share is rounded to 4 decimals, so they are equal
    assert shown(0.0412, 0) == ["0.0412 %", "0.0000 %"]


def test_the_answer_no_is_a_sentence(browser, server):
    answer = ask(server["url"], encoded(xray_of(1)))[1]
    answer["row"]["covid19_detected"] = False
    browser.execute_script("show('x.png', arguments[0], shown ? shown.pictures : null)", answer)
    assert find(browser, "#decision").text == "Does not resemble the COVID-19 images of the training data"
    assert find(browser, "#rule").text.startswith("Rule: COVID-19 if ")


def test_nothing_is_written_or_said_and_sigterm_ends_it(server):
    """Also for a file larger than waitress holds in memory by default, and for a header that causes a warning."""
    noise = encoded(np.random.default_rng(0).integers(0, 256, (1500, 1500), np.uint8))
    damaged = dicom(picture(), WindowCenter=127.5, WindowWidth=256).replace(b"1.2.3.4", b"Doe.3.4")
    for data, status in ((noise, 200), (damaged, 200), (b"SECRET42", 400)):
        assert ask(server["url"], data)[0] == status
    connection = http.client.HTTPConnection(server["url"].removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(page.MAX_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    server["process"].send_signal(signal.SIGTERM)
    assert server["process"].wait(20) == 0
    assert (server["process"].stdout.read(), server["said"]()) == ("", "")
