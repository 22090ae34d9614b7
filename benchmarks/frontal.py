"""Counts how often jaxunet tells a frontal chest X-ray from other pictures: the table of docs/reliability.md.

python benchmarks/frontal.py --source=covidqu.zip --xrays=FOLDER

--xrays adds X-rays from elsewhere, which should be taken. Pictures are refused as `--mode=predict` does it, with the
network that comes along; --nopredict counts the check of the pixels alone.
"""

import pathlib
import sys
from collections.abc import Callable

import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.fit_frontal import SOURCE, changed, xrays
from benchmarks.held_out_pictures import HELD_OUT
from benchmarks.not_chest_xrays import SEEN, pictures
from jaxunet.prediction import frontal, loading
from jaxunet.xrays.files import XrayFiles
from jaxunet.xrays.read import read_xray

_XRAYS = flags.DEFINE_string("xrays", "", "folder of other frontal chest X-rays")
_PREDICT = flags.DEFINE_bool("predict", True, "also look at the predicted lungs")

Refusal = Callable[[list[np.ndarray]], list[str]]


def main(_: list[str]) -> None:
    refusals = _with_lungs() if _PREDICT.value else lambda images: [frontal.refusal(x, None) for x in images]
    rng = np.random.default_rng(1)
    val, test = (list(xrays(SOURCE.value, split)) for split in ("Val", "Test"))
    good = {"X-rays of Val": val, "X-rays of the Test sample": test}
    good["X-rays of Val, blurred, noisy, cropped, ..."] = [changed(x, rng) for x in val]
    if _XRAYS.value:
        good["X-rays from elsewhere"] = [
            read_xray(file.read()).pixels for file in XrayFiles(_XRAYS.value, skip=pathlib.Path("none"))
        ]
    print("| shown | tried | right | wrong |\n|---|---|---|---|")
    for kind, images in good.items():
        _row(kind, refusals(images), lambda words: not words)
    for kind, words, view in (
        ("turned by 90 degrees", "turned by 90 degrees", lambda x: np.rot90(x)),
        ("turned by 270 degrees", "turned by 90 degrees", lambda x: np.rot90(x, 3)),
        ("upside down", "upside down", lambda x: np.rot90(x, 2)),
        ("inverted", "inverted", lambda x: 255 - x),
        ("inverted and turned", "inverted and turned by 90 degrees", lambda x: 255 - np.rot90(x)),
    ):
        found = refusals([np.ascontiguousarray(view(x)) for x in val])
        named = sum(reason == words for reason in found)
        _row(f"Val, {kind} (named so: {named})", found, bool)
    for kind, group in (("drawings it was made by", SEEN), ("drawings it had not seen", HELD_OUT)):
        names, images = zip(*pictures(group), strict=True)
        found = refusals(list(images))
        _row(kind, found, bool)
        print(*(f"  taken: {name}" for name, words in zip(names, found, strict=True) if not words), sep="\n", end="")


def _with_lungs() -> Refusal:
    network = loading.load_shipped()
    return lambda images: [found.refusal for found in network.predict(images)]


def _row(kind: str, found: list[str], right: Callable[[str], bool]) -> None:
    ok = sum(map(right, found))
    print(f"| {kind} | {len(found)} | {ok} ({ok / len(found):.1%}) | {len(found) - ok} |", flush=True)


if __name__ == "__main__":
    app.run(main)
