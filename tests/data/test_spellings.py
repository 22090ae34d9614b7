"""Archives that somebody packed again: the same X-rays under other spellings, or a sentence about what was found."""

import io
import json
import os
import pathlib
import re
import zipfile

import pytest

from jaxunet.core.errors import UserError
from jaxunet.data import prepared
from jaxunet.data.archive import Archive
from jaxunet.data.specs import COVID_QU_EX
from jaxunet.data.verify import verify
from tests.support.fake_archive import ROOT, fake_files, write_folder, write_zip

_PART = ROOT.split("/")[0]
_SPELLINGS = {
    "upper-case suffix": lambda n: n.replace(".png", ".PNG"),
    "lower case": lambda n: "/".join([*n.lower().split("/")[:-1], n.split("/")[-1]]),
    "underscores": lambda n: "/".join([*n.replace(" ", "_").split("/")[:-1], n.split("/")[-1]]),
    "backslashes": lambda n: n.replace("/", "\\"),
    "one folder more outside": lambda n: f"download/{n}",
    "one folder more inside": lambda n: n.replace(ROOT, f"{ROOT}/data"),
    "one folder less": lambda n: n.replace(ROOT, _PART),
    "no folder of the part": lambda n: n.removeprefix(f"{ROOT}/"),
    "COVID": lambda n: n.replace("/COVID-19/", "/COVID/"),
    "covid19": lambda n: n.replace("/COVID-19/", "/covid_19/"),
}


@pytest.mark.parametrize("spelling", _SPELLINGS)
def test_spelling_is_understood(spelling, tmp_path):
    files = fake_files()
    plain = Archive(write_zip(tmp_path / "a.zip", files), COVID_QU_EX)
    other = Archive(write_zip(tmp_path / "b.zip", {_SPELLINGS[spelling](n): d for n, d in files.items()}), COVID_QU_EX)
    assert [(r.id, r.split, r.label, sorted(r.files)) for r in other.records("infection")] == [
        (r.id, r.split, r.label, sorted(r.files)) for r in plain.records("infection")
    ]
    assert other.contents("infection") == plain.contents("infection")


def test_zip_in_a_zip_and_other_things_are_refused_with_what_was_found(tmp_path):
    inner = io.BytesIO()
    zipfile.ZipFile(inner, "w").close()
    with pytest.raises(UserError, match=r"another zip \('in/covidqu.zip'\): extract that zip"):
        Archive(write_zip(tmp_path / "a.zip", {"in/covidqu.zip": inner.getvalue()}), COVID_QU_EX).records("infection")
    with pytest.raises(UserError, match=r"1 files in 1 folders \('x/y'\), but should have .* 'Infection .*/images/"):
        Archive(write_zip(tmp_path / "b.zip", {"x/y/1.png": b""}), COVID_QU_EX).records("infection")


def test_split_without_covid19_is_refused_before_anything_is_built(tmp_path, config):
    files = {n: d for n, d in fake_files().items() if "/Val/COVID-19/" not in n}
    config.dataset.name, config.dataset.data_dir = "covid_qu_ex", str(tmp_path / "data")
    config.dataset.source = str(write_zip(tmp_path / "a.zip", files))
    with pytest.raises(UserError, match=r"has no COVID-19 X-rays in '.*/Val', only Non-COVID, Normal"):
        prepared.open_builder(config.dataset, "infection_all")
    assert not list((tmp_path / "data").rglob("*.array_record*"))


@pytest.mark.parametrize("packed", [True, False])
def test_archive_replaced_by_one_of_equal_names_and_sizes_is_noticed(packed, tmp_path, config):
    files = fake_files()
    name = next(n for n in files if "/images/" in n)
    twin = next(n for n in files if "/images/" in n and n != name)
    size = max(map(len, (files[name], files[twin])))
    files |= {n: files[n].ljust(size, b"\0") for n in (name, twin)}  # after its end, a PNG may hold anything
    write = write_zip if packed else write_folder
    place = write(tmp_path / "a", files)
    config.dataset.name, config.dataset.data_dir, config.dataset.source = "covid_qu_ex", str(tmp_path / "d"), str(place)
    built = prepared.open_builder(config.dataset, "infection_all")
    same = prepared.open_builder(config.dataset, "infection_all")
    assert same.data_dir == built.data_dir
    other = write_folder(tmp_path / "copy", files)  # extracted or copied, with other times
    config.dataset.source = str(other)
    prepared.open_builder(config.dataset, "infection_all")
    config.dataset.source = str(place)
    write(place, files | {name: files[twin], twin: files[name]})
    if not packed:
        os.utime(place / name, ns=(1, 1))
    with pytest.raises(UserError, match=re.escape("was built from another archive")):
        prepared.open_builder(config.dataset, "infection_all")


def test_dataset_prepared_by_an_older_version_is_still_read(tmp_path, config):
    place = write_zip(tmp_path / "a.zip", fake_files())
    config.dataset.name, config.dataset.data_dir, config.dataset.source = "covid_qu_ex", str(tmp_path / "d"), str(place)
    report = verify(place, COVID_QU_EX, "infection")[0].to_dict()
    builder = prepared.open_builder(config.dataset, "infection_all")

    del report["contents"], report["modified"]
    (pathlib.Path(builder.data_dir) / "verify.json").write_text(json.dumps(report))
    prepared.open_builder(config.dataset, "infection_all")
