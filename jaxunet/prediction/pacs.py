"""`--mode=predict --output=http...`: segmentations and reports go to a DICOMweb server; nothing is written to disk."""

import itertools
import os
import pathlib
import sys

from tqdm import tqdm

from jaxunet.core.errors import UserError
from jaxunet.prediction.folder import SOME_FAILED, shown, xrays_at
from jaxunet.prediction.predictor import Predictor
from jaxunet.xrays import dicomweb


def predict(predictor: Predictor, source: str, address: str, *, share: tuple[int, int] = (0, 1)) -> int:
    """Predicts every X-ray at `source` and stores what is found in its study on the server at `address`.

    Pictures that are not usable as frontal chest X-rays are reported, and nothing is stored of them. `config.predict`
    says what is stored. `source`, `share`: as for `folder.predict`.

    Returns the exit status: 0; 1 if nothing was stored; 2 if some X-rays failed.
    Raises UserError if the segmentations would not name the patient, or `source` has no images.
    """
    if not predictor.config.predict.keep_patient:
        raise UserError(
            f"The server {dicomweb.output_server(address)} files results by the patient's data: "
            "add --config.predict.keep_patient=True."
        )
    stored = failed = 0
    print(predictor.in_words)
    files = xrays_at(source, skip=pathlib.Path(os.devnull))
    for file in tqdm(itertools.islice(files, share[0], None, share[1]), unit="X-ray", dynamic_ncols=True):
        try:
            found = predictor.predict(file.read(), name=file.name)
            if found.refusal:
                raise UserError(f"not usable as a frontal chest X-ray: {found.refusal}.")
            if not (results := found.dicom_files()):
                raise UserError("it is not a DICOM file.")
            dicomweb.store(address, results.values())
            stored += 1
        except (UserError, OSError) as error:
            failed += 1
            tqdm.write(f"skipped {shown(file.name)}: {error}", sys.stderr)
    print(f"Results of {stored} X-ray{'s' * (stored != 1)} stored at {address}{f', {failed} failed' * (failed > 0)}.")
    return (SOME_FAILED if stored else 1) if failed else 0
