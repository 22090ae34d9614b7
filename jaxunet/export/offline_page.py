"""`--format=html`: one page with the network and ONNX Runtime Web inside. It predicts X-rays without server or network.

It is the page of `--mode=serve`, whose requests the scripts in offline/ answer. ONNX Runtime Web comes from a folder on
the user's computer, as npm installs it. Called by formats.py.
"""

import base64
import gzip
import json
import pathlib
import re
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.data.targets import organ
from jaxunet.export import onnx_graph
from jaxunet.export.computed import from_logits, logits_of
from jaxunet.prediction import frontal, measures, page
from jaxunet.prediction.predictor import Predictor

SCRIPTS = pathlib.Path(__file__).with_name("offline")
_OLDEST, _NEXT = (1, 23), (2, 0)  # versions of onnxruntime-web; older ones load a second script
_WORDS = {  # in place of those of `--mode=serve`: CSS selector -> the first text in that element
    "#drop-note": "PNG, JPEG or uncompressed DICOM, seen from the front",
    "footer .note": "The X-ray stays on this computer: this page connects to nothing and stores nothing.",
}


def write(source: Predictor, metadata: dict[str, Any], path: pathlib.Path, *, runtime: pathlib.Path | None) -> None:
    """Writes the page. `metadata`: from `export.describe`. `runtime`: the folder of the npm package onnxruntime-web.

    Raises UserError if that folder is missing, or is of a version that the page was not written for.
    """
    version, license, script, program = _runtime(runtime)
    model = onnx_graph.to_onnx(logits_of(source), (source.image_size,) * 2, np.uint8, metadata)
    parts = [(SCRIPTS / f"{name}.js").read_text(encoding="utf-8") for name in ("reading", "dicom", "answer", "frontal")]
    ours = "\n".join(["(() => {", *parts, "})();"])  # in a scope of its own
    text = page.TEMPLATE.read_text(encoding="utf-8")
    (style,), (main,) = (re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("style", "script"))
    allowed = " ".join(page.hash_source(part) for part in (ours, script, main))
    policy = (
        f"default-src 'none'; script-src {allowed} 'wasm-unsafe-eval'; style-src {page.hash_source(style)}; "
        f"img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    inside = {
        "facts": json.dumps(_facts(source)).replace("<", r"\u003c"),
        "weights": _packed(model.SerializeToString()),
        "runtime": _packed(program),
    }
    blocks = [f'<script type="text/plain" id="inside-{name}">{part}</script>' for name, part in inside.items()]
    blocks += [f"<script>{ours}</script>", f"<!-- ONNX Runtime Web {version}. {license} -->"]
    blocks += [f'<script type="module">{script}</script>', f"<script>{main}</script>"]
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    text = text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}')
    path.write_text(text.replace(f"<script>{main}</script>", "\n".join(blocks)), encoding="utf-8")


def read(source: Predictor, path: pathlib.Path) -> Any:
    """The network in the page, run by ONNX Runtime; see `formats.Compute`."""
    import onnxruntime

    packed = path.read_text(encoding="utf-8").partition('id="inside-weights">')[2].partition("</script>")[0]
    model = gzip.decompress(base64.b64decode(packed))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: from_logits(dict(zip(names, session.run(names, {"image": images}), strict=True)), source)


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _facts(source: Predictor) -> dict[str, Any]:
    """What the scripts must know. `logit`: a pixel is marked above it."""
    with np.load(frontal.WEIGHTS, allow_pickle=False) as file:
        known = {name: [float(f"{x:.7g}") for x in np.ravel(file[name])] for name in file.files}
    return {
        "network": page.facts(source),
        "image_size": source.image_size,
        "logit": float(np.log(source.threshold / (1 - source.threshold))),
        "blanked": [name for name, record in source.records.items() if record.learnt_from],
        "organ": organ(source.records),
        "checked": source.checked,
        "measures": measures.MEASURES,
        "severity": measures.SEVERITY,
        "frontal": known | {"threshold": known["threshold"][0]},
        "words": _WORDS,
    }


def _runtime(folder: pathlib.Path | None) -> tuple[str, str, str, bytes]:
    """Version, licence, module and WebAssembly program of ONNX Runtime Web."""
    how = "run `npm install onnxruntime-web`, then add --onnxruntime_web=node_modules/onnxruntime-web."
    if folder is None:
        raise UserError(f"--format=html needs ONNX Runtime Web: {how}")
    try:
        about = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        name, version = about["name"], str(about["version"])
        numbers = tuple(int(n) for n in version.split(".")[:2])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not the folder of an npm package: {how}") from error
    if name != "onnxruntime-web" or not _OLDEST <= numbers < _NEXT:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(f"{folder} holds {name} {version}, not onnxruntime-web from {oldest} on: {how}")
    try:
        script = (folder / "dist" / "ort.wasm.bundle.min.mjs").read_text(encoding="utf-8").replace("\r\n", "\n")
        program = (folder / "dist" / "ort-wasm-simd-threaded.wasm").read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {how}") from error
    script = re.sub(r"//# sourceMappingURL=\S*", "", script)
    exports = re.findall(r"export\s*\{([^{}]*)\};?\s*$", script)
    if len(exports) != 1 or "</script" in script:
        raise UserError(f"onnxruntime-web {version} is built in a way that this jaxunet does not know: install 1.30.0.")
    names = dict(reversed(part.split(" as ")) for part in exports[0].split(",") if " as " in part)
    used = ", ".join(f"{name}: {names[name]}" for name in ("InferenceSession", "Tensor", "env"))
    script = re.sub(r"export\s*\{[^{}]*\};?\s*$", f"globalThis.ort = {{ {used} }};\n", script)
    return version, (SCRIPTS / "license.txt").read_text(encoding="utf-8").strip(), script, program
