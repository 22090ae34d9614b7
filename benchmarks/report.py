"""How heavy a report is in Chromium: bytes, seconds until it is shown, until all galleries are drawn, to sort, to open.

python benchmarks/report.py runs/unet/eval/val/report.html

Needs the extra [test], chromium and chromedriver. Prints the median of --repeats loads.
"""

import argparse
import pathlib
import shutil
import statistics
import time

from selenium import webdriver

# Each column header is clicked in turn, and the layout that follows is waited for; likewise 20 images are opened.
SORT = """
const start = performance.now(), heads = [...document.querySelectorAll("#rows th button")];
for (const head of heads) { head.click(); document.body.offsetHeight; }
return (performance.now() - start) / heads.length / 1000;
"""
OPEN = """
const done = arguments[0];
(async () => {
  const start = performance.now(), images = state.order.slice(0, 20);
  for (const i of images) await show(i);
  done((performance.now() - start) / images.length / 1000);
})();
"""


def measure(page: pathlib.Path) -> dict[str, float]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        start = time.perf_counter()
        browser.get(page.absolute().as_uri())
        shown = time.perf_counter() - start
        while not browser.execute_script("return document.documentElement.dataset.ready"):
            time.sleep(0.01)
        drawn = time.perf_counter() - start
        sort, open_ = browser.execute_script(SORT), browser.execute_async_script(OPEN)
        return {
            "seconds to load": shown,
            "until galleries are drawn": drawn,
            "to sort": sort,
            "to open an image": open_,
        }
    finally:
        browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{arguments.page.stat().st_size / 1e6:.1f} MB")
    runs = [measure(arguments.page) for _ in range(arguments.repeats)]
    for name in runs[0]:
        print(f"{statistics.median(run[name] for run in runs):8.3f}  {name}")


if __name__ == "__main__":
    main()
