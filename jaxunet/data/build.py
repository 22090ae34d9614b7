"""Builds the datasets alone: `python -m jaxunet.data.build --source=covidqu.zip --data_dir=DIR`."""

import argparse
import sys

from ml_collections import ConfigDict

from jaxunet.core.errors import run_or_explain
from jaxunet.data import prepared


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxunet.data.build", description=__doc__)
    parser.add_argument("--source", default="", help="the COVID-QU-Ex zip as downloaded, or its extracted folder")
    parser.add_argument("--data_dir", default="", help="where to build; ~/tensorflow_datasets if not given")
    parser.add_argument(
        "--configs",
        default="infection,infection_all",
        help="of infection (COVID-19 only), infection_all (with controls), lung (33,920 images); separated by commas",
    )
    flags = parser.parse_args(arguments)
    names = flags.configs.split(",")
    if unknown := set(names) - {"infection", "infection_all", "lung"}:
        parser.error(f"--configs: {', '.join(sorted(unknown))} is not one of infection, infection_all, lung")
    settings = ConfigDict({"name": "covid_qu_ex", "source": flags.source, "data_dir": flags.data_dir})
    return run_or_explain(lambda: _build(settings, names))


def _build(settings: ConfigDict, names: list[str]) -> None:
    for name in names:
        print(f"Ready: {prepared.open_builder(settings, name).data_dir}")


if __name__ == "__main__":
    sys.exit(main())
