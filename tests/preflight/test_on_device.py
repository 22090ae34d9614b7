import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_the_benchmark_for_accelerators_runs_at_a_toy_size(tmp_path: pathlib.Path):
    """Both programs are compiled, run and counted, so that it works the first time an accelerator is there."""
    output = tmp_path / "on_device.json"
    command = [sys.executable, "benchmarks/on_device.py", "--toy", f"--output={output}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    found = json.loads(output.read_text())
    assert found["left_out"] == []
    assert [case["steps"] for case in found["training"]] == [2, 1]
    for case in found["training"]:
        assert "error" not in case
        assert case["images_per_second_per_chip"] > 0
        assert case["hbm_bytes_per_image"] > 0
