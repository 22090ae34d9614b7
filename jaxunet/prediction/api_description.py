"""The HTTP API of `--mode=serve`, described as OpenAPI 3.1. `serve.py` answers GET /api with it."""

from typing import Any

from jaxunet import __version__
from jaxunet.prediction.journal import COLUMNS
from jaxunet.prediction.page import MAX_BYTES
from jaxunet.prediction.web_guard import SENT_BY

PNG, RLE = "png", "rle"  # values of the parameter `masks`
_KINDS = {"sides": "string", "usable": "boolean", "covid19_detected": "boolean"}
_WHOLE = ("height", "width", "regions")
_TEXT = {"type": "string"}
_PICTURE = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
_WHOLE_NUMBERS = {"type": "array", "items": {"type": "integer"}}
_RUNS = {
    "type": "object",
    "description": "COCO's uncompressed run lengths: column by column, beginning with pixels outside the mask",
    "required": ["size", "counts"],
    "properties": {"size": _WHOLE_NUMBERS | {"description": "height, width"}, "counts": _WHOLE_NUMBERS},
}


def describe() -> dict[str, Any]:
    """The OpenAPI document."""
    header = {"name": SENT_BY, "in": "header", "required": True, "schema": {"const": "1"}}
    header["description"] = "pages of other sites cannot send it"
    masks = {"name": "masks", "in": "query", "schema": {"enum": [PNG, RLE], "default": PNG}}
    masks["description"] = f"{PNG}: pictures of 0 and 255; {RLE}: run lengths, without `xray` and `layers`"
    body = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}
    predict = {
        "summary": f"Predicts one X-ray: PNG, JPEG, TIFF or DICOM of at most {MAX_BYTES // 2**20} MiB",
        "operationId": "predict",
        "parameters": [header, masks],
        "requestBody": body,
        "responses": {"200": _json("what was found", _answer()), **_refused("400", "403", "413", "500")},
    }
    network = {
        "summary": "The network, its threshold and its rule",
        "operationId": "network",
        "responses": {"200": _json("settings", {"type": "object"}), **_refused("403")},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxunet", "version": __version__, "description": "Research only, not for clinical use."},
        "paths": {"/predict": {"post": predict}, "/network": {"get": network}},
    }


def _answer() -> dict[str, Any]:
    row = {name: _column(name) for name in COLUMNS if name not in ("input", "error")}
    properties = {
        "row": {"type": "object", "required": list(row), "properties": row, "description": "as in predictions.json"},
        "refusal": _TEXT | {"description": "why it is not usable as a frontal chest X-ray; empty if it is"},
        "mirrored": {"type": "boolean", "description": "whether the patient's left is at the left"},
        "masks": {"type": "object", "additionalProperties": {"oneOf": [_PICTURE, _RUNS]}, "description": "by target"},
        "xray": _PICTURE | {"description": "at most 1024 pixels per side"},
        "layers": {"type": "object", "additionalProperties": _PICTURE, "description": "0 outside, 1 inside, 2 outline"},
    }
    return {"type": "object", "required": ["row", "refusal", "mirrored", "masks"], "properties": properties}


def _column(name: str) -> dict[str, Any]:
    if name == "warnings":
        return {"type": "array", "items": _TEXT}
    whole = name in _WHOLE or name.endswith("_pixels")
    return {"type": [_KINDS.get(name, "integer" if whole else "number"), "null"]}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _refused(*statuses: str) -> dict[str, Any]:
    schema = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
    return {status: _json("one sentence", schema) for status in statuses}
