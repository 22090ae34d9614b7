"""The HTTP API of --mode=serve does what GET /api says of it."""

import numpy as np
import pytest

from jaxunet.prediction import serve
from jaxunet.prediction.web_guard import SENT_BY
from tests.support.xrays import Threshold, decoded, encoded, picture

OURS = {SENT_BY: "1"}


@pytest.fixture
def app(config):
    return serve.make_app(Threshold(config), host="127.0.0.1")


def test_run_lengths_are_the_masks(app):
    client = app.test_client()
    pictures = client.post("/predict", data=encoded(picture()), headers=OURS).get_json()
    runs = client.post("/predict?masks=rle", data=encoded(picture()), headers=OURS).get_json()
    assert {key for key in pictures if key not in runs} == {"xray", "layers"}
    assert pictures["row"] == runs["row"]
    for target, mask in pictures["masks"].items():
        counts = runs["masks"][target]["counts"]
        flat = np.repeat(np.arange(len(counts)) % 2 * 255, counts)
        found = flat.reshape(runs["masks"][target]["size"][::-1]).T
        np.testing.assert_array_equal(found, decoded(mask))


@pytest.mark.parametrize("mask", [np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(4, dtype=bool)])
def test_run_lengths_begin_outside(mask):
    counts = serve.run_lengths(mask)["counts"]
    assert sum(counts[1::2]) == mask.sum()
    assert sum(counts) == mask.size


def test_requests_of_every_kind_get_the_answers_described(app):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install '.[api]'")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.strategies import sampled_from
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schemathesis.openapi.media_type("application/octet-stream", sampled_from([encoded(picture()), b"", b"no X-ray"]))
    for operation in schemathesis.openapi.from_wsgi("/api", app).get_all_operations():

        @settings(max_examples=25, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy())
        def ask(case) -> None:
            case.call_and_validate(excluded_checks=[positive_data_acceptance])  # many files are no X-rays

        ask()
