"""--mode=predict: the masks of evaluation, nothing outside --output, and commands that continue."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import threading
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxunet import commands
from jaxunet.core.errors import UserError
from jaxunet.core.files import lock
from jaxunet.evaluation.evaluate import evaluate
from jaxunet.prediction import folder, loading
from jaxunet.prediction.prediction import Prediction
from jaxunet.runs import config_file
from jaxunet.scoring.counts import positive
from jaxunet.scoring.detection import Rule
from jaxunet.scoring.split_pass import load_eval_split
from jaxunet.xrays import letterbox
from jaxunet.xrays.pixels import Xray
from tests.support.xrays import SECRETS, SIZE, Threshold, bomb, dicom, encoded, picture, records


@pytest.fixture
def network(config) -> Threshold:
    return Threshold(config)


@pytest.fixture
def run(network, tmp_path):
    def run(source: pathlib.Path | str, output: pathlib.Path | None = None, **more: Any) -> tuple[int, list[dict]]:
        output = output or tmp_path / "out"
        options = {"probabilities": False} | more
        status = folder.predict(network, str(source), output, **options)
        (table,) = [p for p in output.glob("*.csv") if more.get("share", (0, 1))[0] == 0 or "-1-" in p.name]
        return status, table_of(table)

    return run


def write(folder: pathlib.Path, name: str, data: bytes | np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else encoded(data))


def table_of(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mask(path: pathlib.Path) -> np.ndarray:
    picture = Image.open(path)
    assert picture.mode == "L"
    return np.asarray(picture)


def files_in(folder: pathlib.Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_masks_are_those_of_evaluation(finished, tmp_path):
    """X-rays of 256 x 256 pixels and a network for 256: equal bits."""
    config = config_file.load(finished)
    split = load_eval_split(config, "val")
    for i, image in enumerate(split.image):
        write(tmp_path / "in", f"{i}.png", image)
    expected = loading.load(config, finished, checkpoint="latest").outputs(split.image)["masks"]
    config.eval.threshold = float(1 / (1 + np.exp(-np.median(expected))))
    evaluate(config, finished, split="val", checkpoint="latest")
    rows = table_of(finished / "eval" / "val" / "per_image.csv")
    source = loading.load(config, finished, checkpoint="latest")
    assert folder.predict(source, str(tmp_path / "in"), tmp_path / "out", probabilities=True) == 0
    for i, name in enumerate(split.ids):
        found = mask(tmp_path / "out" / "masks" / f"{i}_infection.png")
        np.testing.assert_array_equal(found > 0, positive(expected[i, ..., 0], config.eval.threshold))
        (row,) = [r for r in rows if r["id"] == name]
        assert (found == 255).sum() == int(row["tp"]) + int(row["fp"])
        assert 0 < found.mean() < 255
        probability = mask(tmp_path / "out" / "probabilities" / f"{i}_infection.png")
        np.testing.assert_allclose(probability / 255, 1 / (1 + np.exp(-expected[i, ..., 0])), atol=0.5001 / 255)


def test_masks_table_and_overlay(run, tmp_path):
    write(tmp_path / "in", "a/b c.png", picture())
    status, (row,) = run(tmp_path / "in")
    assert status == 0
    out = tmp_path / "out"
    names = {"masks/a/b c_infection.png", "masks/a/b c_lung.png", "overlays/a/b c.png"}
    assert files_in(out) == names | {"predictions.csv", "predictions.json", "predictions.jsonl"}
    np.testing.assert_array_equal(mask(out / "masks/a/b c_infection.png"), np.where(picture() > 200, 255, 0))
    np.testing.assert_array_equal(mask(out / "masks/a/b c_lung.png"), np.where(picture() > 100, 255, 0))
    assert (row["input"], row["height"], row["width"]) == ("a/b c.png", "64", "64")
    assert (row["infected_pixels"], row["lung_pixels"], row["regions"]) == ("240", "1920", "1")
    assert [row[f"severity_{side}percent"] for side in ("", "right_", "left_")] == ["12.5", "25.0", "0.0"]
    assert (row["covid19_detected"], row["infected_cm2"], row["error"]) == ("True", "", "")
    assert row["warnings"] == "small: 64 x 64 pixels"
    painted = np.asarray(Image.open(out / "overlays/a/b c.png"))
    assert painted.shape == (64, 64, 3)
    assert list(painted[8, 10]) == [240, 70, 60]  # the outline of the infection covers that of the lung
    assert list(painted[8, 20]) == [70, 160, 240]
    assert list(painted[20, 10]) == [250] * 3  # inside, the X-ray is unchanged
    written = json.loads((out / "predictions.json").read_text())
    assert written["settings"]["checkpoint_step"] == 7
    assert written["images"][0]["severity_percent"] == 12.5
    assert written["images"][0]["warnings"] == ["small: 64 x 64 pixels"]


def test_pixels_on_the_threshold_are_not_marked(run, tmp_path):
    """The invented network gives a probability of 0.5, the threshold, at a brightness of 200."""
    for top in (200, 201):
        write(tmp_path / "in", f"{top}.png", picture(top))
    _, rows = run(tmp_path / "in")
    assert [(row["infected_pixels"], row["covid19_detected"]) for row in rows] == [("0", "False"), ("240", "True")]
    assert not mask(tmp_path / "out/masks/200_infection.png").any()
    np.testing.assert_array_equal(mask(tmp_path / "out/masks/201_infection.png") > 0, picture(201) > 200)


@pytest.mark.parametrize(("probability", "marked"), [(0.39, 0), (0.4, 0), (0.41, 6)])
def test_an_answer_on_the_threshold_is_no_covid19(probability, marked):
    """The same threshold holds for the decision and for blank masks."""
    rule = Rule("probability", 0.4)
    logits = np.full((8, 8, 1), -1, np.float32)
    logits[2:4, 2:5] = 1
    xray = Xray(np.zeros((8, 8), np.uint8))
    _, place = letterbox.fit(xray.pixels, 8)
    found = Prediction("a.png", xray, place, logits, records("infection"), probability, 0.5, rule, gate=True)
    assert found.masks["infection"].sum() == found.row["infected_pixels"] == marked
    assert found.row["covid19_detected"] is found.detected is (marked > 0)


@pytest.mark.parametrize("shape", [(128, 128), (300, 200), (64, 150)])
def test_masks_have_the_size_of_the_image(run, tmp_path, shape):
    image = np.asarray(Image.fromarray(picture()).resize(shape[::-1], Image.Resampling.NEAREST))
    write(tmp_path, "in.png", image)
    _, (row,) = run(tmp_path / "in.png")
    found = mask(tmp_path / "out/masks/in_infection.png")
    assert found.shape == shape == (int(row["height"]), int(row["width"]))
    assert np.mean((found > 0) == (image > 200)) > 0.97
    assert float(row["severity_percent"]) == pytest.approx(12.5, abs=2)


def test_detection_and_severity_follow_the_evaluation_on_val(run, network, tmp_path):
    write(tmp_path, "in.png", picture())
    result = {"checkpoint_step": 7, "threshold": 0.5, "target": "infection"}
    result |= {"dataset": "synthetic_cxr/infection_all", "image_size": [256, 256]}
    result["detection"] = {"score": "lung", "threshold": 0.2}
    report = tmp_path / "run/eval/val/metrics.json"
    report.parent.mkdir(parents=True)
    for share, step, expected in ((0.2, 7, "False"), (0.1, 7, "True"), (0.2, 8, "True")):
        result["detection"]["threshold"], result["checkpoint_step"] = share, step
        report.write_text(json.dumps(result))
        rule = loading._rule_of_val(network.config, tmp_path / "run", network.step)
        object.__setattr__(network, "rule", rule)
        _, (row,) = run(tmp_path / "in.png")
        assert row["covid19_detected"] == expected


def test_broken_files_among_good_ones(run, tmp_path, capsys):
    write(tmp_path / "in", "1.png", picture())
    write(tmp_path / "in", "2.png", b"not a picture")
    write(tmp_path / "in", "3.png", bomb(30000, 30000))
    write(tmp_path / "in", "4.jpg", encoded(picture())[:90])
    write(tmp_path / "in", "5\n.png", b"")
    write(tmp_path / "in", "6.png", picture())
    status, rows = run(tmp_path / "in")
    assert status == folder.SOME_FAILED == 2
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, True, False]
    assert rows[1]["infected_pixels"] == rows[1]["covid19_detected"] == ""
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert len(said) == 4
    assert "2.png: it is not a PNG" in said[0]
    assert {p.name for p in (tmp_path / "out/masks").iterdir()} == {
        f"{n}_{t}.png" for n in (1, 6) for t in ("infection", "lung")
    }


def test_nothing_could_be_done(run, tmp_path):
    write(tmp_path / "in", "1.png", b"not a picture")
    assert run(tmp_path / "in")[0] == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no PNG"):
        run(tmp_path / "empty", tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_second_run_does_only_what_is_missing(run, network, tmp_path):
    for i in range(9):
        write(tmp_path / "in", f"{i}.png", picture(210 + i))
    first = run(tmp_path / "in")
    table, log = tmp_path / "out/predictions.csv", tmp_path / "out/predictions.jsonl"
    before, network.seen = table.read_bytes(), []
    assert run(tmp_path / "in") == first
    assert network.seen == []
    assert table.read_bytes() == before

    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed while it wrote a line
    (tmp_path / "out/masks/1_lung.png").unlink()
    assert run(tmp_path / "in") == first
    assert sorted(network.seen) == [211, *range(213, 219)]
    assert table.read_bytes() == before

    network.seen = []
    write(tmp_path / "in", "5.png", picture(240))  # another image under the same name
    (tmp_path / "in" / "6.png").unlink()
    _, rows = run(tmp_path / "in")
    assert network.seen == [240]
    assert [row["input"] for row in rows] == [f"{i}.png" for i in (0, 1, 2, 3, 4, 5, 7, 8)]

    network.seen, network.threshold = [], 0.6
    run(tmp_path / "in")
    assert len(network.seen) == 8
    write(tmp_path / "other", "0.png", picture())
    with pytest.raises(UserError, match="choose another --output"):
        run(tmp_path / "other")


def test_two_processes_at_once_and_a_share_for_each(run, tmp_path):
    for i in range(5):
        write(tmp_path / "in", f"{i}.png", picture())
    _, first = run(tmp_path / "in", share=(0, 2))
    _, second = run(tmp_path / "in", share=(1, 2))
    assert [row["input"] for row in first] == ["0.png", "2.png", "4.png"]
    assert [row["input"] for row in second] == ["1.png", "3.png"]
    assert {"predictions-0-of-2.csv", "predictions-1-of-2.json"} <= files_in(tmp_path / "out")
    with lock(tmp_path / "out/.predictions-0-of-2.lock", ""), pytest.raises(UserError, match="Another process"):
        run(tmp_path / "in", share=(0, 2))


def test_one_process_takes_over_what_those_with_a_share_have_done(run, network, tmp_path):
    """Nothing is lost if a share was stopped, or files came between; nothing is predicted twice."""
    for i in range(8):
        write(tmp_path / "in", f"{i}.png", picture(210 + i))
    write(tmp_path / "in", "8.png", b"broken")
    run(tmp_path / "in", share=(0, 2))  # 0, 2, 4, 6, 8
    run(tmp_path / "in", share=(1, 2))  # 1, 3, 5, 7
    log = tmp_path / "out/predictions-1-of-2.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3])[:-20])  # killed while it wrote 3.png
    write(tmp_path / "in", "6.png", picture(240))  # another image
    write(tmp_path / "in", "00.png", picture(250))
    for missing in ([250, 213, 215, 240, 217], []):
        network.seen = []
        assert folder.predict(network, str(tmp_path / "in"), tmp_path / "out", probabilities=False) == 2
        assert network.seen == missing
    # settings; 0, 2, 4, 6 and 1 taken over once; five predicted; 8 refused twice
    assert (tmp_path / "out/predictions.jsonl").read_bytes().count(b"\n") == 1 + 5 + 5 + 2
    run(tmp_path / "in", tmp_path / "alone")
    assert (tmp_path / "out/predictions.csv").read_bytes() == (tmp_path / "alone/predictions.csv").read_bytes()


def test_the_last_row_of_a_share_is_taken_over_also_for_a_file_that_failed_alone(run, network, tmp_path):
    write(tmp_path / "in", "0.png", b"broken")
    write(tmp_path / "in", "1.png", picture(211))
    run(tmp_path / "in")  # alone: 0 fails
    (tmp_path / "out/predictions.jsonl").rename(tmp_path / "alone.jsonl")
    write(tmp_path / "in", "0.png", picture(210))
    run(tmp_path / "in", share=(0, 2))
    write(tmp_path / "in", "0.png", picture(220))  # a second row of 0
    run(tmp_path / "in", share=(0, 2))
    (tmp_path / "alone.jsonl").rename(tmp_path / "out/predictions.jsonl")
    network.seen = []
    assert folder.predict(network, str(tmp_path / "in"), tmp_path / "out", probabilities=False) == 0
    assert network.seen == []


def test_a_zip_with_evil_names_stays_inside_and_is_not_unpacked(run, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with zipfile.ZipFile(home / "in.zip", "w") as archive:
        for name in ("a.png", "../up.png", "/abs.png", "x/../../y.png", "C:\\z.png", "a.jpg", "a.png.png"):
            archive.writestr(name, encoded(picture()))
    status, rows = run(home / "in.zip", home / "out")
    assert status == 0
    assert len(rows) == 7
    assert files_in(tmp_path) == {"home/in.zip"} | {"home/out/" + name for name in files_in(home / "out")}
    assert len(list((home / "out/masks").rglob("*_lung.png"))) == 7


def test_dicom_gets_a_segmentation_and_no_patient_gets_out(run, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'jaxunet[dicom]'")
    import pydicom

    data = dicom(picture().astype(np.uint16) * 16, PixelSpacing=[5, 4.99], WindowCenter=2040.5, WindowWidth=4081)
    write(tmp_path / "in", "scan.dcm", data)
    write(tmp_path / "in", "1.2.840", dicom(picture(), WindowCenter=127.5, WindowWidth=256, StudyInstanceUID=None))
    status, (second, row) = run(tmp_path / "in", probabilities=True)
    assert status == 0
    assert (row["infected_pixels"], row["infected_cm2"], row["pixel_height_mm"]) == ("240", "59.88", "5.0")
    assert "no DICOM segmentation" in second["warnings"]
    found = pydicom.dcmread(tmp_path / "out/segmentations/scan.dcm.seg.dcm")
    assert [s.SegmentLabel for s in found.SegmentSequence] == ["infection", "lung"]
    np.testing.assert_array_equal(found.pixel_array[0] > 0, picture() > 200)
    np.testing.assert_array_equal(found.pixel_array[1] > 0, picture() > 100)
    assert (found.StudyInstanceUID, found.Rows, found.PatientName, found.PatientID) == ("1.2.3", 64, "", "")
    assert found.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or not any(secret in path.read_bytes() for secret in SECRETS)


def test_memory_is_bounded_by_pixels_and_order_is_kept(run, network, tmp_path, monkeypatch):
    """With room for two images, more threads and larger batches neither block nor mix up images."""
    monkeypatch.setattr(folder, "_HELD_PIXELS", 2 * SIZE * SIZE)
    network.config.input.threads = 8
    network.config.eval.batch_size = 16
    begun, ended, most, read, save = [], [], [0], folder.read_xray, Prediction.save

    def read_one(*arguments: Any, **more: Any) -> Xray:
        found = read(*arguments, **more)
        begun.append(found)
        most[0] = max(most[0], len(begun) - len(ended))
        return found

    def save_one(prediction: Prediction, *arguments: Any, **more: Any) -> dict[str, Any]:
        row = save(prediction, *arguments, **more)
        ended.append(prediction)
        return row

    monkeypatch.setattr(folder, "read_xray", read_one)
    monkeypatch.setattr(Prediction, "save", save_one)
    for i in range(40):
        write(tmp_path / "in", f"{i:02d}.png", picture(210 + i) if i % 7 else b"broken")
    done = []
    thread = threading.Thread(target=lambda: done.append(run(tmp_path / "in")), daemon=True)
    thread.start()
    thread.join(60)
    ((status, rows),) = done
    assert status == 2
    assert [row["input"] for row in rows] == [f"{i:02d}.png" for i in range(40)]
    assert network.seen == [210 + i for i in range(40) if i % 7]
    assert len(begun) == len(ended) == 34
    assert 2 < most[0] <= 2 + 8


def test_a_full_disk_ends_the_run(run, tmp_path, monkeypatch):
    write(tmp_path / "in", "1.png", picture())

    def full(path: pathlib.Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("jaxunet.prediction.prediction.write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path / "in")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--output=out"], "--input is missing"),
        (["--input=in.png"], "--output is missing"),
        (["--input=no.png", "--output=out"], "does not exist"),
        (["--input=in.png", "--output=out", "--num_processes=2"], "--process_id"),
        (["--input=in.png", "--output=out", "--num_processes=2", "--process_id=2"], "--process_id"),
        (["--input=in.png", "--output=out", "--checkpoint=12345"], "12345"),
    ],
)
def test_mistakes_are_one_sentence(given, words, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "in.png", picture())
    values = dict(x.removeprefix("--").split("=") for x in given)
    numbers = {name: int(values[name]) for name in ("num_processes", "process_id") if name in values}
    texts = {name: values[name] for name in ("checkpoint", "input", "output") if name in values}
    flags = commands.Flags(config_file.load(finished), workdir=str(finished), **numbers, **texts)
    status = commands.execute("predict", flags)
    said = capsys.readouterr().err
    assert status == 1
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_command_line(finished, tmp_path):
    """From the flags to the files, with another threshold. One file is broken: status 2."""
    write(tmp_path / "in", "a.png", np.asarray(Image.fromarray(picture()).resize((300, 256))))
    write(tmp_path / "in", "b.png", b"broken")
    command = [sys.executable, "launch.py", "--mode=predict", f"--workdir={finished}", f"--input={tmp_path / 'in'}"]
    command += [f"--output={tmp_path / 'out'}", "--probabilities", "--config.eval.threshold=0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 2, done.stderr
    assert "skipped b.png" in done.stderr
    assert "threshold 0.01" in done.stdout
    probability = mask(tmp_path / "out/probabilities/a_infection.png")
    assert probability.shape == (256, 300)
    found = mask(tmp_path / "out/masks/a_infection.png") > 0
    assert found[probability >= 4].all()
    assert not found[probability <= 1].any()


def test_table_goes_before_masks_of_other_settings_are_written(run, network, tmp_path, monkeypatch):
    for name in ("1.png", "2.png"):
        write(tmp_path / "in", name, picture())
    run(tmp_path / "in")
    out = tmp_path / "out"
    monkeypatch.setattr(Prediction, "save", lambda *_, **__: 1 / 0)  # the machine stops here
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "in", probabilities=True, share=(0, 2))
    assert sorted(p.name for p in out.glob("predictions*")) == ["predictions-0-of-2.jsonl"]


def test_file_touched_meanwhile_keeps_its_row(run, network, tmp_path, monkeypatch):
    for name in ("1.png", "2.png"):
        write(tmp_path / "in", name, picture())
    save = Prediction.save

    def touch(prediction, *args, **more):
        os.utime(tmp_path / "in" / prediction.name, ns=(5, 5))
        if not (tmp_path / "in/3.png").exists():
            write(tmp_path / "in", "3.png", picture())
        return save(prediction, *args, **more)

    monkeypatch.setattr(Prediction, "save", touch)
    status, rows = run(tmp_path / "in")
    assert (status, [row["input"] for row in rows]) == (2, ["1.png", "2.png", "3.png"])
    assert [row["error"][:12] for row in rows] == ["", "", "it was added"]
    assert run(tmp_path / "in")[0] == 0


@pytest.mark.parametrize(
    ("said", "turned"),
    [
        ({"PixelSpacing": [0.4, 0.2]}, False),
        ({"PixelAspectRatio": [2, 1]}, False),
        ({"PixelSpacing": [0.2, 0.4], "PatientOrientation": ["F", "L"]}, True),
        ({"PixelAspectRatio": [1, 2], "PatientOrientation": ["F", "L"]}, True),
    ],
)
def test_network_sees_square_pixels_and_masks_have_those_of_the_file(said, turned, network):
    wide = np.repeat(picture(), 2, axis=1)
    found = network.predict(dicom(wide.T if turned else wide, WindowCenter=127.5, WindowWidth=256, **said))
    np.testing.assert_array_equal(found.xray.pixels, wide)
    np.testing.assert_array_equal(network.fit("a", found.xray).square, picture())
    assert (found.masks["lung"] == (wide > 100)).mean() > 0.97


@pytest.mark.parametrize(
    "what",
    ["overlays/1.dcm.png", "masks/1.dcm_lung.png", "probabilities/1.dcm_lung.png", "segmentations/1.dcm.seg.dcm"],
)
@pytest.mark.parametrize("damage", ["gone", "cut", "bit"])
def test_output_that_is_gone_or_damaged_is_made_again(run, tmp_path, network, what, damage):
    if what.startswith("seg"):
        pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'jaxunet[dicom]'")
    write(tmp_path / "in", "1.dcm", dicom(picture(), WindowCenter=127.5, WindowWidth=256))
    run(tmp_path / "in", probabilities=True)
    path = tmp_path / "out" / what
    sound = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(sound[:-20] if damage == "cut" else sound[:-50] + bytes([sound[-50] ^ 1]) + sound[-49:])
    for _ in range(2):
        run(tmp_path / "in", probabilities=True)
    made = path.read_bytes()
    assert made == sound or what.startswith("seg") and made[-100:] == sound[-100:]  # its identifiers are new
    assert len(network.seen) == 2


def test_table_is_harmless_in_a_spreadsheet_and_excel_reads_umlauts(run, tmp_path):
    names = ["+1.png", "-1.png", "=HYPERLINK(1).png", "@1.png", "a.png"]
    for name in names:
        write(tmp_path / "in", name, picture())
    _, rows = run(tmp_path / "in")
    assert [row["input"] for row in rows] == [f"'{name}" for name in names[:4]] + ["a.png"]
    assert rows[0]["severity_percent"][0].isdecimal()
    table = tmp_path / "out/predictions.csv"
    assert table.read_bytes().startswith(b"input,")  # of ASCII alone: as ever
    images = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert [row["input"] for row in images] == names
    write(tmp_path / "in", "Müller.png", picture())
    run(tmp_path / "in")
    assert table.read_bytes().startswith("\ufeffinput,".encode())
    with table.open(encoding="utf-8-sig", newline="") as file:
        assert "Müller.png" in [row["input"] for row in csv.DictReader(file)]
