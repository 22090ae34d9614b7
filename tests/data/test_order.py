"""Each image exactly once per epoch, in one order, whatever the number of devices and however the images get there."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.support.order_audit import BATCH, EPOCHS, N

ROOT = pathlib.Path(__file__).parents[2]
WAYS = ("resident", "resident, continued, one step per call", "stream", "stream, continued")


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, np.ndarray]]:
    """Way and device count -> the numbers of the images and masks that the compiled program was given, per step."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "order_audit.py")]
    env = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    output = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    found = json.loads(output.stdout)
    return {way: {key: np.array(value) for key, value in seen.items()} for way, seen in found.items()}


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("way", ["resident", "stream"])
def test_each_image_once_per_epoch(way, devices, found):
    """37 images in batches of 8: a batch reaches over the end of an epoch, nothing is left out or filled up."""
    seen = found[f"{way} on {devices}"]["images"]
    steps = -(-EPOCHS * N // BATCH)
    assert seen.shape == (steps, BATCH)
    stream = seen.reshape(-1)
    epochs = stream[: EPOCHS * N].reshape(EPOCHS, N)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(N), (EPOCHS, N)))
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS, "two epochs have the same order"
    begun = stream[EPOCHS * N :]  # the last step is whole: it goes on into an epoch that is not finished
    assert len(begun) == steps * BATCH - EPOCHS * N == 7
    assert len(set(begun)) == 7


def test_the_same_order_everywhere(found):
    expected = found["resident on 1"]["images"]
    assert len(found) == 4 * len(WAYS)
    for way, seen in found.items():
        start = 9 if "continued" in way else 0
        np.testing.assert_array_equal(seen["images"][start:], expected[start:], way)
        assert (seen["images"][:start] == -1).all()


def test_masks_stay_with_their_images(found):
    for way, seen in found.items():
        np.testing.assert_array_equal(seen["masks"], seen["images"], way)
