"""Makes the pictures of `localize app` in docs/images: its page in Chromium.

python docs/make_app.py      (needs the extras app and index, playwright and a Chromium)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from localize.cli import main
from localize.evaluation.scenes import make_scene

IMAGES = Path(__file__).parent / "images"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTH, HEIGHT, SCENES = 1280, 880, range(5000, 5250)


def make_store(folder: Path) -> Path:
    """A library of scenes."""
    (folder / "scenes").mkdir()
    for seed in SCENES:
        Image.fromarray(make_scene(seed).image).save(folder / "scenes" / f"scene-{seed}.png")
    store = folder / "store"
    main(["index", str(folder / "scenes"), "--store", str(store), "--model", "emoji", "--quiet"])
    return store


def take(page: Any, name: str, **options: Any) -> None:
    page.wait_for_timeout(700)
    shot = Image.open(BytesIO(page.screenshot(**options))).convert("RGB")
    shot.save(IMAGES / name, quality=80)


def draw(page: Any, left: float, top: float, right: float, bottom: float) -> None:
    """A rectangle over the picture, in parts of it."""
    area = page.locator("#canvas").bounding_box()
    page.mouse.move(area["x"] + left * area["width"], area["y"] + top * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + right * area["width"], area["y"] + bottom * area["height"], steps=5)
    page.mouse.up()


def make_pictures(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        page.locator("#examples button").first.click()
        page.locator('.answer[value="a bicycle"]').wait_for()
        page.locator("#prompts").fill("a cat, a butterfly, a soccer ball, a bicycle")
        page.locator('.answer[value="a soccer ball"]').wait_for()
        take(page, "app.webp")

        page.locator("#examples button").nth(1).click()
        page.locator('.answer[value="a violin"]').wait_for()
        page.locator("#prompts").fill("")
        draw(page, 0.5, 0.63, 0.77, 0.92)
        take(page, "app-rectangle.webp")
        page.locator("#more").click()
        page.locator('.answer[value="like picture 1"]').wait_for()
        take(page, "app-like.webp")

        page.get_by_role("tab", name="Library").click()
        page.locator("#query").fill("a dog")
        page.keyboard.press("Enter")
        page.locator("#wall:not(.doubtful) button").first.wait_for()
        page.wait_for_load_state("networkidle")
        take(page, "app-library.webp", clip={"x": 0, "y": 0, "width": WIDTH, "height": 420})
        browser.close()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        store = make_store(Path(folder))
        command = [sys.executable, "-m", "localize", "app", "--model", "emoji", "--port", "0"]
        server = subprocess.Popen(
            [*command, "--store", str(store)], stdout=subprocess.PIPE, text=True
        )
        try:
            make_pictures(server.stdout.readline().split()[1])
        finally:
            server.terminate()
            server.wait()
