"""docs/scale_out.md as its reader would use it: the scripts of schedulers, and Ray with two workers."""

import csv
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from jaxunet.data.drawing import draw_chest_xray
from tests.program.test_docs import Block, blocks
from tests.support.xrays import dicom

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scale_out.md"
START = """
import os, pathlib, signal, ray
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)

def die_once(died=pathlib.Path("died")):
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def block(language: str, words: str) -> Block:
    (found,) = [block for block in blocks(PAGE) if block.language == language and words in block.text]
    return found


def draw(folder: pathlib.Path, images: int) -> None:
    """Small X-rays: the first is broken, the second a DICOM file."""
    folder.mkdir()
    drawn = [draw_chest_xray(0, i, "test", ("COVID-19", "Normal")[i % 2])[0][::2, ::2] for i in range(min(images, 50))]
    for i in range(images):
        small = np.roll(drawn[i % 50], i // 50)  # all different
        Image.fromarray(small).save(folder / f"{i:03}.png")
    (folder / "000.png").write_bytes(b"broken")
    (folder / "001.png").rename(folder / "001.dcm").write_bytes(dicom(small, PixelSpacing=[2, 2]))


def bash(script: str, folder: pathlib.Path, **variables: str) -> None:
    """Runs a script of the page with `folder` in place of /shared."""
    script = script.replace("/shared", str(folder)).replace("IMAGE", "").replace(".venv/bin/python", "python")
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "XDG_CACHE_HOME": str(folder / "cache")} | variables
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_job_is_an_indexed_one():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(block("yaml", "kind: Job").text)
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert (job["apiVersion"], spec["completionMode"]) == ("batch/v1", "Indexed")
    assert f"--num_processes={spec['completions']} --process_id=$JOB_COMPLETION_INDEX" in container["args"][0]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # as podFailurePolicy requires


@pytest.mark.slow
def test_scripts_of_schedulers(tmp_path):
    """Two shares of eight by SLURM, two by Kubernetes, and the last command: the table of one process."""
    yaml = pytest.importorskip("yaml")
    draw(tmp_path / "xrays", 12)
    array = block("bash", "--array").text
    last = re.sub(r" --num_processes=\S+ --process_id=\S+", "", array).replace("predictions", "$OUT")
    args = yaml.safe_load(block("yaml", "kind: Job").text)["spec"]["template"]["spec"]["containers"][0]["args"]
    for i in range(2):
        bash(array, tmp_path, SLURM_ARRAY_TASK_ID=str(i), SLURM_JOB_ID="7", SLURM_NTASKS="1")
        bash(args[0], tmp_path, JOB_COMPLETION_INDEX=str(i + 2))
    out = tmp_path / "predictions"
    assert len(list(out.glob("predictions-?-of-8.csv"))) == 4
    bash(last, tmp_path, OUT="predictions")
    bash(last, tmp_path, OUT="alone")
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "alone/predictions.csv").read_bytes()
    with (out / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


def table(folder: pathlib.Path) -> Iterator[dict]:
    import pyarrow.parquet

    yield from sorted(pyarrow.parquet.read_table(folder).to_pylist(), key=lambda row: row["input"])


@pytest.mark.slow
def test_ray_gives_the_rows_of_one_process_also_if_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'jaxunet[ray]'")
    draw(tmp_path / "xrays", 500)
    end = "        return pyarrow.Table"
    recipe = block("python", "map_batches").text
    assert recipe.count(end) == 1
    (tmp_path / "recipe.py").write_text(START + recipe.replace(end, f"        die_once()\n{end}"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "recipe.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "died").exists()
    bash(f"python launch.py --mode=predict --input={tmp_path}/xrays --output={tmp_path}/one || [ $? -eq 2 ]", tmp_path)
    expected = json.loads((tmp_path / "one/predictions.json").read_text())["images"]
    for row, one in zip(table(tmp_path / "predictions.parquet"), expected, strict=True):
        masks = {name: row.pop(f"{name}_mask") for name in ("infection", "lung")}
        probability, other = row.pop("covid19_probability"), one.pop("covid19_probability")
        assert row == one
        assert probability == pytest.approx(other, abs=2e-6)  # JAX adds in another order in another batch
        for name, mask in masks.items():
            if not one["error"]:
                written = Image.open(tmp_path / "one/masks" / f"{one['input'].removesuffix('.png')}_{name}.png")
                np.testing.assert_array_equal(Image.open(io.BytesIO(mask)), written)
