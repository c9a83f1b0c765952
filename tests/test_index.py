"""A store of a library: what is encoded when, and what a search of it answers."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
import webbrowser
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from colours import COLOURS, ColourEncoder
from PIL import Image

pytest.importorskip("lancedb", reason="needs the extra 'index'")

from localize import Index, Localizer, Options, Prompt
from localize.cli import main
from localize.files import OutputError
from localize.index import Progress, Store, StoreError, duplicates, settings_of, update
from localize.index.schema import embeddings_in

OPTIONS = Options(scales=(1.0, 0.5))
NAMES = ("red", "green", "blue", "yellow")


class Counting(ColourEncoder):
    """Counts the crops that it has embedded."""

    name = "ColourEncoder"

    def __init__(self) -> None:
        self.crops = 0

    def encode_crops(self, crops):
        self.crops += len(crops)
        return super().encode_crops(crops)


def picture(path: Path, name: str, corner: int = 40, exif: Image.Exif | None = None) -> Path:
    """A grey picture with a square of a colour in its upper left corner."""
    image = Image.new("RGB", (120, 80), COLOURS["grey"])
    image.paste(COLOURS[name], (0, 0, corner, corner))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({} if exif is None else {"exif": exif}))
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder of four pictures of a colour each."""
    for name in NAMES:
        picture(tmp_path / "library" / f"{name}.png", name)
    return tmp_path / "library"


def run(folder: Path, encoder: ColourEncoder | None = None, **options: bool) -> Progress:
    """Index a folder into a store beside it."""
    localizer = Localizer(encoder or ColourEncoder(), OPTIONS)
    store = Store.create(folder.parent / "store", settings_of(localizer))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    *_, progress = update(store, paths, localizer, folders=[folder], **options)
    return progress


def opened(folder: Path) -> Index:
    return Index.open(folder.parent / "store", localizer=Localizer(ColourEncoder(), OPTIONS))


def files(hits) -> list[str]:
    return [Path(hit.file).name for hit in hits]


def content(folder: Path) -> tuple[list, list, np.ndarray]:
    """All that a store holds, in an order of its own."""
    store = Store.open(folder.parent / "store")
    rows = sorted(store.picture_rows(), key=lambda row: row["path"])
    windows = store.windows_of(row["content"] for row in rows if row["content"])
    windows = windows.sort_by([("content", "ascending"), ("number", "ascending")])
    plain = windows.select(["content", "number", "scale", "box"]).to_pylist()
    return rows, plain, embeddings_in(windows, store.settings.dimensions).numpy()


# Searching --------------------------------------------------------------------------------------


def test_the_picture_that_shows_it_is_found_with_its_place(library: Path) -> None:
    run(library)
    (hit,) = opened(library).search("red", fast=True)
    assert hit.file == str(library / "red.png")
    assert hit.presence > 0.9
    left, top, right, bottom = hit.box.xyxy
    assert left < 20 < right
    assert top < 20 < bottom


def test_of_a_library_without_it_the_answer_is_none(library: Path) -> None:
    (library / "yellow.png").unlink()
    run(library)
    assert opened(library).search("yellow") == []


@pytest.mark.parametrize("prompt", [*NAMES, "orange", Prompt.of("warm", any=["red", "orange"])])
@pytest.mark.parametrize("negatives", [(), ("orange",)])
def test_presence_is_that_of_the_best_window_of_locate(
    library: Path, prompt: str | Prompt, negatives: tuple[str, ...]
) -> None:
    """A softmax for each alternative over the negatives but its near-synonyms, written out."""
    run(library)
    encoder = ColourEncoder()
    localizer = Localizer(encoder, OPTIONS)
    texts = ["red", "orange"] if isinstance(prompt, Prompt) else [prompt]
    wanted = encoder.encode_prompts(texts).numpy()
    bank = encoder.encode_prompts(list(encoder.negatives)).numpy()
    own = encoder.encode_prompts(list(negatives)).numpy() if negatives else bank[:0]
    rivals = np.concatenate([bank, own])
    rivals = rivals[(rivals @ wanted.T < 0.95).all(1)]
    expected = {}
    for path in library.iterdir():
        windows = localizer.encode(path).embeddings.numpy()
        odds = np.exp(30 * windows @ wanted.T)
        against = np.exp(30 * windows @ rivals.T).sum(1, keepdims=True)
        expected[str(path)] = (odds / (odds + against)).max()
    hits = opened(library).search(prompt, negatives=negatives, min_presence=0.0, fast=True)
    assert {hit.file: hit.presence for hit in hits} == pytest.approx(expected, abs=2e-3)


def test_of_a_library_that_was_emptied_the_answer_is_none(library: Path) -> None:
    run(library)
    for path in library.iterdir():
        path.unlink()
    run(library, prune=True)
    assert opened(library).search(["red", "blue"]) == opened(library).search("orange") == []


def test_the_second_look_gives_the_boxes_of_locate(library: Path) -> None:
    run(library)
    (hit,) = opened(library).search("red")
    result = Localizer(ColourEncoder(), OPTIONS).locate(library / "red.png", "red")
    assert hit.exact
    assert list(hit.boxes) == result.boxes


def test_presence_after_the_second_look_is_the_mean_of_windows_and_boxes(library: Path) -> None:
    run(library)
    index = opened(library)
    (window,) = index.search(["red", "grey"], fast=True)[:1]
    (hit,) = index.search(["red", "grey"], min_presence=0.0, folder=library)[:1]
    best = [box.score for box in hit.boxes[:2]]
    assert hit.file == window.file
    assert hit.presences == pytest.approx(np.sqrt(np.multiply(window.presences, best)))
    assert hit.presence == min(hit.presences)


def test_where_the_second_look_finds_nothing_is_no_hit(library: Path) -> None:
    """As in a picture of one colour, of which nothing stands out."""
    picture(library / "plain.png", "red", 120)
    run(library)
    index = opened(library)
    looked = []
    index.on_look = looked.append
    assert set(files(index.search("red", fast=True))) == {"red.png", "plain.png"}
    assert files(index.search("red")) == ["red.png"]
    assert {Path(result.source).name for result in looked} == {"red.png", "plain.png"}
    assert index.search("red", min_presence=0.0)[-1].presence == 0
    assert files(index.search("red", top=1)) == ["red.png"]


def test_a_hit_whose_file_is_gone_keeps_its_window(library: Path) -> None:
    run(library)
    (library / "red.png").unlink()
    index = opened(library)
    assert index.search("red") == index.search("red", fast=True)
    assert files(index.search("red")) == ["red.png"]


def test_of_several_prompts_all_must_be_there(library: Path) -> None:
    image = Image.open(library / "red.png")
    image.paste(COLOURS["blue"], (80, 40, 120, 80))
    image.save(library / "both.png")
    run(library)
    (hit,) = opened(library).search(["red", "blue"], fast=True)
    assert Path(hit.file).name == "both.png"
    assert [box.label for box in hit.boxes] == ["red", "blue"]
    assert hit.presence == min(box.score for box in hit.boxes)
    assert set(files(opened(library).search("red"))) == {"red.png", "both.png"}


def test_hits_can_be_had_of_a_folder_and_of_a_time(library: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 5"
    exif.get_ifd(0x8769)[0x9003] = "2019:05:04 03:02:01"
    picture(library / "old" / "red.jpg", "red", exif=exif)
    run(library)
    index = opened(library)
    (hit,) = index.search("red", folder=library / "old")
    assert (hit.taken, hit.camera) == (datetime(2019, 5, 4, 3, 2, 1), "Maker Model 5")
    assert files(index.search("red", after=datetime(2019, 5, 4))) == ["red.jpg"]
    assert index.search("red", before=datetime(2019, 5, 4)) == []
    assert len(index.search("red")) == 2


def test_enough_pictures_are_found_among_many_windows_of_one(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localize.index.search.LEAST_FETCHED", 1)
    monkeypatch.setattr("localize.index.search.AHEAD", 1)
    for side in (60, 70, 79):
        picture(library / f"red-{side}.png", "red", side)
    run(library)
    assert len(opened(library).search("red", top=4, fast=True)) == 4


def test_a_large_store_gets_an_index_and_a_new_one_once_it_has_grown(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localize.index.store.NEEDS_INDEX", 20)
    run(library)
    index = opened(library)

    def indexes() -> list[str]:
        return [each.name for each in index.store.windows.list_indices()]

    built = [f"vector_{index.store.count_windows()}"]
    assert indexes() == built
    assert files(index.search("red", fast=True)) == ["red.png"]
    picture(library / "one.png", "red", 60)
    run(library)
    assert set(files(index.search("red", fast=True))) == {"red.png", "one.png"}
    assert indexes() == built
    for side in range(61, 79):
        picture(library / f"red-{side}.png", "red", side)
    run(library)
    assert len(index.search("red", fast=True, top=30)) == 20
    assert indexes() == [f"vector_{index.store.count_windows()}"] != built


# Bringing up to date ----------------------------------------------------------------------------


def test_a_second_run_encodes_nothing(library: Path) -> None:
    first, second = Counting(), Counting()
    assert run(library, first).encoded == 4
    before = content(library)
    progress = run(library, second)
    assert (progress.encoded, progress.unchanged) == (0, 4)
    assert first.crops > 0
    assert second.crops == 0
    assert repr(content(library)) == repr(before)


def test_what_was_moved_copied_or_touched_is_known_by_its_content(library: Path) -> None:
    run(library)
    (library / "red.png").rename(library / "moved.png")
    (library / "copy.png").write_bytes((library / "blue.png").read_bytes())
    os.utime(library / "green.png", (1, 1))
    encoder = Counting()
    progress = run(library, encoder)
    assert (progress.known, progress.unchanged, progress.missing) == (3, 2, 1)
    assert encoder.crops == 0
    index = opened(library)
    assert files(index.search("red")) == ["moved.png"]
    assert set(files(index.search("blue"))) == {"blue.png", "copy.png"}
    assert run(library).unchanged == 5


def test_equal_files_of_one_run_are_encoded_once(library: Path) -> None:
    for number in range(3):
        (library / f"copy-{number}.png").write_bytes((library / "blue.png").read_bytes())
    progress = run(library)
    assert (progress.encoded, progress.known) == (4, 3)
    assert len(opened(library)) == 7


def test_what_has_changed_is_replaced(library: Path) -> None:
    run(library)
    picture(library / "red.png", "yellow", 50)
    assert run(library).encoded == 1
    index = opened(library)
    assert index.search("red") == []
    assert set(files(index.search("yellow"))) == {"red.png", "yellow.png"}
    rows, windows, _ = content(library)
    assert index.store.count_windows() == len(windows)
    assert len(rows) == 4


def test_what_is_gone_is_missing_until_it_is_pruned_or_back(library: Path) -> None:
    run(library)
    kept = (library / "red.png").read_bytes()
    (library / "red.png").unlink()
    assert run(library).missing == 1
    index = opened(library)
    assert (len(index), index.search("red")) == (3, [])
    (library / "red.png").write_bytes(kept)
    encoder = Counting()
    run(library, encoder)
    assert (len(opened(library)), encoder.crops) == (4, 0)
    (library / "red.png").unlink()
    assert run(library, prune=True).pruned == 1
    assert len(content(library)[0]) == 3
    run(library, prune=True)
    assert opened(library).store.count_windows() == len(content(library)[1])


def test_pictures_of_other_folders_are_left_alone(library: Path, tmp_path: Path) -> None:
    run(library)
    picture(tmp_path / "other" / "red.png", "red", 50)
    assert run(tmp_path / "other", prune=True).missing == 0
    assert len(opened(library)) == 5


def test_what_cannot_be_read_is_remembered_and_tried_again_when_it_changes(library: Path) -> None:
    bad = library / "bad.png"
    bad.write_bytes(b"no picture")
    progress = run(library)
    (sentence,) = progress.problems
    assert sentence.startswith(f"cannot read {bad}: it is not a picture")
    (row,) = opened(library).store.picture_rows("problem IS NOT NULL")
    assert (row["path"], row["problem"]) == (str(bad), sentence)
    again = run(library)
    assert (again.failed, again.problems, len(opened(library))) == (1, [], 4)
    picture(bad, "red", 50)
    assert run(library).encoded == 1
    assert len(opened(library)) == 5


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from colours import ColourEncoder
from localize import Localizer, Options
from localize.index import Store, settings_of, update
import localize.index.updates

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

localize.index.updates.WINDOWS_AT_ONCE = 1
folder, after, place = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
localizer = Localizer(ColourEncoder(), Options(scales=(1.0, 0.5), batch_size=1))
store = Store.create(folder.parent / "store", settings_of(localizer))
for number, _ in enumerate(update(store, sorted(folder.iterdir()), localizer, folders=[folder])):
    if number == after:
        setattr(Store, place, die)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("place", ["add_windows", "add_pictures"])
def test_a_killed_run_goes_on_to_what_an_unbroken_one_makes(
    library: Path, tmp_path: Path, place: str
) -> None:
    tests = str(Path(__file__).parent)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tests, str(library), "1", place], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    progress = run(library)
    assert (progress.unchanged, progress.encoded) == (2, 2)
    rows, windows, vectors = content(library)
    (tmp_path / "store").rename(tmp_path / "killed")
    run(library)
    unbroken = content(library)
    assert (rows, windows) == unbroken[:2]
    assert np.abs(vectors - unbroken[2]).max() < 1e-3


# Object storage ---------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket on an S3 server of this machine."""
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    running = server.ThreadedMotoServer(port=0)
    running.start()
    endpoint = "http://{}:{}".format(*running.get_host_and_port())
    settings = {"ENDPOINT": endpoint, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    keys = {"ACCESS_KEY_ID": "some", "SECRET_ACCESS_KEY": "key"}
    for name, value in (settings | keys).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    request = urllib.request.Request(f"{endpoint}/pictures", method="PUT")
    urllib.request.urlopen(request).close()
    yield "s3://pictures"
    running.stop()


def test_a_store_can_lie_in_object_storage(library: Path, bucket: str) -> None:
    localizer = Localizer(ColourEncoder(), OPTIONS)
    store = Store.create(f"{bucket}/store", settings_of(localizer))
    assert [*update(store, sorted(library.iterdir()), localizer)][-1].encoded == 4
    (library / "red.png").unlink()
    again = Store.create(f"{bucket}/store", settings_of(localizer))
    *_, progress = update(again, library.iterdir(), localizer, folders=[library], prune=True)
    assert (progress.unchanged, progress.pruned) == (3, 1)
    index = Index.open(f"{bucket}/store", localizer=localizer)
    assert files(index.search("blue")) == ["blue.png"]
    assert index.search("red") == []
    with pytest.raises(StoreError, match="s3://pictures/other is no store"):
        Store.open(f"{bucket}/other")
    with pytest.raises(StoreError, match="cannot reach the store s3://none/x: The specified buck"):
        Store.open("s3://none/x")


# What shows the same ----------------------------------------------------------------------------


def test_pictures_that_show_the_same_are_grouped(library: Path) -> None:
    Image.open(library / "red.png").resize((240, 160)).save(library / "large.png")
    Image.open(library / "red.png").save(library / "red.jpg", quality=90)
    (library / "copy.png").write_bytes((library / "blue.png").read_bytes())
    run(library)
    groups = duplicates(opened(library).store, alike=0.999)
    assert [[Path(path).name for path in group] for group in groups] == [
        ["large.png", "red.jpg", "red.png"],
        ["blue.png", "copy.png"],
    ]


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (replace(OPTIONS, stride=0.5), "was made with --stride 0.75, not 0.5"),
        (replace(OPTIONS, scales=(1.0,)), "was made with --scales 1.0 0.5, not 1.0"),
        (replace(OPTIONS, budget=5), "was made with --budget unset, not 5"),
    ],
)
def test_a_store_of_other_windows_is_refused(
    library: Path, options: Options, sentence: str
) -> None:
    run(library)
    with pytest.raises(StoreError, match=sentence):
        Store.create(library.parent / "store", settings_of(Localizer(ColourEncoder(), options)))


def test_a_store_of_another_model_is_refused(library: Path) -> None:
    class OtherEncoder(ColourEncoder):
        pass

    run(library)
    with pytest.raises(StoreError, match="was made with the model ColourEncoder, not with Other"):
        Index.open(library.parent / "store", localizer=Localizer(OtherEncoder(), OPTIONS))


def test_two_runs_do_not_write_at_once(library: Path) -> None:
    run(library)
    with (
        Store.open(library.parent / "store").writing(),
        pytest.raises(OutputError, match="another run is writing to it"),
    ):
        run(library)


def test_what_is_no_store_is_left_alone(library: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds other things than a store"):
        Store.create(library, settings_of(Localizer(ColourEncoder(), OPTIONS)))
    with pytest.raises(StoreError, match="is no store; 'localize index FOLDER"):
        Store.open(tmp_path / "nowhere")
    assert len(list(library.iterdir())) == 4


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [({"top": 0}, "top must be at least 1"), ({"min_presence": 2}, "min_presence must be in")],
)
def test_what_cannot_be_asked_is_said(library: Path, asked: dict, sentence: str) -> None:
    run(library)
    with pytest.raises(ValueError, match=sentence):
        opened(library).search("red", **asked)


# The command line -------------------------------------------------------------------------------


def opening_no_browser() -> list[str]:
    """What the standard library is asked to open from now on, in place of a browser's windows."""
    urls: list[str] = []

    class Browser(webbrowser.BaseBrowser):
        def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
            urls.append(url)
            return True

    webbrowser.register("none", None, Browser(), preferred=True)
    return urls


def test_the_hits_of_a_search_are_shown_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from localize.evaluation.scenes import demo_scene

    photo, store = tmp_path / "photos" / "meadow.png", str(tmp_path / "store")
    photo.parent.mkdir()
    Image.fromarray(demo_scene().image).save(photo)
    assert main(["index", str(photo), "--store", store, "--model", "emoji", "--quiet"]) == 0
    page, out = tmp_path / "pages" / "hits.html", tmp_path / "out"
    search, shown = ["search", store, "a cat", "--quiet"], opening_no_browser()
    report = ["--report", str(page)]
    assert main([*search, *report, "--open", "--export", "csv", "-o", str(out)]) == 0
    assert shown == [page.as_uri()]
    assert "1 of 1, 1 box" in page.read_text("utf-8")
    assert 'data-link="../photos/meadow.png"' in page.read_text("utf-8")
    assert (out / "exports" / "boxes.csv").read_text().count("meadow.png") == 1
    assert main([*search, *report, "--fast"]) == 0
    assert page.read_text("utf-8").count("<article") == 1
    photo.unlink()
    assert main([*search, *report]) == 0
    assert page.read_text("utf-8").count("<article") == 0
    assert f"cannot read {photo}" in page.read_text("utf-8")
    assert main(["search", store, "a submarine", "--quiet", *report]) == 0
    assert "not here" in page.read_text("utf-8")
    assert "There is no picture to show" in page.read_text("utf-8")
    capsys.readouterr()
    assert main([*search, "--open"]) == 2
    assert "--open shows the page that --report FILE writes" in capsys.readouterr().err


def test_the_commands_index_tell_and_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from localize.evaluation.scenes import demo_scene

    (tmp_path / "photos").mkdir()
    Image.fromarray(demo_scene().image).save(tmp_path / "photos" / "meadow.png")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"nothing")
    store, photos = str(tmp_path / "store"), str(tmp_path / "photos")
    assert main(["index", photos, "--store", store, "--model", "emoji"]) == 1
    out, err = capsys.readouterr()
    assert out == f"1 picture in {store}: 1 encoded, 1 that cannot be read.\n"
    assert "bad.jpg: it is not a picture" in err
    assert main(["index", "--status", store]) == 0
    assert "bad.jpg: it is not a picture" in capsys.readouterr().out
    answer = tmp_path / "hits.json"
    assert main(["search", store, "a cat", "--json", str(answer)]) == 0
    assert "meadow.png  a cat (" in capsys.readouterr().out
    (hit,) = json.loads(answer.read_text())["hits"]
    assert hit["file"] == str(tmp_path / "photos" / "meadow.png")
    assert [box["label"] for box in hit["boxes"]] == ["a cat"]
    assert main(["search", store, "a submarine"]) == 0
    assert capsys.readouterr().out == "a submarine: none of 1 picture\n"
    assert main(["index", "--duplicates", store]) == 0
    assert capsys.readouterr().out == "no two of 1 picture show the same\n"
    assert main(["search", store]) == 2
    assert "nothing is asked for" in capsys.readouterr().err
    crop = tmp_path / "crop.png"
    left, top, right, bottom = hit["boxes"][0]["box"].values()
    Image.fromarray(demo_scene().image).crop((left, top, right, bottom)).save(crop)
    assert main(["search", store, "--like", f"{crop}=that cat"]) == 0
    assert "meadow.png  that cat (" in capsys.readouterr().out
    assert main(["search", str(tmp_path / "nowhere"), "a cat"]) == 2
    assert "is no store" in capsys.readouterr().err
    assert main(["index", photos, "--store", store, "--model", "emoji", "--stride", "1"]) == 2
    assert "was made with --stride 0.75, not 1.0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["index", "photos"], ["index", "--store", "store"]])
def test_what_is_not_named_is_said(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "is named; localize index FOLDER --store PATH" in capsys.readouterr().err
