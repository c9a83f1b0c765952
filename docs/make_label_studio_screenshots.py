"""From an empty Label Studio project to reviewed boxes, in a browser, with pictures of the way.

    python docs/make_label_studio_screenshots.py --program venv/bin/label-studio
    python docs/make_label_studio_screenshots.py --program venv/bin/label-studio --photos photos

Starts Label Studio and `localize serve`, makes a project of scenes, one of them on its side by EXIF
as telephones take portraits, connects the server as the project's model, opens tasks in headless
Chromium, submits the predictions as annotations, exports the project, and holds the exported boxes
against those that `localize` finds itself. The screenshots go to docs/images, or with --photos (a
folder of your own; nothing is shown of it in the docs) to --output.

Needs playwright, a Chromium, and Label Studio in an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from playwright.sync_api import APIRequestContext, Page, sync_playwright

from localize import Localizer, Options
from localize.evaluation.scenes import demo_scene, make_scene

IMAGES = Path(__file__).parent / "images"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EMAIL, PASSWORD = "annotator@example.org", "only-on-this-machine"
LABELS = ("a cat", "a butterfly", "a tree", "a house", "a bicycle")
WIDTH, HEIGHT = 1180, 720
ORIENTATION, ON_ITS_SIDE = 0x0112, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="label-studio")
    parser.add_argument("--photos", help="a folder of pictures in place of scenes")
    parser.add_argument("--labels", nargs="+", default=LABELS)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--threshold", type=float, default=Options().threshold)
    parser.add_argument("--output", default=str(IMAGES))
    parsed = parser.parse_args()
    with TemporaryDirectory() as folder:
        pictures = sorted(Path(parsed.photos).glob("*.*")) if parsed.photos else []
        pictures = pictures or make_pictures(Path(folder))
        with label_studio(parsed.program, Path(folder)) as address, browser() as page:
            options = Options(threshold=parsed.threshold)
            show(page, address, parsed.model, options, parsed.labels, pictures, Path(parsed.output))


def make_pictures(folder: Path) -> list[Path]:
    """Scenes, the first of them on its side, with the note that a viewer is to turn it."""
    garden, exif = Image.fromarray(demo_scene().image), Image.Exif()
    exif[ORIENTATION] = ON_ITS_SIDE
    portrait = garden.crop((330, 60, 730, 640))
    portrait.transpose(Image.Transpose.ROTATE_90).save(
        folder / "portrait.jpg", exif=exif, quality=95
    )
    garden.save(folder / "garden.jpg", quality=95)
    Image.fromarray(make_scene(2034).image).save(folder / "street.jpg", quality=95)
    return [folder / name for name in ("portrait.jpg", "garden.jpg", "street.jpg")]


def show(
    page: Page,
    address: str,
    model: str,
    options: Options,
    labels: Sequence[str],
    pictures: Sequence[Path],
    output: Path,
) -> None:
    """All that a person would do, with a picture of what they see after each step."""
    studio = Studio(page, address)
    studio.log_in()
    project = studio.new_project(labels)
    page.goto(f"{address}/projects/{project}/data")
    page.wait_for_timeout(3000)
    shot(page, output / "label-studio-empty.webp")
    for path in pictures:
        studio.upload(project, path)
    with localize_serve(model, options, address, studio.access_token()) as server:
        studio.connect(project, server)
        page.goto(f"{address}/projects/{project}/settings/ml")
        page.wait_for_timeout(3000)
        shot(page, output / "label-studio-model.webp")
        studio.predict(project, len(pictures))
        tasks = studio.tasks(project)
        for number, task in enumerate(tasks):
            page.goto(f"{address}/projects/{project}/data?task={task['id']}")
            page.locator(".lsf-main-content, .lsf-editor").first.wait_for()
            page.wait_for_timeout(4000)
            if number == 0:
                shot(page, output / "label-studio-task.webp")
            page.get_by_role("button", name="Submit").click()
            page.wait_for_timeout(2000)
    page.goto(f"{address}/projects/{project}/data")
    page.wait_for_timeout(3000)
    shot(page, output / "label-studio-reviewed.webp")
    localizer = Localizer.from_pretrained(model, options=options)
    compare(studio.export(project), tasks, pictures, localizer, labels)


def compare(
    exported: Sequence[dict[str, Any]],
    tasks: Sequence[dict[str, Any]],
    pictures: Sequence[Path],
    localizer: Localizer,
    labels: Sequence[str],
) -> None:
    """Hold the boxes of the project's export against those that are found without Label Studio."""
    shown = {task["id"]: path for task, path in zip(tasks, pictures, strict=True)}
    farthest, count = 0.0, 0
    for task in exported:
        path = shown[task["id"]]
        result = localizer.locate(path, labels)
        (annotation,) = task["annotations"]
        reviewed = sorted(map(pixels_of, annotation["result"]))
        own = sorted((box.label, *map(float, box.xyxy)) for box in result.boxes)
        assert [box[0] for box in reviewed] == [box[0] for box in own], (path, reviewed, own)
        distances = [
            abs(a - b)
            for there, here in zip(reviewed, own, strict=True)
            for a, b in zip(there[1:], here[1:], strict=True)
        ]
        farthest, count = max([farthest, *distances]), count + len(own)
        print(f"{path.name}, {result.width} x {result.height}: {len(own)} boxes")
    print(f"{count} boxes in {len(exported)} pictures; corners differ by {farthest:.3f} px at most")


def pixels_of(region: dict[str, Any]) -> tuple[Any, ...]:
    """A region's label and corners, in pixels of the picture as Label Studio shows it."""
    value, width, height = region["value"], region["original_width"], region["original_height"]
    left, top = value["x"] * width / 100, value["y"] * height / 100
    right, bottom = left + value["width"] * width / 100, top + value["height"] * height / 100
    return value["rectanglelabels"][0], left, top, right, bottom


class Studio:
    """What is asked of Label Studio's API, in the name of who is logged in in the browser."""

    def __init__(self, page: Page, address: str) -> None:
        self._page, self._address = page, address
        self._request: APIRequestContext = page.request

    def log_in(self) -> None:
        self._page.goto(f"{self._address}/user/login/")
        self._page.locator("input[name=email]").fill(EMAIL)
        self._page.locator("input[name=password]").fill(PASSWORD)
        self._page.locator("button[type=submit], button[aria-label='Log In']").first.click()
        self._page.wait_for_url(lambda url: "/user/login" not in url)

    def new_project(self, labels: Sequence[str]) -> int:
        names = "".join(f'<Label value="{label}"/>' for label in labels)
        config = (
            '<View><Image name="image" value="$image"/>'
            f'<RectangleLabels name="label" toName="image">{names}</RectangleLabels></View>'
        )
        made = self._post("/api/projects", {"title": "First boxes", "label_config": config})
        return int(made["id"])

    def upload(self, project: int, path: Path) -> None:
        file = {"name": path.name, "mimeType": "image/jpeg", "buffer": path.read_bytes()}
        answer = self._request.post(
            f"{self._address}/api/projects/{project}/import",
            multipart={path.name: file},
            headers=self._headers(),
            timeout=120_000,
        )
        assert answer.ok, answer.text()

    def access_token(self) -> str:
        return str(self._post("/api/token/", {})["token"])

    def connect(self, project: int, server: str) -> None:
        """As the page does it; that Label Studio then finds its own webhook's address private does
        not matter."""
        self._request.post(
            f"{self._address}/api/ml",
            data={"url": server, "project": project, "title": "localize"},
            headers=self._headers(),
            timeout=120_000,
        )
        (connected,) = self._get(f"/api/ml?project={project}")
        assert connected["state"] == "CO", connected

    def predict(self, project: int, count: int) -> None:
        """As "Retrieve Predictions" of the data manager does; waits until there is one a task."""
        self._post(
            f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}",
            {"selectedItems": {"all": True, "excluded": []}, "ordering": []},
        )
        for _ in range(120):
            tasks = self.tasks(project)
            if sum(bool(task["predictions"]) for task in tasks) == count:
                return
            time.sleep(1)
        raise SystemExit("some tasks have no prediction")

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """In the order of their uploads."""
        rows = self._get(f"/api/tasks?project={project}&fields=all&page_size=1000")["tasks"]
        return sorted(rows, key=lambda task: int(task["id"]))

    def export(self, project: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get(f"/api/projects/{project}/export?exportType=JSON")
        return found

    def _headers(self) -> dict[str, str]:
        cookies = {each["name"]: each["value"] for each in self._page.context.cookies()}
        return {"X-CSRFToken": cookies.get("csrftoken", ""), "Referer": f"{self._address}/"}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._request.post(
            self._address + path, data=body, headers=self._headers(), timeout=300_000
        )
        assert answer.ok, answer.text()
        return answer.json()

    def _get(self, path: str) -> Any:
        answer = self._request.get(self._address + path, timeout=120_000)
        assert answer.ok, answer.text()
        return answer.json()


def shot(page: Page, path: Path) -> None:
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    picture.save(path, quality=80)
    print(f"{path.name}: {path.stat().st_size // 1000} kB", flush=True)


@contextmanager
def label_studio(program: str, folder: Path) -> Iterator[str]:
    """A Label Studio of its own, with SQLite, that may ask servers of this machine."""
    port = free_port()
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "label-studio"),
        "ML_BLOCK_LOCAL_IP": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
    }
    words = ["start", "--no-browser", "--port", str(port), "--username", EMAIL]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with running([program, *words, "--password", PASSWORD], environment | settings):
        wait_for(f"http://localhost:{port}/health")
        yield f"http://localhost:{port}"


@contextmanager
def localize_serve(model: str, options: Options, address: str, token: str) -> Iterator[str]:
    port = free_port()
    words = ["serve", "--model", model, "--port", str(port), "--label-studio", address]
    words += ["--threshold", str(options.threshold)]
    environment = os.environ | {"LABEL_STUDIO_API_KEY": token}
    with running([sys.executable, "-m", "localize", *words], environment):
        wait_for(f"http://127.0.0.1:{port}/livez")
        yield f"http://localhost:{port}"


@contextmanager
def running(command: Sequence[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(900):
        try:
            opener.open(address, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise SystemExit(f"{address} does not answer")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def browser() -> Iterator[Page]:
    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = program.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(120_000)
        yield page
        program.close()


if __name__ == "__main__":
    main()
