"""What the page of `--mode=serve` and the one that `--mode=export --format=html` writes have in common."""

import base64
import hashlib
import pathlib
from typing import Any

from jaxunet.data.targets import finding
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring.detection import COVID_19, ELSEWHERE, RESEMBLES

TEMPLATE = pathlib.Path(__file__).with_name("serve.html")
MAX_BYTES = 64 * 2**20  # of an X-ray; a detector writes 8 to 30 MiB


def facts(predictor: Predictor) -> dict[str, Any]:
    """What the page says of the network, as JSON values."""
    return {
        "network": predictor.config.model.name,
        "step": predictor.step,
        "targets": predictor.targets,
        "image_size": predictor.image_size,
        "threshold": predictor.threshold,
        "flips": predictor.config.eval.flips,
        "rule": predictor.rule.to_dict(),
        "gate": predictor.gate,
        "positive": predictor.rule.positive,
        "resembles": RESEMBLES.replace(COVID_19, predictor.rule.positive or COVID_19),
        "elsewhere": ELSEWHERE if predictor.answers_covid19 else "",
        "max_bytes": MAX_BYTES,
        "finding": finding(predictor.records),
        "colours": {name: record.colour for name, record in predictor.records.items()},
    }


def hash_source(text: str) -> str:
    """The source for a Content-Security-Policy that allows the script or style `text`."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
