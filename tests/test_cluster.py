"""The same run on Ray: the same answers, whoever dies on the way."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import COLOURS, ColourEncoder
from PIL import Image

pytest.importorskip("ray", reason="needs the extra 'ray'")

import pyarrow as pa
from pyarrow import parquet

from localize import Localizer, Options, cluster
from localize.cli import main
from localize.cluster.ledger import start_ledger
from localize.cluster.parquet import write_part
from localize.cluster.reading import only_read, reading
from localize.cluster.start import check_answers, check_installed
from localize.images import Picture
from localize.index import Progress, Store, settings_of, update
from localize.prompts import as_prompt
from localize.runs import Run, Task

OPTIONS = Options(scales=(1.0, 0.5))
NAMES = ("red", "green", "blue", "yellow")


TESTS = Path(__file__).parent
ONE, TWO = (cluster.Plan(workers, 0.75, 0.0, 1 << 20, 3) for workers in (1, 2))


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """Ray on this machine, which all tests of this file share; its workers find `colours` too."""
    check_installed()
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(TESTS.parent), str(TESTS))))
        ray.init(
            "local",
            num_cpus=2,
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield
    ray.shutdown()


def picture(path: Path, name: str, corner: int = 40) -> Path:
    """A grey picture with a square of a colour in its upper left corner."""
    image = Image.new("RGB", (120, 80), COLOURS["grey"])
    image.paste(COLOURS[name], (0, 0, corner, corner))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twenty pictures of a colour each, and a file that is none."""
    for number in range(20):
        picture(tmp_path / "photos" / f"{number:02}.png", NAMES[number % 4], 30 + number)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def load() -> Localizer:
    return Localizer(ColourEncoder(), OPTIONS)


class Deadly(ColourEncoder):
    """Ends its process where a crop is all orange; once, where there is a file to remove."""

    name = "ColourEncoder"

    def __init__(self, once: Path | None = None):
        self.once = once

    def encode_crops(self, crops):
        is_orange = ((crops - ORANGE).abs().amax((1, 2, 3)) < 0.02).any()
        if is_orange and (self.once is None or self.once.exists()):
            if self.once is not None:
                self.once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_crops(crops)


ORANGE = torch.tensor(COLOURS["orange"])[:, None, None] / 127.5 - 1


def load_deadly(once: Path | None = None) -> Localizer:
    return Localizer(Deadly(once), OPTIONS)


def orange(path: Path) -> Path:
    Image.new("RGB", (120, 80), COLOURS["orange"]).save(path)
    return path


def job_of(folder: Path, photos: Path) -> tuple[Run, list[Task]]:
    job = Run(folder, ("red", "blue"), {"any": "settings"})
    tasks = job.tasks(sorted(photos.iterdir()))
    job.prepare(tasks)
    return job, tasks


def without_ray(folder: Path, photos: Path) -> dict[str, bytes]:
    """The files of a run in this process."""
    job, tasks = job_of(folder, photos)
    localizer = Localizer(Deadly(Path("no such file")), OPTIONS)
    results = localizer.locate_many([task.path for task in tasks], job.prompts, lambda *_: None)
    for result in results:
        job.write(next(task for task in tasks if task.path == result.source), result)
    return files_in(folder)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def on_ray(job: Run, tasks: list[Task], plan=ONE, loading=load_deadly) -> list[cluster.Outcome]:
    prompts = [as_prompt(label) for label in job.prompts]
    return list(cluster.detect(job, tasks, prompts, loading, options=OPTIONS, plan=plan))


def dataset(folder: Path):
    import ray.data

    rows = [{"path": str(path)} for path in sorted(folder.iterdir())]
    return ray.data.from_items(rows, override_num_blocks=2)


def test_a_row_has_what_locate_gives_or_why_there_is_nothing(photos: Path) -> None:
    rows = cluster.locate(dataset(photos), ["red", "blue"], load, plan=ONE).take_all()
    assert sorted(row["path"] for row in rows) == sorted(map(str, photos.iterdir()))
    for row in rows:
        if row["path"].endswith("bad.png"):
            assert row["problem"].startswith(f"cannot read {photos}/bad.png: it is not a picture")
            assert row["boxes"] is row["presence"] is row["width"] is None
            continue
        expected = load().locate(row["path"], ["red", "blue"])
        assert row["problem"] is None
        assert np.array_equal(row["presence"], expected.presence)
        corners = ("xmin", "ymin", "xmax", "ymax")
        assert [
            (box["label"], box["score"], tuple(map(box.get, corners))) for box in row["boxes"]
        ] == [(box.label, box.score, box.xyxy) for box in expected.boxes]


def test_arrays_and_other_columns_go_in_and_embeddings_come_out(photos: Path) -> None:
    import ray.data

    names = ("00.png", "01.png", "02.png")
    arrays = [np.asarray(Image.open(photos / name)) for name in names]
    rows = [{"name": name, "image": array} for name, array in zip(names, arrays, strict=True)]
    done = cluster.encode(ray.data.from_items(rows), load, plan=ONE).take_all()
    assert sorted(row["name"] for row in done) == list(names)
    for row in done:
        expected = load().encode(arrays[names.index(row["name"])])
        assert "image" not in row
        assert "stopped" not in row
        assert np.array_equal(np.stack(row["windows"]), expected.boxes)
        embeddings = expected.embeddings.numpy().astype(np.float16)
        assert np.array_equal(np.stack(row["embeddings"]), embeddings)


def test_files_are_those_without_ray_even_where_a_worker_is_killed(
    photos: Path, tmp_path: Path
) -> None:
    orange(photos / "10.png")
    once = tmp_path / "once"
    once.touch()
    job, tasks = job_of(tmp_path / "ray", photos)
    done = on_ray(job, tasks, TWO, partial(load_deadly, once))
    assert not once.exists()
    assert sorted(str(each.path) for each in done) == sorted(map(str, photos.iterdir()))
    assert [each.path.name for each in done if each.problem] == ["bad.png"]
    assert files_in(tmp_path / "ray") == without_ray(tmp_path / "plain", photos)


def test_a_picture_that_kills_its_workers_is_set_aside_and_named(
    photos: Path, tmp_path: Path
) -> None:
    poison = orange(photos / "10.png")
    job, tasks = job_of(tmp_path / "ray", photos)
    problems = {each.path: each.problem for each in on_ray(job, tasks)}
    assert problems.pop(photos / "bad.png") is not None
    assert problems.pop(poison) == f"cannot search {poison}: its process died 3 times"
    assert list(problems.values()) == [None] * 19
    expected = without_ray(tmp_path / "plain", photos)
    for name in ("10.png.json", "10.png.boxes.png"):
        del expected[name]
    assert files_in(tmp_path / "ray") == expected


def indexed(folder: Path, photos: Path, on_cluster: bool) -> tuple[Progress, list, list]:
    """What a run did, and all that the store then holds, in an order of its own."""
    store = Store.create(folder, settings_of(load()))
    paths = sorted(photos.iterdir())
    if on_cluster:
        steps = cluster.update(store, paths, load, max_pixels=10**6, plan=ONE, folders=[photos])
    else:
        steps = update(store, paths, load(), folders=[photos])
    *_, progress = steps
    store = Store.open(folder)
    rows = sorted(store.picture_rows(), key=lambda row: row["path"])
    windows = store.windows_of(row["content"] for row in rows if row["content"])
    windows = windows.sort_by([("content", "ascending"), ("number", "ascending")])
    return progress, rows, windows.to_pylist()


def test_an_index_made_on_ray_is_the_one_made_without(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="needs the extra 'index'")
    store, folder = tmp_path / "ray", tmp_path / "here"
    indexed(folder, photos, on_cluster=False)
    shutil.copytree(folder, store)
    picture(photos / "01.png", "blue", 10)
    (photos / "02.png").rename(photos / "moved.png")
    shutil.copy(photos / "03.png", photos / "copy of 03.png")
    os.utime(photos / "bad.png")
    (photos / "04.png").unlink()
    for number in range(6):
        picture(photos / f"new {number}.png", NAMES[number % 4], 60)
    (photos / "new and bad.png").write_bytes(b"no picture either")
    ray, here = (indexed(each, photos, each == store) for each in (store, folder))
    assert ray == here
    assert here[0].known > 2


def read_but_die(source: str) -> tuple[dict, Picture | None]:
    """As a decoder that a damaged file makes touch memory that is not its own."""
    if source.endswith("07.png"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return only_read(source, 10**6)


def test_a_picture_that_kills_its_readers_is_set_aside_and_named(photos: Path) -> None:
    read = reading(dataset(photos), start_ledger(), read_but_die, pa.schema([]), ONE)
    rows = {Path(row["path"]).name: row for row in read.take_all()}
    assert len(rows) == 21
    poison = photos / "07.png"
    assert rows.pop("07.png")["problem"] == (
        f"cannot read {poison}: the process that reads it died 3 times"
    )
    assert rows.pop("bad.png")["problem"].endswith("damaged from its first bytes on")
    for name, row in rows.items():
        assert row["problem"] is None
        assert row["pixels"] == np.asarray(Image.open(photos / name)).tobytes()


def test_the_plan_is_told_and_nothing_done(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", str(photos), "--model", "emoji", "-o", str(tmp_path / "none"), "--ray"]
    assert main([*command, "--ray-workers", "3", "--ray-plan", "-p", "red"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("workers  3, each 0.75 of a core and ")
    assert "because --ray-workers says so; 2 would fit" in said
    assert not (tmp_path / "none").exists()


def load_nothing() -> Localizer:
    raise ValueError("there is no such model")


def test_a_model_that_a_worker_cannot_load_ends_the_run_in_one_sentence(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job, tasks = job_of(tmp_path / "ray", photos)
    with pytest.raises(cluster.ClusterError, match=r"^there is no such model \(on [^ ]+\)$"):
        on_ray(job, tasks, loading=load_nothing)
    assert "Traceback" not in capfd.readouterr().err
    assert not list((tmp_path / "ray").glob("*.json"))


def test_rows_that_cannot_be_written_end_the_run(photos: Path, tmp_path: Path) -> None:
    table = pa.table(
        {
            "path": ["a.png", "b.png"],
            "problem": pa.array([None, "no model"], pa.string()),
            "stopped": pa.array([None, "model"], pa.string()),
        }
    )
    missing, folder = tmp_path / "missing", tmp_path / "there"
    folder.mkdir()
    said = write_part(table, str(missing), {})["problem"].to_pylist()
    assert said[0].startswith(f"cannot write to {missing}: there is no such folder on ")
    assert not missing.exists()
    assert write_part(table, str(folder), {}) is table
    assert cluster.finished(str(folder), {}) == {b"a.png"}  # The other has no answer.


def test_a_run_goes_on_where_its_killed_driver_was(photos: Path, tmp_path: Path) -> None:
    folder, plain = tmp_path / "ray", tmp_path / "plain"
    command = ["detect", str(photos), "--prompt", "a cat", "--model", "emoji", "--quiet"]
    command += ["--scales", "1", "--overlays", "none"]
    on_ray = [*command, "-o", str(folder), "--ray", "--ray-workers", "1"]
    driver = subprocess.Popen([sys.executable, "-m", "localize", *on_ray])
    while driver.poll() is None and not list(folder.glob("*.json")):
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png.json")}
    assert 0 < len(before) < 20
    assert main([*on_ray, "--resume"]) == 1  # There is a file that is no picture.
    assert main([*command, "-o", str(plain)]) == 1
    for path in plain.glob("*.png.json"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
        if path.name in before:
            assert (folder / path.name).stat().st_mtime_ns == before[path.name]
    facts = [json.loads((each / "run.json").read_text()) for each in (folder, plain)]
    assert facts[0].pop("speed")["images"] <= 20 - len(before)
    assert facts[1].pop("speed")["images"] == 20
    assert facts[0] == facts[1]


def test_parquet_files_hold_a_row_a_picture_and_what_was_asked(
    photos: Path, tmp_path: Path
) -> None:
    """Read from addresses, as of any file system of Arrow's."""
    folder, asked = tmp_path / "answers", [as_prompt("red"), as_prompt("blue")]
    address, question = folder.as_uri(), {"prompts": ["red", "blue"]}
    paths, problems = cluster.find_pictures([photos.as_uri()], {".png"})
    assert (len(paths), problems) == (21, [])
    assert cluster.finished(address, question) == set()
    done = list(
        cluster.detect_into(address, paths, asked, load, question, options=OPTIONS, plan=ONE)
    )
    assert sorted(each.path for each in done) == paths
    assert cluster.finished(address, question) == set(map(str.encode, paths))
    with pytest.raises(ValueError, match="holds answers to other prompts"):
        cluster.finished(address, {"prompts": ["blue"]})
    rows = [row for part in folder.iterdir() for row in parquet.read_table(part).to_pylist()]
    assert sorted(row["path"] for row in rows) == paths
    for row in rows:
        name = row["path"].removeprefix("file://")
        if name.endswith("bad.png"):
            assert row["problem"].startswith(f"cannot read file://{name}: it is not a picture")
        else:
            expected = load().locate(name, asked)
            assert row["presence"] == expected.presence.tolist()
            assert [box["score"] for box in row["boxes"]] == [b.score for b in expected.boxes]


@pytest.mark.parametrize("words", [["--parquet", "x"], ["--ray-plan"], ["--ray-workers", "2"]])
def test_options_that_go_with_ray_are_refused_without_it(
    words: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(photos), "-p", "red", "--model", "emoji", *words]) == 2
    assert "with --ray" in capsys.readouterr().err


def test_without_anybody_at_the_address_there_is_one_sentence_and_exit_code_2(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own: here Ray runs already."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        said = subprocess.run(
            [
                sys.executable,
                "-m",
                "localize",
                "detect",
                str(photos),
                "-p",
                "red",
                "--ray",
                address,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert said.returncode == 2
    assert said.stderr == f"localize: no Ray cluster answers at {address}: connection refused\n"


@pytest.mark.parametrize("address", ["photos/", "ray://head:10001", "head", "head:99999"])
def test_what_is_no_address_is_told_at_once(address: str) -> None:
    with pytest.raises(cluster.ClusterError, match="--ray takes host:port"):
        check_answers(address)


def test_without_the_extra_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(
        ImportError, match=r"needs the extra 'ray': pip install 'clip-localize\[ray"
    ):
        check_installed()


def test_the_plan_of_a_machine_without_gpus_has_a_worker_a_core() -> None:
    plan = cluster.make_plan(
        [cluster.Machine(8, 0, 64e9), cluster.Machine(4, 0, 3e9)], model_bytes=0
    )
    assert plan.workers == 8 + 2  # the second has the memory of two
    assert plan.worker_gpus == 0
    assert 8 * (plan.worker_cpus + plan.reader_cpus) == 8


def test_the_plan_shares_gpus_among_as_many_workers_as_have_cores_and_memory() -> None:
    machine = cluster.Machine(16, 4, 200e9)
    assert cluster.make_plan([machine]).workers == 16
    assert cluster.make_plan([machine]).worker_gpus == 0.25
    small = replace(machine, gpu_memory=int(8e9))
    assert cluster.make_plan([small], model_bytes=int(6e8)).worker_gpus == 1
    assert cluster.make_plan([machine], workers=3).workers == 3


@pytest.mark.parametrize(
    ("machines", "workers", "reason"),
    [([], None, "no machine"), ([cluster.Machine(2, 0, 8e9)], 0, "at least 1")],
)
def test_a_plan_that_cannot_be_is_refused(
    machines: list[cluster.Machine], workers: int | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        cluster.make_plan(machines, workers=workers)
