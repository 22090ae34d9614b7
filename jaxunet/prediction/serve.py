"""`--mode=serve`: a web page that shows the prediction of an X-ray. Called by commands.py.

The page is `serve.html`, see page.py. It sends an X-ray as the body of a POST, without its name, and gets JSON back.
The X-ray is in memory until then. The server writes, logs and keeps nothing of it.
"""

import base64
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.core.pictures import png
from jaxunet.prediction import api_description, overlay, page, web_guard
from jaxunet.prediction.api_description import PNG, RLE
from jaxunet.prediction.predictor import Predictor

try:
    import flask
    import waitress
    from werkzeug.exceptions import HTTPException

    from jaxunet.prediction import connections
except ImportError as error:
    raise UserError("--mode=serve needs Flask and waitress: pip install 'jaxunet[serve]'.") from error

_IN_MEMORY = 2**31  # bytes; waitress writes larger uploads to a temporary file


def serve(predictor: Predictor, *, host: str, port: int) -> None:
    """Serves the page until Ctrl-C or SIGTERM ends the process with status 0. `port`: 0 for any free one.

    Raises UserError if the host or port cannot be used.
    """
    with _listen(host, port) as listener, _quiet():
        for number in (signal.SIGINT, signal.SIGTERM):  # at once, even during a prediction: there is nothing to save
            signal.signal(number, lambda *_: os._exit(0))
        address, number = listener.getsockname()[:2]
        app = make_app(predictor, host=host, address=address)
        predictor.predict(np.zeros((8, 8), np.uint8))  # compiles before "Ready" is printed
        server = waitress.create_server(
            app,
            sockets=[listener],
            threads=4,  # each may hold a second copy of its upload
            max_request_body_size=page.MAX_BYTES + 1,
            inbuf_overflow=_IN_MEMORY,
            outbuf_overflow=_IN_MEMORY,
            ident=None,
            **connections.OPTIONS,
        )
        server.channel_class = connections.Connection
        if not ipaddress.ip_address(address).is_loopback:
            everyone = f"warning: anyone who can reach {host} can use this page"
            print(f"{everyone}, and their X-rays are sent unencrypted.", file=sys.stderr, flush=True)
        print(predictor.in_words)
        if predictor.rule.positive:
            print(predictor.rule_in_words)
        print(f"Ready: http://{f'[{host}]' if ':' in host else host}:{number} (Ctrl-C ends it)", flush=True)
        with contextlib.closing(server):
            server.run()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences libraries: warnings of pydicom can quote a patient's header."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda *_, **__: None
        logging.disable()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        code = getattr(error, "errno", None) or 0  # negative if the name is unknown
        reason = os.strerror(code) if code > 0 else "no such host"
        raise UserError(f"--host={host} --port={port} cannot be used ({reason}): choose another.") from error


def make_app(predictor: Predictor, *, host: str, address: str = "127.0.0.1") -> flask.Flask:
    """The web application: GET / is the page, GET /network describes the network, POST /predict predicts an X-ray,
    GET /api describes both as OpenAPI. `address`: the IP address that it listens at.
    """
    app = flask.Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = page.MAX_BYTES
    text = page.TEMPLATE.read_text(encoding="utf-8")
    headers = web_guard.response_headers(text)
    worker = ThreadPoolExecutor(1, "predict")  # one X-ray at a time

    @app.before_request
    def check_sender() -> None:
        if reason := web_guard.refusal(flask.request.method, dict(flask.request.headers), host, address):
            flask.abort(403, reason)

    @app.after_request
    def add_headers(response: flask.Response) -> flask.Response:
        response.headers.update(headers)
        return response

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> tuple[dict[str, str], int] | tuple[dict[str, str], int, dict[str, str]]:
        if isinstance(error, UserError):
            return {"error": str(error)}, 400
        if isinstance(error, HTTPException):
            too_large = f"the file has more than {page.MAX_BYTES // 2**20} MiB."
            allowed = {"Allow": ", ".join(methods)} if (methods := getattr(error, "valid_methods", None)) else {}
            return {"error": too_large if error.code == 413 else str(error.description)}, error.code or 500, allowed
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            return {"error": "there is not enough memory for this X-ray."}, 413
        where = traceback.extract_tb(error.__traceback__)[-1]  # without its message: it can quote the file
        print(f"error: {type(error).__name__} in {where.filename}:{where.lineno}", file=sys.stderr, flush=True)
        return {"error": f"the server failed ({type(error).__name__})."}, 500

    app.add_url_rule("/", "page", lambda: flask.Response(text, mimetype="text/html"))
    app.add_url_rule("/network", "network", lambda: page.facts(predictor))
    app.add_url_rule("/api", "api", api_description.describe)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        data, masks = flask.request.get_data(cache=False), flask.request.args.get("masks", PNG)
        if masks not in (PNG, RLE):
            raise UserError(f"masks is {PNG} or {RLE}.")
        return worker.submit(answer, predictor, data, runs=masks == RLE).result()

    return app


def answer(predictor: Predictor, data: bytes, *, runs: bool = False) -> dict[str, Any]:
    """The answer for one file: numbers as in `predictions.json`, pictures as base64 of PNG.

    `xray` and `layers` are reduced as in `Prediction.overlay`; `masks` have the size of the X-ray. With `runs`, they
    are run lengths, and there are no pictures.

    Raises UserError if the file cannot be used.
    """
    found = predictor.predict(data)
    said = {"row": found.row, "refusal": found.refusal, "mirrored": found.xray.mirrored}
    if runs:
        return {**said, "masks": {target: run_lengths(mask) for target, mask in found.masks.items()}}
    picture, layers = overlay.layers(found.xray.pixels, found.masks)
    return {
        **said,
        "xray": _base64_png(picture),
        "layers": {target: _base64_png(layer) for target, layer in layers.items()},
        "masks": {target: _base64_png(mask.astype(np.uint8) * 255) for target, mask in found.masks.items()},
    }


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """A mask bool [H, W] as COCO's uncompressed run lengths: column by column, the first run outside the mask."""
    flat = mask.T.ravel()
    borders = np.flatnonzero(np.diff(flat, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff(borders, prepend=0, append=flat.size).tolist()}


def _base64_png(pixels: np.ndarray) -> str:
    return base64.b64encode(png(pixels, compress_level=1)).decode()
