"""The packages of the wheel: those in jaxunet/, and configs/ as jaxunet.configs. pyproject.toml has all the rest."""

import pathlib
import re
import sys

from setuptools import find_namespace_packages, setup

# Older versions of pip name some dependency instead.
settings = pathlib.Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8")
oldest = re.search(r'requires-python = ">=3\.(\d+)"', settings)[1]
if sys.version_info < (3, int(oldest)):
    sys.exit(f"jaxunet needs Python 3.{oldest} or newer; this is Python {sys.version.split()[0]}.")

setup(
    packages=[*find_namespace_packages(include=["jaxunet*"]), "jaxunet.configs"],
    package_dir={"jaxunet.configs": "configs"},
)
