"""The report's numbers against NumPy; then the page itself in Chromium, where there is one."""

import base64
import csv
import dataclasses
import html.parser
import io
import json
import pathlib
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scipy import ndimage

from jaxunet.evaluation import analysis, evaluate, full_size, per_image, report
from jaxunet.prediction import loading
from jaxunet.runs import config_file
from jaxunet.runs.config_file import from_json
from jaxunet.runs.metric_log import read_metrics
from jaxunet.scoring import bootstrap, counts, protocols, split_pass
from jaxunet.scoring.counts import positive
from tests.support.browser import chromium, wait_for
from tests.support.xrays import records

ROOT = pathlib.Path(__file__).parents[2]
HOSTILE = "</script><img src=x onerror=alert(1)>"
THRESHOLD = 0.4
TARGETS = ("infection", "lung")


@pytest.fixture(scope="module")
def workdir(finished, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("reported") / HOSTILE.replace("/", "_")
    return shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("eval", "profile", "tensorboard"))


@pytest.fixture(scope="module")
def run_config(workdir) -> ConfigDict:
    config = config_file.load(workdir)
    config.dataset.targets = ("infection",)
    config.eval.threshold = THRESHOLD
    return config


@pytest.fixture(scope="module")
def scored(run_config, workdir) -> evaluate.Scored:
    """With logits about the threshold, so that six steps of training give masks worth looking at; two targets, though
    one was trained; a hostile id."""
    scored = evaluate.score(loading.load(run_config, workdir, checkpoint="latest"), "val")
    config = run_config.copy_and_resolve_references()
    config.dataset.targets = TARGETS
    predictor = Spread(config, *(getattr(scored.predictor, f.name) for f in dataclasses.fields(scored.predictor)[1:]))
    data = split_pass.load_eval_split(config, "val")
    data = dataclasses.replace(data, ids=[*data.ids[:-1], HOSTILE])
    truth = true_masks(data)
    predicted = np.asarray(positive(predictor.outputs(data.image)["masks"], THRESHOLD))
    counts = [truth & predicted, ~truth & predicted, truth & ~predicted, ~truth & ~predicted]
    counts = np.stack([c.sum(axis=(1, 2)) for c in counts], axis=-1)
    return dataclasses.replace(scored, predictor=predictor, data=data, counts=counts)


def true_masks(data) -> np.ndarray:
    """bool [N, H, W, C]"""
    return np.unpackbits(data.arrays["mask"], axis=2).astype(bool)


class Spread(evaluate.Predictor):
    """The same network, its logits moved and stretched; those of a second target are their mirror image."""

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        logits = super().outputs(images)["masks"]
        center = np.quantile(logits, 0.8, axis=(1, 2), keepdims=True)
        spread = (logits - center) * 10 / logits.std(axis=(1, 2), keepdims=True)
        masks = np.concatenate([spread, -spread[:, :, ::-1]], axis=-1) + np.log(0.4 / 0.6)
        return {"masks": masks.astype(np.float32)}


@pytest.fixture(scope="module")
def result(scored) -> dict:
    """What metrics.json holds, scores at the files' size and on changed images among it, and a block that is new."""
    data, targets = scored.data, records(*TARGETS)
    logits = scored.predictor.outputs(data.image)["masks"]
    histogram = np.asarray(counts.histogram(jnp.asarray(logits), jnp.asarray(true_masks(data))))
    predicted = np.packbits(np.asarray(positive(logits, THRESHOLD)), axis=2)
    measured = per_image.Measured(scored.counts, histogram, predicted)
    table = per_image.tabulate(measured, data, targets, (2.0,), threads=2)
    result = split_pass.summarize(scored.counts, data, TARGETS, resamples=100)
    for i, (target, block) in enumerate({"infection": result, **result["targets"]}.items()):
        block |= analysis.analyse(table[target], histogram[:, i], data, share_of="lung", rule=None)
    sides = {name: np.full(len(data.ids), 256) for name in ("height", "width")}
    called = np.arange(len(data.ids)) % 2 == 0
    number = bootstrap.mean(np.array([0.25, 0.5]))
    return result | {
        "split": "val",
        "dataset": "synthetic_cxr/infection_all",
        "image_size": [256, 256],
        "target": "infection",
        "threshold": THRESHOLD,
        "checkpoint_step": 6,
        "empty_mask_rule": protocols.EMPTY_MASK_RULE,
        "members": [],
        "full_size": full_size.summarize(table["infection"] | sides, data.positive, called),
        "subgroups": {"sex": [{"group": "F", "n": 2, "dice": number}], "left_out": "age: one value"},
        "corruptions": [{"change": "inverted", "dice": number}],
        "left_out": {"of_the_network": [], "of_the_dataset": []},
        "new": {"a": {"b": 0.0123}, "undefined": float("nan")},
    }


@pytest.fixture(scope="module")
def page(scored, result, workdir) -> str:
    rows = read_metrics(workdir)
    return report.render(scored.predictor, scored.data, scored.counts, result, rows, name=workdir.name, covid19=None)


class Blocks(html.parser.HTMLParser):
    """What a browser finds: the JSON blocks by id, and every tag with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.blocks, self.tags, self._id = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id") if dict(attrs).get("type") == "application/json" else None

    def handle_endtag(self, tag):
        self._id = None

    def handle_data(self, data):
        if self._id:
            self.blocks[self._id] = self.blocks.get(self._id, "") + data


def decoded(text: str) -> np.ndarray:
    """[H, W]: its red, as the page reads it; all are gray, the X-ray but for rounding."""
    rgb = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert np.ptp(rgb.astype(int), axis=-1).max() <= 2
    return rgb[..., 0]


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.001, 0.1, 1 / 3, 0.4, 0.5, 0.6, 0.9, 0.999])
def test_quantized_mask_is_the_evaluated_mask(threshold):
    edge = np.float32(np.log(threshold / (1 - threshold)))
    near = [edge]
    for _ in range(20):
        near = [np.nextafter(near[0], np.float32(-99)), *near, np.nextafter(near[-1], np.float32(99))]
    random = np.random.default_rng(0).normal(0, 4, 100_000)
    logits = np.concatenate([near, random, [-1e4, 1e4, -0.0]]).astype(np.float32)
    quantized = report.quantize(logits, threshold)
    assert quantized.dtype == np.uint8
    mask = quantized > report.threshold_code(threshold)
    np.testing.assert_array_equal(mask, np.asarray(positive(logits, threshold)))
    probability = 1 / (1 + np.exp(-logits.astype(np.float64).clip(-99, 99)))
    assert np.abs(quantized - report.TOP * probability).max() <= 1


def test_counts_per_code():
    random = np.random.default_rng(0)
    codes = random.integers(0, report.TOP, (16, 16), np.uint8, endpoint=True)
    truth = random.random((16, 16)) < 0.3
    counts = report.counts_per_code(codes, truth)
    assert len(counts) == report.TOP
    for k in range(report.TOP):
        above = codes > k
        expected = [(above & truth).sum(), (above & ~truth).sum(), (~above & truth).sum(), (~above & ~truth).sum()]
        assert counts[k].tolist() == expected


def test_page_holds_what_was_evaluated(page, scored, result, workdir):
    blocks = Blocks(page).blocks
    held = json.loads(blocks["data"])
    code = held["threshold_code"]
    assert held["ids"] == scored.data.ids
    for c, summary in enumerate((result, result["targets"]["lung"])):
        target = held["targets"][c]
        assert target["counts"] == scored.counts[:, c].tolist()
        assert target["recount_differs"] == 0
        assert 0 < scored.counts[:, c, 0].sum() < scored.counts[:, c, [0, 2]].sum()  # the masks are not trivial
        assert target["sweep"]["dice"][code] == pytest.approx(summary["P1"]["dice"]["mean"], abs=1e-5)
        assert target["sweep"]["iou"][code] == pytest.approx(summary["P1"]["iou"]["mean"], abs=1e-5)
    logits, truth = scored.predictor.outputs(scored.data.image)["masks"], true_masks(scored.data)
    predicted = np.asarray(positive(logits, THRESHOLD))
    for i in range(len(scored.data.ids)):
        image, *stored = map(decoded, json.loads(blocks[f"image-{i}"]))
        assert np.abs(image.astype(int) - scored.data.image[i]).mean() < 4
        np.testing.assert_array_equal(stored[1], report.quantize(logits[i, ..., 0], THRESHOLD))
        np.testing.assert_array_equal(stored[1] > code, predicted[i, ..., 0])
        masks = [truth[i, ..., 0], truth[i, ..., 1], predicted[i, ..., 1]]  # of the second target nothing but masks
        for picture, mask in zip((stored[0], stored[2], stored[3]), masks, strict=True):
            np.testing.assert_array_equal(picture, np.where(mask, 255, 0))
    assert held["parameters"] > 1000
    logged = [[row["epoch"], row["val/P1/dice"]] for row in read_metrics(workdir) if "val/P1/dice" in row]
    assert held["curves"]["val/P1/dice"] == logged
    assert held["evaluated_epoch"] == logged[-1][0]


class Undecided(Spread):
    """Probabilities nowhere near 0 or 1, as of a network that was hardly trained: what compresses worst."""

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(0).normal(0, 1, (*images.shape, len(TARGETS)))
        wide, fine = (ndimage.gaussian_filter(noise, (0, sigma, sigma, 0)) for sigma in (16, 1))
        return {"masks": (wide / wide.std() + 0.15 * fine / fine.std()).astype(np.float32)}


def test_pictures_of_583_images_with_two_targets_are_below_25_mb(scored, result):
    data = scored.data.part(np.arange(2))
    predictor = Undecided(*(getattr(scored.predictor, f.name) for f in dataclasses.fields(scored.predictor)))
    text = report.render(predictor, data, scored.counts[:2], result, [], name="undecided", covid19=None)
    for i in range(2):
        assert 583 * len(Blocks(text).blocks[f"image-{i}"]) < 25e6


def test_nothing_from_data_becomes_html(page, workdir):
    found = Blocks(page)
    held = json.loads(found.blocks["data"])
    assert held["ids"][-1] == HOSTILE
    assert held["run"] == workdir.name
    assert held["result"]["new"]["undefined"] is None
    assert [tag for tag, attributes in found.tags if tag == "img" or any(a.startswith("on") for a in attributes)] == []
    assert page.count("</script>") == page.count("<script")


def test_template_needs_nothing_else():
    text = report.TEMPLATE.read_text()
    assert text.isascii()
    assert text.count("http") == text.count("http-equiv") + text.count('"http://www.w3.org/2000/svg"')


def test_size_groups():
    area = np.array([0, 4, 8, 2, 6, 0, 1, 3, 5, 7])
    groups, names = report.size_groups(area, area > 0)
    assert groups.tolist() == [0, 2, 4, 1, 3, 0, 1, 2, 3, 4]
    assert names[0] == "blank truth"
    assert names[4] == "largest quarter, 7 to 8 px"
    assert report.size_groups(np.zeros(3, int), np.zeros(3, bool))[0].tolist() == [0, 0, 0]


def test_size_groups_are_those_of_the_metrics():
    area, covid = np.array([10, 20, 30, 40, 50, 0, 900]), np.array([True] * 5 + [False] * 2)
    groups, _ = report.size_groups(area, covid)
    columns = {"tp": area[covid], "fn": np.zeros(5, int)} | {name: np.ones(5) for name in ("dice", "iou", "hd95")}
    metrics = analysis.by_lesion_size(columns)["groups"]
    assert np.bincount(groups[covid], minlength=5)[1:].tolist() == [g["n"] for g in metrics] == [1, 1, 1, 2]
    assert groups[~covid].tolist() == [0, 4]  # limits are those of the COVID-19 images


def test_galleries():
    #        tp fp fn       small, missed   large, good    blank, alarm  blank, right  middle
    counts = [[0, 5, 10, 85], [60, 5, 5, 30], [0, 9, 0, 91], [0, 0, 0, 100], [20, 5, 5, 70]]
    area = np.array([10, 65, 0, 0, 25])
    groups, _ = report.size_groups(area, area > 0)
    called = np.ones(5, bool)
    found = report.galleries(np.array(counts), groups, called, seed=0)
    shown = {g["title"].split(":")[0]: g["images"] for g in found}
    assert shown["Best"] == [1]
    assert shown["Worst"] == [0]
    assert shown["Small and missed"] == [0]
    assert shown["False alarms"] == [2]
    called[2] = False
    assert not any("alarms" in g["title"] for g in report.galleries(np.array(counts), groups, called, seed=0))
    assert sorted(shown["Random"]) == [0, 1, 2, 3, 4]


def test_pictures_are_limited_and_those_of_galleries_come_first(monkeypatch):
    monkeypatch.setattr(report, "MAX_PICTURES", 3)
    stored = report._pictures_to_store(100, [{"galleries": [{"images": [90, 7]}]}], seed=0)
    assert {90, 7} < stored
    assert len(stored) == 3


def test_evaluate_writes_it_unless_told_not_to(run_config, workdir, capsys):
    """Also without a log of a training, and from the config of a run that did not know of reports."""
    path = workdir / "eval" / "test" / "report.html"
    stored = json.loads((workdir / "config.json").read_text())
    del stored["eval"]["report"]
    old = from_json(json.dumps(stored))
    log = (workdir / "metrics.jsonl").rename(workdir / "elsewhere")
    evaluate.evaluate(old, workdir, split="test", checkpoint="latest")
    log.rename(workdir / "metrics.jsonl")
    blocks = Blocks(path.read_text()).blocks
    held = json.loads(blocks["data"])
    assert held["curves"] == {}
    with (path.parent / "per_image.csv").open() as file:
        rows = {row["id"]: [int(row[k]) for k in ("tp", "fp", "fn", "tn")] for row in csv.DictReader(file)}
    assert dict(zip(held["ids"], held["targets"][0]["counts"], strict=True)) == rows
    config = run_config.copy_and_resolve_references()
    config.eval.report = False
    evaluate.evaluate(config, workdir, split="test", checkpoint="latest")
    assert not path.exists()


# ---- the page in a browser -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """Chromium on the page, from a file."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(page)
    with chromium(folder) as chrome:
        chrome.get(path.as_uri())
        wait_for(lambda: chrome.execute_script("return document.documentElement.dataset.ready"))
        yield chrome


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def column(browser, number: int) -> list[str]:
    script = "return [...document.querySelectorAll('#rows tbody tr')].map((r) => r.cells[arguments[0]].textContent)"
    return browser.execute_script(script, number)


def numbers(browser) -> dict[str, str]:
    script = "return [...document.querySelectorAll('#numbers dt')].map((e, i) => [e.textContent, "
    script += "document.querySelectorAll('#numbers dd')[i].textContent])"
    return dict(browser.execute_script(script))


def open_image(browser, i: int) -> None:
    find(browser, f"#rows tr[data-image='{i}'] button").click()
    wait_for(lambda: browser.execute_script("return state.image === arguments[0] && state.picture !== null", i))


def test_page_loads_alone_and_says_what_it_is(browser, scored, result):
    assert browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)") == []
    assert browser.find_elements("css selector", "img") == []
    text = find(browser, "body").text
    assert "Not for clinical use" in text
    assert "P1: mean over COVID-19 images" in text
    assert protocols.EMPTY_MASK_RULE in text
    p1 = result["P1"]["dice"]
    assert f"{p1['mean']:.4f}" in text
    assert f"{p1['ci95'][0]:.3f} \N{EN DASH} {p1['ci95'][1]:.3f}" in text
    rows = browser.execute_script("return [...document.querySelectorAll('#scores tbody tr')].map((r) => r.textContent)")
    gated = result["gated"]
    for protocol, statistic in (("P1", "mean"), ("P2", "value"), ("P3", "mean")):
        (row,) = [r for r in rows if r.startswith(f"{protocol} gated")]
        for name in ("dice", "iou"):
            assert f"{gated[protocol][name][statistic]:.4f}" in row
    blanked = gated["blanked"]
    assert 0 < blanked["n"] < len(scored.data.ids)
    assert f"These are {blanked['n']} of {len(scored.data.ids)} images, {blanked['covid']} of them COVID-19." in text
    assert f"share of the lung is not above {gated['threshold']:.4f} (the largest Youden's J on these images)." in text
    assert "optimistic" in text
    assert len(browser.find_elements("css selector", "#curves svg")) == 2


def test_other_blocks_are_shown_in_words(browser, result):
    """Every block has a card with its numbers; none is empty, and no key or list of JSON is left as it is."""
    script = "return [...document.querySelectorAll('#extra h2')].map((h) => [h.textContent, h.parentElement.innerText])"
    cards = dict(browser.execute_script(script))
    groups, severity, detection = result["by_lesion_size"]["groups"], result["severity"]["covid"], result["detection"]
    shown = {
        "How far outlines are apart": [f"{result['surface']['P1']['hd95']['mean']:.2f}", "surface Dice at 2 px"],
        "Scores by size of the true area": [f"{groups[0]['dice']['mean']:.4f}", f"{groups[0]['from_pixels']:,.0f}"],
        "Severity: affected share of the lung": [f"{100 * severity['truth']['mean']:.1f}", "Spearman"],
        "Detection of COVID-19": [f"{detection['auc']['value']:.4f}", "specificity, Normal"],
        "Calibration": [f"{result['calibration']['covid']['ece']['value']:.4f}", "0.9 \N{EN DASH} 1.0"],
        "Dice by threshold": [f"{x['dice']:.4f}" for x in (result["threshold_sweep"][p]["best"] for p in ("P1", "P2"))],
        "Scores at the files' own size": [
            f"{result['full_size']['gated']['P3']['dice']['mean']:.4f}",
            "256\N{MULTIPLICATION SIGN}256",
        ],
        "Scores by group": ["0.3750", "Without groups: age: one value."],
        "Scores on changed images": ["inverted", "0.3750"],
        "new": ["a, b", "0.0123"],
    }
    assert cards.keys() == shown.keys()
    for title, words in shown.items():
        assert [w for w in words if w not in cards[title]] == [], title
        assert not re.search(r"undefined$|\[object|NaN|_|\{", cards[title].removesuffix("\N{EN DASH}")), title
    spread = browser.execute_script("return document.getElementById('spread').textContent")
    assert f"{result['P1']['dice']['median']:.4f}" in spread


def test_sorting_and_filtering(browser, scored):
    dice = protocols.ratios(scored.counts[:, 0])["dice"]
    expected = [f"{x:.3f}" for x in sorted(dice)]
    heads = browser.find_elements("css selector", "#rows th button")
    heads[2].click()
    assert column(browser, 2) == expected
    heads[2].click()
    assert column(browser, 2) == expected[::-1]
    assert find(browser, "#rows th[aria-sort]").get_attribute("aria-sort") == "descending"
    heads[0].click()
    shown = browser.execute_script("return state.order")
    assert [scored.data.ids[i] for i in shown] == sorted(scored.data.ids)

    find(browser, "#text").send_keys("ONERROR")
    assert browser.execute_script("return state.order") == [len(dice) - 1]
    browser.execute_script("document.querySelector('#text').value = ''")
    for select, value in (("class", "COVID-19"), ("group", "1")):
        script = "const e = document.getElementById(arguments[0]); "
        script += "e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
        browser.execute_script(script, select, value)
    groups, _ = report.size_groups(scored.counts[:, 0, [0, 2]].sum(axis=1), scored.data.positive)
    chosen = np.flatnonzero((groups == 1) & scored.data.positive)
    assert len(chosen)
    assert sorted(browser.execute_script("return state.order")) == chosen.tolist()
    assert (
        f"{len(chosen)} of {len(dice)} images, mean Dice {dice[chosen].mean():.4f}; areas in pixels"
        == find(browser, "#count").text
    )
    browser.execute_script("for (const id of ['class', 'group']) document.getElementById(id).value = ''; arrange()")
    assert len(column(browser, 0)) == len(dice)


def test_threshold_slider_recomputes_the_mask(browser, scored, page):
    from selenium.webdriver.common.keys import Keys

    blocks = Blocks(page).blocks
    i = int(np.argmax(scored.counts[:, 0, 0]))
    open_image(browser, i)
    evaluated = protocols.ratios(scored.counts[i])
    assert numbers(browser)["Dice"] == numbers(browser)[f"Dice at {THRESHOLD}"] == f"{evaluated['dice'][0]:.4f}"
    slider = find(browser, "#threshold")
    start = json.loads(blocks["data"])["threshold_code"]
    assert int(slider.get_attribute("value")) == start
    for _ in range(7):
        slider.send_keys(Keys.ARROW_RIGHT)
    _, truth, probability, *_ = map(decoded, json.loads(blocks[f"image-{i}"]))
    truth, mask = truth > 0, probability > start + 7
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    iou = (mask & truth).sum() / (mask | truth).sum()
    assert dice != evaluated["dice"][0]
    assert numbers(browser) == {
        "Dice": f"{dice:.4f}",
        "IoU": f"{iou:.4f}",
        "truth": f"{truth.sum():,} px",
        "predicted": f"{mask.sum():,} px",
        f"Dice at {THRESHOLD}": f"{evaluated['dice'][0]:.4f}",
    }
    assert find(browser, "#threshold-value").text == f"{(start + 7.5) / report.TOP:.3f}"
    find(browser, "#reset").click()
    assert numbers(browser)["Dice"] == f"{evaluated['dice'][0]:.4f}"


def choose_target(browser, name: str) -> None:
    script = "const e = document.getElementById('target'); e.value = arguments[0]; e.dispatchEvent(new Event('change'))"
    browser.execute_script(script, str(TARGETS.index(name)))
    wait_for(lambda: browser.execute_script("return state.picture !== null"))


def test_second_target_has_its_evaluated_masks_at_every_threshold(browser, scored):
    from selenium.webdriver.common.keys import Keys

    i = int(np.argmax(scored.counts[:, 1, 0]))
    open_image(browser, i)
    assert "Choose a threshold on Val" in find(browser, "#threshold-note").text
    for _ in range(5):
        find(browser, "#threshold").send_keys(Keys.ARROW_RIGHT)
    choose_target(browser, "lung")
    try:
        dice = protocols.ratios(scored.counts[:, 1])["dice"]
        assert 0.01 < dice[i] < 0.99
        assert numbers(browser)["Dice"] == numbers(browser)[f"Dice at {THRESHOLD}"] == f"{dice[i]:.4f}"
        recounted = browser.execute_script("return recount(state.picture, codeNow())")
        assert recounted == scored.counts[i, 1].tolist()
        assert find(browser, "#threshold-value").text == f"{THRESHOLD:.3f}, as evaluated"
        assert sorted(column(browser, 2)) == sorted(f"{x:.3f}" for x in dice)
        for name in ("threshold", "show-heat", "reset"):
            assert not find(browser, f"#{name}").is_enabled()
        words = f"For lung, this page stores only the masks at threshold {THRESHOLD}. Slider and probability work for"
        assert words in find(browser, "#threshold-note").text
    finally:
        choose_target(browser, "infection")
    assert find(browser, "#threshold").is_enabled()
    assert numbers(browser)["Dice"] != numbers(browser)[f"Dice at {THRESHOLD}"]
    find(browser, "#reset").click()


def test_keys_and_toggles(browser):
    from selenium.webdriver.common.keys import Keys

    order = browser.execute_script("return state.order")
    open_image(browser, order[0])
    find(browser, "body").send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: browser.execute_script("return state.picture && state.image") == order[1])
    find(browser, "body").send_keys(Keys.ARROW_LEFT)
    wait_for(lambda: browser.execute_script("return state.picture && state.image") == order[0])
    picture = "return document.getElementById('picture').toDataURL()"
    seen = {browser.execute_script(picture)}
    for name in ("truth", "prediction", "heat"):
        find(browser, f"#show-{name}").send_keys(" ")
        seen.add(browser.execute_script(picture))
    assert len(seen) >= 3  # a blank truth has no contour to take away
    for name in ("truth", "prediction", "heat"):
        find(browser, f"#show-{name}").send_keys(" ")
    find(browser, "#zoom-in").click()
    assert find(browser, "#picture").size["width"] > 1.9 * find(browser, "#stage").size["width"]
    find(browser, "#zoom-out").click()


def test_contours_are_drawn_where_the_masks_end(browser, scored):
    """Teal and orange pixels on the picture lie on the borders of truth and prediction."""
    i = int(np.argmax(scored.counts[:, 0, 0]))
    open_image(browser, i)
    png = browser.execute_script("return document.getElementById('picture').toDataURL('image/png').split(',')[1]")
    red, green, blue = np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).astype(int)[..., :3].transpose(2, 0, 1)
    truth = scored.data.truth(i)
    scale = 1024 // len(truth)
    large = np.pad(np.kron(truth, np.ones((scale, scale), bool)), 4, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(large, (9, 9))
    near_border = windows.any(axis=(2, 3)) & ~windows.all(axis=(2, 3))
    teal = (blue - red > 120) & (green - red > 100)
    assert teal.sum() > 500
    assert (teal & near_border).sum() > 0.95 * teal.sum()


def test_phone_width(browser):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        shot = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"))
        assert shot.std() > 10
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
