"""Finding pictures, and writing files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import CORNERS, refusal
from PIL import Image

from localize import files, images, names
from localize.images import SUFFIXES

# Finding pictures -------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/notes.txt", ".hidden.png", ".git/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(CORNERS).save(path, "PNG")
    return tmp_path


def file_names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_gives_its_pictures_sorted_without_hidden_ones(album: Path) -> None:
    paths, problems = files.find_images([album], SUFFIXES)
    assert file_names(paths) == ["a.PNG", "b.jpg", "c.webp"]
    assert problems == []


def test_files_are_taken_whatever_they_are_called_and_in_their_order(album: Path) -> None:
    inputs = [album / "sub/notes.txt", album / "b.jpg", album / ".hidden.png"]
    assert files.find_images(inputs, SUFFIXES)[0] == inputs


def test_globs_that_the_shell_left_are_expanded(album: Path) -> None:
    assert file_names(files.find_images([f"{album}/*.jpg"], SUFFIXES)[0]) == ["b.jpg"]
    assert file_names(files.find_images([f"{album}/**/*.webp"], SUFFIXES)[0]) == ["c.webp"]
    assert file_names(files.find_images([f"{album}/su?"], SUFFIXES)[0]) == ["c.webp"]


def test_a_file_named_like_a_glob_is_that_file(album: Path) -> None:
    for name in ("[ab].jpg", "*.jpg"):
        (album / name).write_bytes((album / "b.jpg").read_bytes())
        assert file_names(files.find_images([album / name], SUFFIXES)[0]) == [name]


def test_each_picture_is_found_once(album: Path) -> None:
    inputs = [album / "b.jpg", album, f"{album}/*.jpg", album / "sub" / ".." / "b.jpg"]
    assert file_names(files.find_images(inputs, SUFFIXES)[0]) == ["b.jpg", "a.PNG", "c.webp"]


def test_inputs_that_give_nothing_are_named_and_the_others_found(album: Path) -> None:
    (album / "bare").mkdir()
    (album / "folder.jpg").mkdir()
    inputs = [album / "missing.jpg", album / "b.jpg", f"{album}/*.tiff", album / "bare", "x\0y"]
    paths, problems = files.find_images(inputs, SUFFIXES)
    assert file_names(paths) == ["b.jpg"]
    assert len(problems) == 4
    for problem, name in zip(problems, ("missing.jpg", "*.tiff", "bare", "x\\x00y"), strict=True):
        assert name in problem
    paths, problems = files.find_images([album], SUFFIXES)
    assert file_names(paths) == ["a.PNG", "b.jpg", "c.webp"]
    assert problems == [f"cannot read {album}/folder.jpg: it is a folder"]


@pytest.mark.parametrize("pattern", ["**/*", "*", "**/*.webp", "*/*.webp"])
def test_a_glob_follows_no_link_to_a_folder_and_a_folder_named_by_the_user_is_read(
    album: Path, tmp_path_factory: pytest.TempPathFactory, pattern: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "secret.webp").write_bytes(b"picture")
    (album / "link").symlink_to(elsewhere)
    assert "secret.webp" not in file_names(files.find_images([f"{album}/{pattern}"], SUFFIXES)[0])
    for named in (album / "link", f"{album}/link/*"):
        assert file_names(files.find_images([named], SUFFIXES)[0]) == ["secret.webp"]


def test_links_that_lead_round_in_circles_are_not_followed(album: Path) -> None:
    for name in ("round", "and round"):
        (album / "sub" / name).symlink_to(album)
    (album / "self.png").symlink_to("self.png")
    assert file_names(files.find_images([f"{album}/**/*.webp"], SUFFIXES)[0]) == ["c.webp"]
    assert file_names(files.find_images([album], SUFFIXES)[0]) == [
        "a.PNG",
        "b.jpg",
        "self.png",
        "c.webp",
    ]
    assert "symbolic links" in refusal(album / "self.png")


def test_a_glob_leaves_hidden_files_out_unless_it_names_them(album: Path) -> None:
    assert file_names(files.find_images([f"{album}/*.png"], SUFFIXES)[0]) == []
    assert file_names(files.find_images([f"{album}/.*.png"], SUFFIXES)[0]) == [".hidden.png"]


ODD_NAMES = [
    b"with space.png",
    b"quo'te\".png",
    b"new\nline.png",
    b"\x1b[31mred.png",
    b"-p.png",
    "猫 🐱.png".encode(),
    b"undecodable \xff\xfe.png",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_files_of_any_name_are_found_read_named_and_written(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    files.write_image(path, Image.fromarray(CORNERS))
    assert files.find_images([tmp_path], SUFFIXES) == ([path], [])
    assert files.find_images([path], SUFFIXES) == ([path], [])
    picture = images.read_image(path)
    np.testing.assert_array_equal(picture.pixels, CORNERS)
    assert names.display_name(path).isprintable()
    names.display_name(path).encode("utf-8")
    files.write_json(tmp_path / "result.json", {"file": picture.file})
    again = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert os.fsencode(again["file"]) == name


# Writing ----------------------------------------------------------------------------------------


def test_json_is_readable_utf_8_with_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "result.json"
    files.write_json(path, {"label": "猫", "score": 0.5})
    text = path.read_text("utf-8")
    assert json.loads(text) == {"label": "猫", "score": 0.5}
    assert "猫" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_numbers_is_refused_and_nothing_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "result.json", {"score": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_images_are_written_in_the_format_of_their_ending(tmp_path: Path, name: str) -> None:
    files.write_image(tmp_path / name, Image.fromarray(CORNERS))
    kind = name.split(".")[1].upper().replace("JPG", "JPEG")
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (40, 24))


def test_written_files_have_the_permissions_of_ordinary_ones(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    files.write_bytes(tmp_path / "ours", b"data")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for name in ("folder", "pipe", "file/below.json", "x" * 300, "null\0"):
        with pytest.raises(files.OutputError) as caught:
            files.write_bytes(tmp_path / name, b"new")
        assert names.display_name(name) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(files.OutputError, match=r"picture\.xyz: use \.png"):
        files.write_image(tmp_path / "picture.xyz", Image.fromarray(CORNERS))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "result.json"
    files.write_bytes(path, b"old")

    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    expected = files.OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        files.write_bytes(path, b"new")
    if isinstance(failure, OSError):
        assert "no space left" in str(caught.value)
        assert "result.json" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


NO_ROOM = """
import resource, sys
from localize import files
files.write_bytes(sys.argv[1], b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    files.write_bytes(sys.argv[1], bytes(1_000_000))
except files.OutputError as error:
    print(error)
"""


def test_a_file_that_there_is_no_room_for_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    command = [sys.executable, "-c", NO_ROOM, str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"cannot write {path}: file too large"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


ENDLESS = """
import sys
from localize import files
for byte in range(256):
    print(byte, flush=True)
    files.write_bytes(sys.argv[1], bytes([byte]) * 3_000_000)
"""


def test_a_process_killed_in_mid_write_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    wait = np.random.default_rng(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(wait.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert data.count(data[:1]) == len(data)
    assert files.find_images([tmp_path], SUFFIXES)[0] == []


def test_two_processes_writing_the_same_file_leave_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    command = [sys.executable, "-c", ENDLESS.replace("256", "20"), str(path)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert path.read_bytes() == bytes([19]) * 3_000_000
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import os, sys, time
from localize import files
os.fsync = lambda _: (print("writing", flush=True), time.sleep(600))
files.write_bytes(sys.argv[1], b"data")
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    files.write_bytes(tmp_path / "finished", b"data")
    (tmp_path / ".localize-notes.tmp").write_text("mine")
    kept = sorted(tmp_path.iterdir())
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / name)], stdout=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    assert len(list(tmp_path.iterdir())) == len(kept) + 2
    files.remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(kept) + 2
    for number, writer in enumerate(writers, 1):
        writer.kill()
        writer.communicate()
        files.remove_abandoned(tmp_path)
        assert len(list(tmp_path.iterdir())) == len(kept) + 2 - number
    assert sorted(tmp_path.iterdir()) == kept
    files.remove_abandoned(tmp_path / "no such folder")


def test_only_pictures_that_were_written_here_are_known_as_such(tmp_path: Path) -> None:
    files.write_image(tmp_path / "ours.png", Image.fromarray(CORNERS))
    Image.fromarray(CORNERS).save(tmp_path / "theirs.png")
    os.mkfifo(tmp_path / "pipe.png")
    known = [files.is_written_here(tmp_path / f"{name}.png") for name in ("ours", "theirs", "pipe")]
    assert known == [True, False, False]
    assert not files.is_written_here(tmp_path / "missing.png")


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_files_that_belong_together_are_written_all_or_none(tmp_path: Path, broken: int) -> None:
    paths = [tmp_path / name for name in ("overlay", "heatmap", "facts")]
    files.write_together(paths, [b"old"] * 3)

    def contents() -> Iterator[bytes]:
        for number in range(3):
            if number == broken:
                raise KeyboardInterrupt
            yield b"new"

    with pytest.raises(KeyboardInterrupt):
        files.write_together(paths, contents())
    assert {path.read_bytes() for path in paths} == {b"old"}
    files.write_together(paths[1:], [b"new"] * 2, instead_of=[paths[0]])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "heatmap": b"new",
        "facts": b"new",
    }


WRITE_TOGETHER = """
import sys
from pathlib import Path
from localize import files
for count in range(300):
    data = f"{sys.argv[2]} {count}".encode()
    files.write_together([Path(sys.argv[1]) / name for name in ("overlay", "facts")], [data] * 2)
"""


def test_two_processes_writing_the_same_files_leave_those_of_one(tmp_path: Path) -> None:
    for _ in range(3):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITE_TOGETHER, str(tmp_path), name])
            for name in ("first", "second")
        ]
        assert [writer.wait() for writer in writers] == [0, 0]
        assert (tmp_path / "overlay").read_bytes() == (tmp_path / "facts").read_bytes()
