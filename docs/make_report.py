"""Makes the picture of a report in docs/images: the page of a run over scenes, in Chromium.

python docs/make_report.py      (needs playwright and a Chromium)
"""

from __future__ import annotations

import shutil
from collections import Counter
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import sync_playwright

from localize.cli import main
from localize.evaluation.scenes import make_scene

PICTURE = Path(__file__).parent / "images" / "report.webp"
SEEDS, SCENES, PROMPTS, ABSENT = range(2026, 2226), 16, 7, "a bicycle"
WIDTH, HEIGHT = 1180, 800
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def make_page(folder: Path) -> Path:
    """A report of the scenes with most of what is often in scenes, asked for that and a bicycle."""
    scenes = {seed: make_scene(seed) for seed in SEEDS}
    named = {seed: {name for name, _ in scene.objects} for seed, scene in scenes.items()}
    counts = Counter(name for names in named.values() for name in names)
    prompts = [name for name, _ in counts.most_common(PROMPTS)]
    best = sorted(named, key=lambda seed: -len(named[seed].intersection(prompts)))[:SCENES]
    (folder / "scenes").mkdir()
    for seed in best:
        Image.fromarray(scenes[seed].image).save(folder / "scenes" / f"scene-{seed}.png")
    prompts.append(ABSENT)
    words = ["--model", "emoji", "--report", "--overlays", "none", "-o", str(folder / "out")]
    main(["detect", str(folder / "scenes"), "-p", *prompts, *words])
    return folder / "out" / "report.html"


def take(page_file: Path) -> Image.Image:
    """The page by day, and below it by night with maps."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shots = []
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme
            )
            page.goto(page_file.as_uri())
            page.locator("#sort").select_option("best")
            if scheme == "dark":
                page.locator("#maps").check()
            page.wait_for_timeout(1000)
            shots.append(Image.open(BytesIO(page.screenshot())).convert("RGB"))
        browser.close()
    both = Image.new("RGB", (WIDTH, 2 * HEIGHT))
    for number, shot in enumerate(shots):
        both.paste(shot, (0, number * HEIGHT))
    return both


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        take(make_page(Path(folder))).save(PICTURE, quality=80)
