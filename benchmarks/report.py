"""Measures a report: its bytes by kind; in Chromium, the seconds to load, draw all galleries, sort and open an image.

python benchmarks/report.py runs/unet/eval/val/report.html

Needs the extra [test], chromium and chromedriver. Prints medians over --repeats loads: wall seconds, then CPU seconds
of the page's thread, which other work on the machine changes less. Also prints the size of a page with --images such
images. With --repeats=0 it only counts bytes.
"""

import argparse
import json
import pathlib
import re
import shutil
import statistics
import time

from selenium import webdriver

# Click each column header in turn and wait for the layout; open 20 images in the same way.
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


def parts(page: str) -> dict[str, float]:
    """Bytes per image, in base64, of each kind of picture."""
    images = [json.loads(block) for block in re.findall(r'id="image-[0-9]+">(.*?)</script>', page)]
    if not images:
        return {}
    xray, truth, probability, *others = (
        sum(map(len, pictures)) / len(images) for pictures in zip(*images, strict=True)
    )
    return {"X-ray": xray, "true mask": truth, "probability": probability, "other targets' masks": sum(others)}


def measure(page: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Name of each step -> (wall seconds, CPU seconds)."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

        def cpu() -> float:
            found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return next(m["value"] for m in found if m["name"] == "ThreadTime")

        start = time.perf_counter()
        browser.get(page.absolute().as_uri())
        shown = time.perf_counter() - start, cpu()
        while not browser.execute_script("return document.documentElement.dataset.ready"):
            time.sleep(0.05)
        drawn = time.perf_counter() - start, cpu()
        sort, columns = browser.execute_script(SORT), browser.execute_script("return COLUMNS.length")
        sort = sort, (cpu() - drawn[1]) / columns
        before = cpu()
        open_ = browser.execute_async_script(OPEN), (cpu() - before) / 20
        return {"to load": shown, "until galleries are drawn": drawn, "to sort": sort, "to open an image": open_}
    finally:
        browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=583)
    arguments = parser.parse_args()
    text = arguments.page.read_text(encoding="utf-8")
    n, each = text.count('id="image-'), parts(text)
    print(f"{len(text) / 1e6:.1f} MB, {n} images; {arguments.images} of them: ", end="")
    print(f"{(len(text) + (arguments.images - n) * sum(each.values())) / 1e6:.1f} MB")
    for name, size in each.items():
        print(f"{size / 1000:8.2f}  kB of each image: {name}")
    runs = [measure(arguments.page) for _ in range(arguments.repeats)]
    for name in runs[0] if runs else ():
        wall, cpu = (statistics.median(run[name][k] for run in runs) for k in (0, 1))
        print(f"{wall:8.3f} {cpu:8.3f}  {name}")


if __name__ == "__main__":
    main()
