"""`localize app`: the page in a real browser, and what its server answers to anything else."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from localize import Localizer, Options
from localize.cli import main
from localize.evaluation.scenes import demo_scene

httpx = pytest.importorskip("httpx", reason="needs the extra app")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra app")
pytest.importorskip("fastapi", reason="needs the extra app")

from localize.app.answers import DOWNLOADS  # noqa: E402
from localize.app.library import Library  # noqa: E402
from localize.app.models import Models  # noqa: E402
from localize.app.page import App, make_app  # noqa: E402
from localize.app.uploads import Uploads  # noqa: E402
from localize.serve.server import configured  # noqa: E402

MAX_BYTES = 32_000_000
OPTIONS = Options(max_pixels=20_000_000)
CAT = next(box for name, box in demo_scene().objects if name == "cat")


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    return Localizer.from_pretrained("emoji", options=replace(OPTIONS, batch_size=8))


@pytest.fixture(scope="module")
def library(localizer: Localizer, tmp_path_factory: pytest.TempPathFactory) -> Library | None:
    """A store of the demo's scene and two plain pictures; None without the extra."""
    try:
        import lancedb  # noqa: F401
    except ImportError:
        return None
    from localize.encoders import checkpoint_identity
    from localize.index import Index, Store, settings_of, update

    folder = tmp_path_factory.mktemp("library")
    Image.fromarray(demo_scene().image).save(folder / "garden.png")
    for name, colour in (("green.png", (60, 160, 80)), ("blue.png", (40, 80, 200))):
        Image.new("RGB", (200, 150), colour).save(folder / name)

    store = Store.create(folder / "store", settings_of(localizer, checkpoint_identity("emoji")))
    list(update(store, sorted(folder.glob("*.png")), localizer))
    return Library(Index.open(folder / "store"), OPTIONS.max_pixels)


@pytest.fixture(scope="module")
def server(localizer: Localizer, library: Library | None) -> Iterator[str]:
    """The address of a page on the loopback."""

    def load(name: str) -> Localizer:
        raise ValueError(f"cannot load {name}: it is broken")

    models = Models(["emoji", "broken"], load, 200, {"emoji": localizer})
    models.put("emoji", models.open("emoji"))
    app = make_app(
        App(models, Uploads(100), OPTIONS, MAX_BYTES, library), hosts=frozenset({"127.0.0.1"})
    )
    running = uvicorn.Server(configured(app))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join()


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with httpx.Client(base_url=server, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def open_page(browser: Any, server: str) -> Iterator[Any]:
    """Opens tabs of one browser. What goes wrong in them fails the test, and so does a request to
    anywhere but the server: none is let through."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    trouble: list[str] = []

    def route(way: Any) -> None:
        trouble.append(way.request.url)
        way.abort()

    context.route(lambda address: not address.startswith((server, "blob:", "data:")), route)

    def start() -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: noted(message.text))
        page.goto(server)
        page.wait_for_selector("#examples button")
        return page

    def noted(text: str) -> None:
        if "Failed to load resource" not in text:  # a refusal, which the page tells in words
            trouble.append(text)

    yield start
    context.close()
    assert trouble == []


def expect(locator: Any) -> Any:
    """Waits until what is said of a part of the page is so."""
    from playwright.sync_api import expect as waiting

    return waiting(locator)


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def boxes_on(page: Any) -> dict[str, tuple[float, ...]]:
    """What the page draws, in pixels of the demo's scene, by the words on it."""
    photo = page.locator("#photo").bounding_box()
    factor = 960 / photo["width"]
    found = {}
    for each in page.locator("#boxes .box").all():
        box = each.bounding_box()
        left, top = (box["x"] - photo["x"]) * factor, (box["y"] - photo["y"]) * factor
        right, bottom = left + box["width"] * factor, top + box["height"] * factor
        found[each.inner_text()] = (left, top, right, bottom)
    return found


def answered(page: Any, label: str) -> Any:
    """The row of a prompt, once the page has answered it."""
    row = page.locator(f'#list .answer[value="{label}"]')
    row.wait_for()
    return row


def set_threshold(page: Any, value: float) -> None:
    page.locator("#threshold").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


# In the browser ---------------------------------------------------------------------------------


def test_an_example_is_answered_where_the_cat_is_and_its_coco_opens(
    open_page: Any, tmp_path: Path
) -> None:
    page = open_page()
    assert "598" in page.locator("#known").inner_text()
    page.locator("#examples button").first.click()
    assert "not here" in answered(page, "a bicycle").inner_text()
    assert "here" in answered(page, "a butterfly").inner_text()
    assert len(boxes_on(page)) == 2

    page.locator("#prompts").fill("a cat")
    expect(page.locator("#list .answer")).to_have_count(1)
    assert page.locator("#heat").is_visible()
    ((words, box),) = boxes_on(page).items()
    assert words.startswith("a cat ")
    assert iou(box, CAT) > 0.6
    assert page.locator("#table tbody tr").count() == 1

    with page.expect_download() as started:
        page.get_by_role("button", name="COCO", exact=True).click()
    started.value.save_as(tmp_path / "coco.json")
    coco = pytest.importorskip("pycocotools.coco", reason="needs the extra evaluate")
    dataset = coco.COCO(tmp_path / "coco.json")
    (found,) = dataset.loadAnns(dataset.getAnnIds(catIds=dataset.getCatIds(["a cat"])))
    left, top, width, height = found["bbox"]
    assert iou((left, top, left + width, top + height), CAT) > 0.6

    set_threshold(page, 1)
    expect(page.locator("#boxes .box")).to_have_count(0)
    assert "place unclear" in answered(page, "a cat").inner_text()


def test_a_rectangle_finds_more_like_it_and_negatives_count(open_page: Any) -> None:
    page = open_page()
    page.locator("#examples button").first.click()
    answered(page, "a cat")
    page.locator("#prompts").fill("")
    canvas = page.locator("#canvas").bounding_box()
    flower = next(box for name, box in demo_scene().objects if name == "sunflower")
    left, top, right, bottom = (edge * canvas["width"] / 960 for edge in flower)
    page.mouse.move(canvas["x"] + left, canvas["y"] + top)
    page.mouse.down()
    page.mouse.move(canvas["x"] + right, canvas["y"] + bottom, steps=3)
    page.mouse.up()
    page.get_by_role("button", name="Find more like this").click()
    answered(page, "like picture 1")
    expect(page.locator("#list .answer")).to_have_count(1)
    assert any(iou(box, flower) > 0.4 for box in boxes_on(page).values())
    page.get_by_role("button", name="Remove like picture 1").click()

    page.locator("#prompts").fill("an animal with a tail")
    before = answered(page, "an animal with a tail").inner_text()
    page.locator("#finer summary").click()
    page.locator("#negatives").fill("a cat")
    expect(answered(page, "an animal with a tail")).not_to_have_text(before)


def test_a_second_tab_does_not_see_the_first_ones_picture(open_page: Any, client: Any) -> None:
    first, second = open_page(), open_page()
    first.locator("#examples button").first.click()
    answered(first, "a cat")
    assert second.locator("#stage").is_hidden()
    second.locator("#prompts").fill("a cat")
    second.locator("#examples button").nth(1).click()
    answered(second, "a swan")
    assert first.locator("#photo").get_attribute("src") != second.locator("#photo").get_attribute(
        "src"
    )
    second.reload()
    second.wait_for_selector("#examples button")
    assert second.locator("#stage").is_hidden()
    assert answered(first, "a cat")


def test_what_is_no_picture_or_too_large_gets_a_sentence(open_page: Any, tmp_path: Path) -> None:
    page = open_page()
    text = tmp_path / "notes.jpg"
    text.write_text("no picture at all")
    page.locator("#file").set_input_files(text)
    page.locator("#error").wait_for()
    assert "notes.jpg" in page.locator("#error").inner_text()
    assert "not a picture" in page.locator("#error").inner_text()
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(100_000_000)
    page.locator("#file").set_input_files(tmp_path / "large.jpg")
    expect(page.locator("#error")).to_contain_text("100 MB")
    assert "32 MB" in page.locator("#error").inner_text()
    page.locator("#examples button").first.click()
    answered(page, "a cat")
    assert page.locator("#error").is_hidden()
    page.locator("#model").select_option("broken")
    expect(page.locator("#error")).to_contain_text("broken")
    page.locator("#model").select_option("emoji")
    expect(page.locator("#error")).to_be_hidden()


def test_what_is_typed_or_a_file_is_called_is_never_taken_for_markup(
    open_page: Any, tmp_path: Path
) -> None:
    page = open_page()
    hostile = '<img src=x onerror="window.broken = 1">'
    Image.fromarray(demo_scene().image).save(tmp_path / f"{hostile}.png")
    page.locator("#prompts").fill(hostile)
    page.locator("#file").set_input_files(tmp_path / f"{hostile}.png")
    page.locator("#list .answer").wait_for()
    assert hostile in page.locator("#list .answer").inner_text()
    assert page.evaluate("window.broken") is None


def test_a_page_goes_on_after_the_server_has_forgotten_its_picture(
    open_page: Any, client: Any
) -> None:
    page = open_page()
    page.locator("#examples button").first.click()
    answered(page, "a cat")
    page.evaluate("picture.id = 'forgotten'")
    page.locator("#prompts").fill("a house")
    answered(page, "a house")
    assert page.locator("#error").is_hidden()


def test_a_library_shows_what_has_it_or_says_none(open_page: Any, library: Library | None) -> None:
    if library is None:
        pytest.skip("needs the extra index")
    page = open_page()
    page.get_by_role("tab", name="Library").click()
    page.locator("#query").fill("a cat")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#found")).to_have_text("a cat: 1 of 3 pictures")
    page.locator("#query").fill("a violin")
    page.keyboard.press("Enter")
    expect(page.locator("#found")).to_have_text("a violin: none of 3 pictures")
    page.locator("#query").fill("a cat")
    page.keyboard.press("Enter")
    page.locator("#wall:not(.doubtful) button").click()
    answered(page, "a cat")
    assert iou(next(iter(boxes_on(page).values())), CAT) > 0.6
    assert "garden.png" in page.locator("#facts").inner_text()


# Over HTTP --------------------------------------------------------------------------------------


def png(image: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "png")
    return data.getvalue()


def sent(client: Any, data: bytes, name: str = "a.png") -> Any:
    return client.post("/pictures", params={"name": name}, content=data)


def asked(client: Any, **question: Any) -> list[dict[str, Any]]:
    response = client.post("/ask", json={"model": "emoji", **question})
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def sentence(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert 0 < len(detail) < 400
    assert "\n" not in detail
    assert "Traceback" not in detail
    return str(detail)


def test_a_new_picture_shows_its_progress_and_a_kept_one_has_none(client: Any) -> None:
    image = demo_scene().image.copy()
    image[:8] = 7  # so that it is new
    picture = sent(client, png(image)).json()["id"]
    first = asked(client, picture=picture, prompts=["a cat"])
    steps = [line["done"] for line in first if "done" in line]
    assert steps == sorted(set(steps))
    assert len(steps) > 3
    assert {line["of"] for line in first if "of" in line} == {steps[-1]}
    (again,) = asked(client, picture=picture, prompts=["a cat"])
    assert again == first[-1]


def test_a_picture_that_nobody_waits_for_is_encoded_no_further(
    localizer: Localizer, client: Any
) -> None:
    image = np.tile(demo_scene().image, (1, 5, 1))  # of many windows
    image[:8] = 9
    picture = sent(client, png(image)).json()["id"]
    question = {"picture": picture, "model": "emoji", "prompts": ["a cat"]}
    with client.stream("POST", "/ask", json=question) as response:
        first = json.loads(next(response.iter_lines()))
    assert first["done"] < first["of"]
    steps = asked(client, **question)  # it is not kept, so it begins anew
    assert steps[0]["done"] < steps[0]["of"]
    assert "answer" in steps[-1]


def test_an_answer_is_the_localizers(client: Any, localizer: Localizer) -> None:
    data = png(demo_scene().image)
    picture = sent(client, data).json()["id"]
    (*_, line) = asked(client, picture=picture, prompts=["a cat", "a bicycle"], threshold=0.05)
    expected = Localizer(localizer.encoder, Options(threshold=0.05)).locate(
        data, ["a cat", "a bicycle"]
    )
    presence = [each["presence"] for each in line["answer"]["prompts"]]
    assert presence == pytest.approx(expected.presence.tolist(), abs=1e-3)
    boxes = [each["xyxy"] for each in line["answer"]["boxes"]]
    assert np.allclose(boxes, [box.xyxy for box in expected.boxes], atol=0.1)


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_every_download_is_a_file(client: Any, kind: str) -> None:
    picture = sent(client, png(demo_scene().image), "..\\../gar den.png").json()["id"]
    question = {"picture": picture, "model": "emoji", "prompts": ["a cat", "a butterfly"]}
    response = client.post(f"/download/{kind}", json=question)
    assert response.status_code == 200
    name = re.search(r"filename\*=utf-8''(.+)$", response.headers["content-disposition"]).group(1)  # type: ignore[union-attr]
    if name.endswith(".zip"):
        archive = zipfile.ZipFile(io.BytesIO(response.content))
        assert archive.testzip() is None
        assert not any(each.startswith(("/", "..")) for each in archive.namelist())
        if kind == "yolo":
            assert archive.read("yolo/images/gar den.png") == png(demo_scene().image)
            assert b"path" not in archive.read("yolo/data.yaml")
    else:
        assert len(response.content) > 20
    if kind == "json":
        assert response.json()["image"]["file"] == "gar den.png"


def test_pictures_are_forgotten_within_their_megabytes(client: Any) -> None:
    from localize.app.uploads import read_upload

    uploads = Uploads(0.001)
    one, other = (read_upload(png(demo_scene().image), "a.png", 10**7) for _ in range(2))
    uploads.add(one)
    uploads.add(other)
    assert uploads.find(other.id) is other
    with pytest.raises(Exception, match="no longer kept"):
        uploads.find(one.id)


def test_no_other_page_may_ask_and_nothing_is_loaded_from_elsewhere(
    client: Any, server: str
) -> None:
    headers = {"origin": "http://evil.example"}
    assert "another page" in sentence(client.post("/examples/0", headers=headers), 403)
    assert "not called" in sentence(client.get("/start", headers={"host": "evil.example"}), 421)
    assert client.post("/examples/0", headers={"origin": server}).status_code == 200
    for address in ("/", "/page.css", "/page.js"):
        response = client.get(address)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert not re.search(r"https?://|[\"'(]//", response.text)


def garbage() -> Iterator[tuple[str, str, Any]]:
    """A hundred kinds of requests that mean nothing."""
    values: list[Any] = [None, True, -1, 1e308, "", "\ud800x", "a" * 10_000, [], {}, [[]], "💥"]
    for field in ("picture", "model", "prompts", "negatives", "like", "threshold"):
        for value in values:
            yield "POST", "/ask", {"picture": "x", "model": "emoji", "prompts": ["a"], field: value}
    for body in (
        b"",
        b"{",
        b"\x00" * 1000,
        b"[" * 100_000,
        b'{"picture": NaN}',
        "ü".encode("latin-1"),
    ):
        for path in ("/ask", "/download/coco", "/search", "/pictures"):
            yield "POST", path, body
    for path in (
        "/pictures/x",
        "/pictures/..%2fpage.js",
        "/hits/x",
        "/examples/99",
        "/examples/-1",
    ):
        yield "GET", path, b""
        yield "POST", path, b""
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
        yield method, "/ask", b""


def test_a_hundred_kinds_of_garbage_get_a_sentence_and_the_next_question_an_answer(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = list(garbage())
    assert len(kinds) >= 100
    for method, path, body in kinds:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = client.request(
            method, path, content=content, headers={"content-type": "application/json"}
        )
        if response.status_code == 200:  # a stream has its refusal in its last line
            assert json.loads(response.text.splitlines()[-1])["detail"]
        else:
            assert response.status_code < 500, (method, path, body, response.text)
            assert sentence(response, response.status_code)
    picture = sent(client, png(demo_scene().image)).json()["id"]
    for like in ([[0, 0, 0, 0]], [[5, 5, 5.2, 900]], [[-1e300, 0, 1e300, 1]] * 60):
        boxes = [{"picture": picture, "box": box, "label": f"{n}"} for n, box in enumerate(like)]
        assert asked(client, picture=picture, like=boxes)[-1]["detail"]
    assert asked(client, picture=picture, prompts=["a"], negatives=["a"])[-1]["detail"]
    assert asked(client, picture=picture, prompts=["a cat"])[-1]["answer"]["boxes"]
    assert "Traceback" not in caplog.text


def test_an_upload_that_is_cut_leaves_nothing_and_the_next_one_is_taken(
    client: Any, server: str
) -> None:
    address = ("127.0.0.1", int(server.rsplit(":", 1)[1]))
    head = f"POST /pictures HTTP/1.1\r\nhost: {address[0]}\r\ncontent-length: 1000000\r\n\r\n"
    for _ in range(5):
        with socket.create_connection(address) as connection:
            connection.sendall(head.encode() + bytes(1000))
    assert sent(client, png(demo_scene().image)).status_code == 200
    too_large = sent(client, bytes(MAX_BYTES + 1))
    assert "32 MB" in sentence(too_large, 413)


# The command ------------------------------------------------------------------------------------


def test_sigterm_finishes_what_was_asked_and_ends_well() -> None:
    command = [sys.executable, "-m", "localize", "app", "--model", "emoji", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[1]  # type: ignore[union-attr]
        with (
            httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            pictures = [client.post(f"/examples/{n}").json()["id"] for n in range(4)]
            first = [
                pool.submit(asked, client, picture=picture, prompts=["a cat"])
                for picture in pictures
            ]
            asked(client, picture=pictures[0], prompts=["a cat"])
            process.send_signal(signal.SIGTERM)
            assert all("answer" in each.result()[-1] for each in first)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Stopped" in output
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", "70000"], "--port"),
        (["--keep", "-1"], "--keep"),
        (["--store", "/nowhere/at/all", "--port", "0"], "/nowhere"),
    ],
)
def test_a_wrong_option_is_named(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--model", "emoji", *arguments]) == 2
    assert word in capsys.readouterr().err


def test_without_the_extra_there_is_a_line_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("localize.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["app", "--model", "emoji"]) == 2
    assert "pip install 'clip-localize[app]'" in capsys.readouterr().err
