"""`localize serve`: what clients get, what is fetched, and that nothing brings the server down."""

from __future__ import annotations

import base64
import http.server
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from localize import Localizer, Options
from localize.cli import main
from localize.evaluation.scenes import concepts, demo_scene, place
from localize.prompts import PromptEmbedder

httpx = pytest.importorskip("httpx", reason="needs the extra app")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra app")
pytest.importorskip("fastapi", reason="needs the extra app")

from localize.serve.app import make_app  # noqa: E402
from localize.serve.desk import Desk  # noqa: E402
from localize.serve.pictures import Pictures, Place, places  # noqa: E402
from localize.serve.server import configured  # noqa: E402
from localize.serve.x_anylabeling import in_parts  # noqa: E402

MAX_BYTES = 2_000_000
CONFIG = """<View><Image name="photo" value="$picture"/>
<RectangleLabels name="kind" toName="photo">
  <Label value="a cat"/><Label value="Two-wheeler" alias="bike" predicted_values="a bicycle"/>
</RectangleLabels></View>"""


class Counting(Localizer):
    """Counts the pictures that were encoded."""

    encodes = 0

    def encode(self, image: Any, progress: Any = None) -> Any:
        self.encodes += 1
        return super().encode(image, progress)


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    plain = Localizer.from_pretrained("emoji")
    return Counting(plain.encoder, Options(max_pixels=2_000_000))


@contextmanager
def running(localizer: Localizer, pictures: Pictures, **options: Any) -> Iterator[Any]:
    """A client of a server of its own on the loopback."""
    desk = Desk(localizer, options.pop("megabytes", 100))
    app = make_app(desk, pictures, **options)
    server = uvicorn.Server(configured(app))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            client.desk, client.port = desk, port
            yield client
    finally:
        server.should_exit = True
        thread.join()
        desk.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label Studio's document root, and a file beside it."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "root" / "more").mkdir(parents=True)
    (folder / "secret.png").write_bytes(picture(1))
    (folder / "root" / "link.png").symlink_to(folder / "secret.png")
    os.mkfifo(folder / "root" / "pipe.png")
    return folder / "root"


@pytest.fixture(scope="module")
def client(localizer: Localizer, root: Path) -> Iterator[Any]:
    with running(localizer, Pictures(MAX_BYTES, folder=str(root))) as client:
        yield client


def picture(seed: int = 0, kind: str = "png", **options: Any) -> bytes:
    """A cat somewhere on a green ground, or for odd seeds none."""
    canvas = Image.new("RGB", (160, 120), (120, 180, 120 + seed % 50))
    if seed % 2 == 0:
        cat = next(concept for concept in concepts() if concept.name == "cat").glyphs[0]
        glyph = place(cat, 80, 0, mirror=False)
        canvas.paste(glyph, (5 + seed % 60, 20), glyph)
    data = io.BytesIO()
    canvas.save(data, kind, **options)
    return data.getvalue()


def locate(client: Any, data: bytes, *prompts: str, **fields: Any) -> Any:
    form = {"prompts": list(prompts), **fields}
    return client.post("/locate", files={"image": ("a.png", data)}, data=form)


def sentence(response: Any, status: int) -> str:
    """The one sentence of a refusal of this status."""
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    assert 0 < len(detail) < 400
    assert "\n" not in detail
    assert "Traceback" not in detail
    return detail


def predict(client: Any, *addresses: Any, config: str = CONFIG) -> Any:
    tasks = [{"id": n, "data": {"picture": address}} for n, address in enumerate(addresses)]
    return client.post("/predict", json={"tasks": tasks, "label_config": config, "project": "1.2"})


def as_data(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


# Answers ----------------------------------------------------------------------------------------


def test_locate_answers_what_the_localizer_does(client: Any, localizer: Localizer) -> None:
    answer = locate(client, picture(), "a cat", "a bicycle")
    assert answer.status_code == 200
    expected = localizer.locate(picture(), ["a cat", "a bicycle"]).to_dict()
    del expected["image"]["file"]
    assert answer.json() == expected
    assert [box["label"] for box in answer.json()["boxes"]] == ["a cat"]


def test_a_threshold_of_the_request_is_the_localizers_own(
    client: Any, localizer: Localizer
) -> None:
    scene = io.BytesIO()
    Image.fromarray(demo_scene().image).save(scene, "png")
    for threshold in (0, 0.3, 1):
        other = Localizer(localizer.encoder, Options(threshold=threshold))
        expected = other.locate(scene.getvalue(), ["a cat", "a butterfly"]).to_dict()["boxes"]
        answer = locate(client, scene.getvalue(), "a cat", "a butterfly", threshold=threshold)
        assert answer.json()["boxes"] == expected


def test_a_kept_picture_is_not_encoded_again(client: Any, localizer: Counting) -> None:
    locate(client, picture(20), "a cat")
    before = localizer.encodes
    assert locate(client, picture(20), "a bicycle").json()["presence"][0] < 0.1
    assert localizer.encodes == before
    locate(client, picture(22), "a cat")
    assert localizer.encodes == before + 1


def test_a_question_about_a_kept_picture_waits_for_no_new_one(localizer: Counting) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Localizer):
        def encode(self, image: Any, progress: Any = None) -> Any:
            if begun.is_set():
                go_on.wait(60)
            begun.set()
            return super().encode(image, progress)

    with (
        running(Slow(localizer.encoder), Pictures(MAX_BYTES)) as client,
        ThreadPoolExecutor(1) as beside,
    ):
        locate(client, picture(30), "a cat")
        new = beside.submit(locate, client, picture(32), "a cat")
        try:
            assert locate(client, picture(30), "a dog").status_code == 200
            assert not new.done()
        finally:
            go_on.set()
        assert new.result().json()["boxes"]


def test_kept_pictures_stay_within_their_megabytes_and_the_oldest_go(localizer: Counting) -> None:
    megabytes = 2.5 * localizer.prepare(localizer.encode(picture())).nbytes / 1e6
    with running(localizer, Pictures(MAX_BYTES), megabytes=megabytes) as client:
        for seed in (0, 2, 4, 2):
            locate(client, picture(seed), "a cat")
        before = localizer.encodes
        assert 0 < client.desk.kept_bytes <= megabytes * 1e6
        locate(client, picture(2), "a cat")
        assert localizer.encodes == before
        locate(client, picture(0), "a cat")
        assert localizer.encodes == before + 1
    with running(localizer, Pictures(MAX_BYTES), megabytes=0) as client:
        assert locate(client, picture(), "a cat").json()["boxes"]
        assert client.desk.kept_bytes == 0


def test_many_who_ask_at_once_each_get_their_own_answer(client: Any, localizer: Localizer) -> None:
    questions = [(picture(seed), prompt) for seed in range(6) for prompt in ("a cat", "a dog")] * 2
    expected = [localizer.locate(*question).to_dict()["boxes"] for question in questions[:12]] * 2
    assert any(expected)
    assert not all(expected)
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = list(pool.map(lambda question: locate(client, *question), questions))
    assert [answer.json()["boxes"] for answer in answers] == expected


def test_what_is_remembered_of_prompts_is_bounded(
    localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localize.prompts.MOST_KNOWN", 10)
    embed = PromptEmbedder(localizer.encoder)
    first = embed([("a cat",)])
    for number in range(30):
        embed([(f"thing {number}", f"object {number}")])
        assert len(embed._known) <= 10
    assert np.allclose(embed([("a cat",)]), first)


# Label Studio -----------------------------------------------------------------------------------


def test_label_studio_gets_regions_in_percent_of_the_upright_picture(
    client: Any, localizer: Localizer, root: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter: a portrait picture, stored lying down
    upright = Image.open(io.BytesIO(picture())).rotate(90, expand=True)
    turned = io.BytesIO()
    upright.rotate(90, expand=True).save(turned, "jpeg", quality=95, exif=exif)
    (root / "more" / "a photo.jpg").write_bytes(turned.getvalue())
    assert client.get("/health").json()["status"] == "UP"
    setup = client.post("/setup", json={"schema": CONFIG, "hostname": "http://x", "project": "1.2"})
    answer = predict(client, "/data/local-files/?d=more/a%20photo.jpg")
    assert answer.status_code == 200
    (prediction,) = answer.json()["results"]
    assert prediction["model_version"] == setup.json()["model_version"]
    expected = localizer.locate(turned.getvalue(), ["a cat", "a bicycle"])
    assert prediction["score"] == pytest.approx(float(expected.presence.max()))
    (region,), (box,) = prediction["result"], expected.boxes
    assert (region["original_width"], region["original_height"]) == (120, 160)
    assert (region["from_name"], region["to_name"]) == ("kind", "photo")
    assert region["type"] == "rectanglelabels"
    value = region["value"]
    assert value["rectanglelabels"] == ["a cat"]
    left, top = value["x"] * 1.2, value["y"] * 1.6
    right, bottom = left + value["width"] * 1.2, top + value["height"] * 1.6
    assert (left, top, right, bottom) == pytest.approx(box.xyxy)
    assert region["score"] == pytest.approx(box.score)


def test_a_label_is_asked_by_its_predicted_values_and_called_by_its_alias(client: Any) -> None:
    config = CONFIG.replace("a bicycle", "a bicycle, a cat").replace('<Label value="a cat"/>', "")
    (prediction,) = predict(client, as_data(picture()), config=config).json()["results"]
    assert [each["value"]["rectanglelabels"] for each in prediction["result"]] == [["bike"]]


def test_the_version_changes_with_the_labels(client: Any) -> None:
    def version(config: str) -> str:
        return client.post("/setup", json={"schema": config}).json()["model_version"]

    assert version(CONFIG) == version(CONFIG)
    assert version(CONFIG) != version(CONFIG.replace("a cat", "a dog"))


def test_of_several_tasks_one_without_a_picture_gets_no_prediction(client: Any) -> None:
    results = predict(client, as_data(picture()), as_data(b"no picture"), None).json()["results"]
    assert results[0]["result"]
    assert results[1:] == [[], []]
    assert "not a picture" in sentence(predict(client, as_data(b"no picture")), 422)
    assert "'picture'" in sentence(predict(client, None), 422)


LAUGHS = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("", "no XML"),
        ("<View>", "no XML"),
        ("<View/>", "RectangleLabels"),
        (CONFIG.replace('toName="photo"', 'toName="text"'), "toName"),
        (CONFIG.replace("RectangleLabels", "BrushLabels"), "RectangleLabels"),
        (CONFIG.replace("$picture", "http://x/$picture"), "$field"),
        (CONFIG.replace('"a cat"', '""'), "value"),
        (CONFIG.replace("<Label", "<Choice"), "no Label"),
        (CONFIG.replace("a cat", "cat" * 200), "letters"),
        (CONFIG + " " * 300_000, "200,000"),
        (f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]><View>&a9;</View>', "DOCTYPE"),
        ('<!doctype x SYSTEM "file:///etc/passwd"><View/>', "DOCTYPE"),
        ("<View>" * 20_000 + "</View>" * 20_000, "letters"),
        ("<View>" * 15_000 + "</View>" * 15_000, "RectangleLabels"),
        ("\x00", "no XML"),
        ("<View>&x;</View>", "no XML"),
    ],
)
def test_a_wrong_label_configuration_gets_a_sentence(client: Any, config: str, word: str) -> None:
    assert word in sentence(predict(client, as_data(picture()), config=config), 422)
    if config:
        assert word in sentence(client.post("/setup", json={"schema": config}), 422)


def test_local_files_are_read_below_their_folder_only(client: Any, root: Path) -> None:
    (root / "here.png").write_bytes(picture())
    assert predict(client, "/data/local-files/?d=here.png").status_code == 200
    names = ["../secret.png", "link.png", "more", "", "pipe.png", "gone.png", "a%00b", "%2e%2e/x"]
    for name in [*names, str(root.parent / "secret.png"), "x" * 5000]:
        refused = predict(client, f"/data/local-files/?d={name}")
        assert sentence(refused, 422)
    (root / "huge.png").write_bytes(b"x" * (MAX_BYTES + 1))
    assert "2 MB" in sentence(predict(client, "/data/local-files/?d=huge.png"), 422)


# Addresses --------------------------------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    """Serves a picture, a redirect to it, an endless one, and tokens as Label Studio does."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        found = {"/redirect": 302, "/gone": 404}.get(self.path, 200)
        self.send_response(found)
        self.send_header("Location", "/photo.png")
        self.end_headers()
        if self.path == "/endless":
            try:
                while True:
                    self.wfile.write(bytes(100_000))
            except OSError:
                return
        if found == 200:
            self.wfile.write(picture())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"access": f"access to {body['refresh']}"}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_nothing_is_fetched_from_hosts_that_are_not_allowed(client: Any, site: Any) -> None:
    port = site.server_port
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
        refused = predict(client, f"http://{host}:{port}/photo.png")
        assert "--allow-host" in sentence(refused, 403)
    assert "--label-studio" in sentence(predict(client, "/data/upload/1/a.png"), 403)
    odd = [
        "file:///etc/passwd",
        "ftp://x/a",
        "s3://bucket/a.png",
        "http://",
        "http://[",
        "photo.png",
    ]
    for address in [*odd, f"http://me:pw@127.0.0.1:{port}/a", "//127.0.0.1/a.png\x00", "gopher:a"]:
        assert predict(client, address).status_code in (403, 422), address
    assert site.asked == []


def test_pictures_are_fetched_from_allowed_hosts_without_following_them_elsewhere(
    localizer: Localizer, site: Any
) -> None:
    here = f"127.0.0.1:{site.server_port}"
    allowed = Pictures(MAX_BYTES, places=places([here]), label_studio_key="key")
    with running(localizer, allowed) as client:
        assert predict(client, f"http://{here}/photo.png").json()["results"][0]["result"]
        assert "redirect" in sentence(predict(client, f"http://{here}/redirect"), 502)
        assert "404" in sentence(predict(client, f"http://{here}/gone"), 502)
        assert "2 MB" in sentence(predict(client, f"http://{here}/endless"), 422)
        assert sentence(predict(client, f"http://localhost:{site.server_port}/photo.png"), 403)
        assert sentence(predict(client, "http://127.0.0.1:1/photo.png"), 403)
    paths = ["/photo.png", "/redirect", "/gone", "/endless"]
    assert site.asked == [(path, None) for path in paths]


@pytest.mark.parametrize(
    ("key", "sent"), [("abc", "Token abc"), ("a.b.c", "Bearer access to a.b.c"), (None, None)]
)
def test_uploads_are_fetched_from_label_studio_with_its_key(
    localizer: Localizer, site: Any, key: str | None, sent: str | None
) -> None:
    own = f"http://127.0.0.1:{site.server_port}"
    pictures = Pictures(MAX_BYTES, label_studio=own, label_studio_key=key)
    with running(localizer, pictures) as client:
        for address in ("/data/upload/1/photo.png", f"{own}/data/upload/1/photo.png"):
            assert predict(client, address).json()["results"][0]["result"]
        assert sentence(predict(client, "//localhost/photo.png"), 403)
    assert site.asked == [("/data/upload/1/photo.png", sent)] * 2


def test_a_host_is_allowed_with_its_port() -> None:
    assert Place.of("Pictures.example.org").has(httpx.URL("https://pictures.example.org/a"))
    assert not Place.of("example.org").has(httpx.URL("http://example.org:8080/a"))
    assert not Place.of("example.org").has(httpx.URL("http://pictures.example.org/a"))
    assert not Place.of("example.org:443").has(httpx.URL("http://example.org/a"))
    assert Place.of("[::1]:8080").has(httpx.URL("http://[::1]:8080/a"))
    for wrong in ("", "http://a", "a/b", "a:b", "u@a", "a:99999"):
        with pytest.raises(ValueError, match="HOST"):
            Place.of(wrong)


# X-AnyLabeling ----------------------------------------------------------------------------------


def test_x_anylabeling_gets_rectangles_for_its_text_prompt(
    client: Any, localizer: Localizer
) -> None:
    (name,) = client.get("/v1/models").json()["data"]
    params = {"text_prompt": "a cat. a bicycle", "conf_threshold": 0.0, "iou_threshold": 0.0}
    question = {"model": name, "image": as_data(picture()), "params": params}
    answer = client.post("/v1/predict", json=question).json()
    assert answer["success"] is True
    (shape,), (box,) = answer["data"]["shapes"], localizer.locate(picture(), "a cat").boxes
    left, top, right, bottom = box.xyxy
    assert shape["label"] == "a cat"
    assert shape["shape_type"] == "rectangle"
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    np.testing.assert_allclose(shape["points"], corners, rtol=1e-5)
    assert shape["score"] == pytest.approx(box.score)
    question["image"] = base64.b64encode(picture()).decode()  # without "data:" as well
    assert client.post("/v1/predict", json=question).json() == answer
    params["conf_threshold"] = 1.0
    assert client.post("/v1/predict", json=question).json()["data"]["shapes"] == []
    refused = client.post("/v1/predict", json=question | {"model": "other"})
    assert refused.json()["success"] is False
    assert "other" in sentence(refused, 404)


def test_prompts_stand_between_commas_and_full_stops() -> None:
    assert in_parts("cat. dog , a v1.5 bike;\n bus.") == ["cat", "dog", "a v1.5 bike", "bus"]
    assert in_parts(" ., ") == []


# What the gate keeps out ------------------------------------------------------------------------


def test_with_a_token_only_those_who_bring_it_are_answered(localizer: Localizer) -> None:
    with running(localizer, Pictures(MAX_BYTES), token="sécret") as client:
        for path in ("/livez", "/readyz"):
            assert client.get(path).status_code == 200
        assert "token" in sentence(client.get("/v1/models"), 401)
        assert sentence(locate(client, picture(), "a cat"), 401)
        for wrong in ("Bearer secret", "Basic !", "Bearer", "Token sécret2"):
            headers = {"Authorization": wrong.encode()}
            assert sentence(client.get("/health", headers=headers), 401)
        basic = b"Basic " + base64.b64encode("anybody:sécret".encode())
        for right in ("Bearer sécret".encode(), "Token sécret".encode(), basic):
            assert client.get("/health", headers={"Authorization": right}).status_code == 200
        assert client.get("/v1/models", headers={"Token": "sécret".encode()}).status_code == 200


def test_pages_that_call_the_loopback_by_a_name_of_theirs_are_refused(localizer: Localizer) -> None:
    with running(localizer, Pictures(MAX_BYTES), hosts=frozenset({"127.0.0.1"})) as client:
        assert client.get("/health").status_code == 200
        assert sentence(client.get("/health", headers={"Host": "evil.example:80"}), 421)


def test_a_body_that_is_too_large_is_refused_whole_or_in_pieces(client: Any) -> None:
    assert "2 MB" in sentence(locate(client, bytes(3 * MAX_BYTES), "a cat"), 413)
    pieces = client.post("/predict", content=(bytes(100_000) for _ in range(25)))
    assert "2 MB" in sentence(pieces, 413)
    assert locate(client, picture(), "a cat").json()["boxes"]


def test_no_picture_and_a_bomb_get_a_sentence(client: Any) -> None:
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "png")
    assert "30000 x 30000" in sentence(locate(client, bomb.getvalue(), "a cat"), 422)
    assert "not a picture" in sentence(locate(client, b"some text", "a cat"), 422)
    assert sentence(locate(client, picture()[:300], "a cat"), 422)
    assert "empty" in sentence(locate(client, b"", "a cat"), 422)
    assert sentence(client.post("/locate", data={"prompts": "a cat"}), 422)
    assert sentence(client.post("/locate", files={"image": picture()}), 422)
    assert "threshold" in sentence(locate(client, picture(), "a cat", threshold=2), 422)
    assert "300" in sentence(locate(client, picture(), *map(str, range(301))), 422)
    assert "blank" in sentence(locate(client, picture(), " "), 422)


def garbage() -> Iterator[tuple[str, bytes, str]]:
    """Paths, bodies and their types that no client should send: a hundred kinds."""
    whole = {"tasks": [{"id": 1, "data": {"picture": "x"}}], "label_config": CONFIG}
    ask = {"model": "localize", "image": "x", "params": {"text_prompt": "a cat"}}
    odd = [None, 1, "", "x", [], {}, [[]], [None], -1e999, "\ud800", "data:,", True]
    for value in odd:
        if value != []:  # no tasks have no predictions, which is fine
            yield "/predict", json.dumps(whole | {"tasks": value}).encode(), "application/json"
        wrong = whole | {"label_config": value}
        yield "/predict", json.dumps(wrong).encode(), "application/json"
        task = {"id": value, "data": {"picture": value}}
        yield "/predict", json.dumps(whole | {"tasks": [task]}).encode(), "application/json"
        yield "/v1/predict", json.dumps(ask | {"image": value}).encode(), "application/json"
        yield "/v1/predict", json.dumps(ask | {"params": value}).encode(), "application/json"
        params = {"text_prompt": value, "conf_threshold": value}
        yield "/v1/predict", json.dumps(ask | {"params": params}).encode(), "application/json"
    raw = [b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\x00", b"null", b"\x00" * 999]
    for body in raw:
        for path in ("/predict", "/v1/predict"):
            yield path, body, "application/json"
        yield "/locate", body, "multipart/form-data"
        yield "/locate", body, "multipart/form-data; boundary=x"
        yield "/locate", body, "application/x-www-form-urlencoded"
    part = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    for body in (part, part * 3, part + b"a\r\n--x--", b"--x\r\n\r\n\r\n--x--", b"--x--" * 999):
        yield "/locate", body, "multipart/form-data; boundary=x"


def test_a_hundred_kinds_of_garbage_get_a_sentence_each_and_the_server_lives_on(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kinds = list(garbage())
    assert len(kinds) >= 100
    for path, body, content in kinds:
        answer = client.post(path, content=body, headers={"Content-Type": content})
        assert 400 <= answer.status_code < 500, (path, body[:200], answer.text)
        assert sentence(answer, answer.status_code)
    for method, path in (("GET", "/locate"), ("PUT", "/health"), ("GET", "/../../etc/passwd")):
        assert client.request(method, path).status_code in (404, 405)
    for sent in (
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01" * 50,
        b"POST /locate HTTP/1.1\r\n" * 9,
    ):
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(sent)
    assert locate(client, picture(), "a cat").json()["boxes"]
    assert not [each for each in caplog.records if each.exc_info]
    assert "Traceback" not in caplog.text


def test_a_connection_cut_in_mid_upload_leaves_nothing_behind(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head = b"POST /locate HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    for _ in range(40):  # more than may be inside at once
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head + bytes(1000))
    answer = locate(client, picture(), "a cat")
    patience = time.monotonic() + 30
    while answer.status_code == 503 and time.monotonic() < patience:
        answer = locate(client, picture(), "a cat")  # the server has yet to notice the last cuts
    assert answer.json()["boxes"]
    assert client.get("/readyz").json() == {"status": "ready"}
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


def test_an_upload_that_stalls_is_given_up(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localize.serve.gate.STALL_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408")


def test_too_many_at_once_are_told_to_come_back(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localize.serve.gate.MOST_AT_ONCE", 0)
    answer = locate(client, picture(), "a cat")
    assert sentence(answer, 503)
    assert answer.headers["Retry-After"]
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200


def test_an_error_of_the_model_is_a_sentence_and_the_server_lives_on(
    client: Any, localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError("no\nroom")

    with monkeypatch.context() as patch:
        patch.setattr(localizer.encoder, "encode_crops", broken)
        assert "log" in sentence(locate(client, picture(40), "a cat"), 500)
    assert locate(client, picture(40), "a cat").json()["boxes"]


def test_the_page_loads_nothing_and_openapi_describes_every_request(client: Any) -> None:
    for path in ("/", "/docs"):
        page = client.get(path).text
        assert "/locate" in page
        assert "<script" not in page
        assert "src=" not in page
        assert "//" not in page.replace("http://HOST:PORT", "")
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/locate", "/predict", "/setup", "/health", "/v1/models", "/v1/predict"} <= set(paths)
    assert "multipart/form-data" in paths["/locate"]["post"]["requestBody"]["content"]


# The process ------------------------------------------------------------------------------------


def upload(data: bytes) -> bytes:
    """A whole request to `/locate`, as bytes."""
    with httpx.Client() as client:
        form = {"files": {"image": data}, "data": {"prompts": "a cat"}}
        request = client.build_request("POST", "http://127.0.0.1/locate", **form)
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    start = "\r\n".join(["POST /locate HTTP/1.1", *head, "connection: close", "", ""])
    return start.encode() + request.read()


def test_sigterm_under_load_finishes_what_has_come_and_ends_well() -> None:
    command = [sys.executable, "-m", "localize", "serve", "--model", "emoji", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split(" at ")[1].split(";")[0]  # type: ignore[union-attr]
        port = int(address.rsplit(":", 1)[1])
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        *whole, half = connections
        for seed, connection in enumerate(whole):
            connection.sendall(upload(picture(seed)))
        late = upload(picture(50))
        half.sendall(late[:-1000])
        assert httpx.get(f"{address}/livez", trust_env=False).status_code == 200  # so all are in
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:  # until nobody listens any more
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                break
        half.sendall(late[-1000:])
        for connection in connections:
            with connection, connection.makefile("rb") as file:
                assert file.readline() == b"HTTP/1.1 200 OK\r\n"
                assert b"presence" in file.read()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "every request that had come is answered" in output
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", "70000"], "--port"),
        (["--token", ""], "--token"),
        (["--keep", "-1"], "--keep"),
        (["--max-upload", "nan"], "--max-upload"),
        (["--allow-host", "http://a/"], "HOST"),
        (["--local-files", "/nowhere/at/all"], "--local-files"),
        (["--label-studio", "localhost:8080"], "--label-studio"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_loaded(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", "no/such-model", *arguments]) == 2
    assert word in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", "emoji", "--port", port]) == 1
    assert port in capsys.readouterr().err


def test_without_the_extra_there_is_a_line_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("localize.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", "--model", "emoji"]) == 2
    assert "pip install 'clip-localize[app]'" in capsys.readouterr().err
