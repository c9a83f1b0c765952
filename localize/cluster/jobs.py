"""What is done on a cluster: datasets of pictures to datasets of answers, and a run's tasks.

Knows the stages and in what order they stand; must not know what they do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localize.cluster import parquet
from localize.cluster.ledger import start_ledger
from localize.cluster.plan import Plan, make_plan
from localize.cluster.reading import PROBLEM, Columns, only_read, reading
from localize.cluster.stages import (
    STOPPED,
    TASK,
    Encoding,
    Load,
    Locating,
    Stage,
    by_model,
    check,
    task_as_json,
)
from localize.cluster.start import machines
from localize.names import display_name
from localize.options import Options
from localize.result import Box

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

    from localize.prompts import Prompt
    from localize.runs import Run, Task

LEAST_IN_BLOCK, MOST_IN_BLOCK = 16, 64
"""Pictures in a block of a run's dataset, and so in a task."""

INIT_DEATHS = 3
"""Workers that may die one after another while they load the model."""


def locate(
    dataset: Dataset,
    prompts: Sequence[str | Prompt],
    load: str | Load = "openai/clip-vit-base-patch16",
    *,
    options: Options = Options(),  # noqa: B008
    plan: Plan | None = None,
) -> Dataset:
    """Say of every picture of a dataset where each prompt is.

    dataset: a picture a row, in a column `image` (an array as `images.read_image` takes it),
        `bytes` (of an image file) or `path` (a file that all machines see, or an address of one of
        Arrow's file systems, as "s3://bucket/photo.jpg"). Other columns are passed on.
    load: the name of a model, which each worker loads with the options, or what makes the localizer
        in each worker (then `options` say only what is read).
    plan: what to start; None for what suits the cluster, see `make_plan`.

    Gives a dataset, computed as it is read, of a row a picture, in no particular order, without
    `image` and `bytes` and with
        width, height: int32, of the upright picture; file: binary, the name of its file;
        notes: list of text, what is to be known of how it was read;
        presence: list of float32, one a prompt;
        boxes: list of {label, score, xmin, ymin, xmax, ymax}, best first, in pixels;
        problem: text, why there is no answer (what stands above is then null), else null.
    """
    prepare()
    ledger, plan = start_ledger(), plan or make_plan(machines())
    arguments = (ledger, loading(load, options), tuple(prompts), None)
    located = _through(dataset, ledger, plan, options, Locating, arguments)
    return located.drop_columns([STOPPED])


def encode(
    dataset: Dataset,
    load: str | Load = "openai/clip-vit-base-patch16",
    *,
    options: Options = Options(),  # noqa: B008
    plan: Plan | None = None,
) -> Dataset:
    """Encode the windows of every picture of a dataset; arguments and rows as of `locate`.

    In place of `presence` and `boxes` rows have
        windows: list of float32 [4], xyxy in pixels, the whole picture first;
        embeddings: list of float16 [D], unit-norm, one a window.
    """
    prepare()
    ledger, plan = start_ledger(), plan or make_plan(machines())
    arguments = (ledger, loading(load, options))
    return _through(dataset, ledger, plan, options, Encoding, arguments).drop_columns([STOPPED])


@dataclass(frozen=True)
class Outcome:
    """What came of one picture of a run.

    path: as it was given. problem: why it has no answers, or None. notes, prompts, presence and
    boxes: as of `Localization`.
    """

    path: str | os.PathLike[str]
    problem: str | None
    notes: tuple[str, ...]
    prompts: tuple[str, ...]
    presence: tuple[float, ...]
    boxes: tuple[Box, ...]


def detect(
    job: Run,
    tasks: Sequence[Task],
    prompts: Sequence[Prompt],
    load: Load,
    *,
    options: Options,
    plan: Plan,
) -> Iterator[Outcome]:
    """Do the tasks of a run on the cluster, whose workers write its files; what came of each.

    In no particular order, each once. The run's folder must be one that all machines share.

    Raises files.OutputError where nothing more can be written.
    """
    prepare()
    ledger = start_ledger()
    folder = Path(os.path.abspath(job.folder))
    dataset, plan = in_blocks(_table_of(tasks), plan)
    arguments = (ledger, load, tuple(prompts), replace(job, folder=folder))
    answered = _through(dataset, ledger, plan, options, Locating, arguments)
    with plain_errors():
        for row in answered.iter_rows():
            yield _outcome(row, tasks[row["number"]].path, job.prompts)


def _table_of(tasks: Sequence[Task]) -> pyarrow.Table:
    import pyarrow as pa

    paths = (os.fsencode(os.path.abspath(task.path)) for task in tasks)
    moved = (replace(task, output=Path(os.path.abspath(task.output))) for task in tasks)
    return pa.table(
        {
            "path": pa.array(paths, pa.binary()),
            "number": pa.array(range(len(tasks)), pa.int64()),
            TASK: pa.array(map(task_as_json, moved), pa.string()),
        }
    )


def detect_into(
    folder: str,
    paths: Sequence[str],
    prompts: Sequence[Prompt],
    load: Load,
    question: Mapping[str, Any],
    *,
    options: Options,
    plan: Plan,
) -> Iterator[Outcome]:
    """Write a row a picture into Parquet files in a folder; what came of each picture.

    folder: a path that all machines share, or an address of one of Arrow's file systems.
    paths: whole paths or addresses. question: what was asked, to be kept in the files.

    In no particular order, each once, when it is written. Raises files.OutputError where nothing
    more can be written.
    """
    import pyarrow as pa

    prepare()
    parquet.make_folder(folder)
    ledger = start_ledger()
    table = pa.table({"path": pa.array(paths, pa.string())})
    dataset, plan = in_blocks(table, plan)
    arguments = (ledger, load, tuple(prompts), None)
    answered = _through(dataset, ledger, plan, options, Locating, arguments)
    written = answered.map_batches(
        parquet.write_part,
        batch_size=parquet.rows_in_part(len(paths)),
        batch_format="pyarrow",
        fn_args=(folder, question),
        num_cpus=plan.reader_cpus,
    )
    labels = tuple(prompt.label for prompt in prompts)
    with plain_errors():
        for row in written.iter_rows():
            yield _outcome(row, row["path"], labels)


def _outcome(row: Columns, path: str | os.PathLike[str], prompts: tuple[str, ...]) -> Outcome:
    check(row)
    problem = row[PROBLEM]
    if problem is not None:  # The file is named as it was typed.
        problem = problem.replace(display_name(os.path.abspath(path)), display_name(path))
    presence = () if row["presence"] is None else row["presence"]
    boxes = map(_box, row["boxes"] or ())
    return Outcome(path, problem, tuple(row["notes"] or ()), prompts, tuple(presence), tuple(boxes))


def _through(
    dataset: Dataset,
    ledger: Any,
    plan: Plan,
    options: Options,
    stage: type[Stage],
    arguments: tuple[Any, ...],
) -> Dataset:
    import pyarrow as pa

    read = partial(only_read, max_pixels=options.max_pixels)
    pictures = reading(dataset, ledger, read, pa.schema([]), plan)
    return by_model(pictures, stage, arguments, plan)


def loading(load: str | Load, options: Options) -> Load:
    if not isinstance(load, str):
        return load
    return partial(_load, load, options)


def _load(model: str, options: Options) -> Any:
    from localize.localizer import Localizer

    return Localizer.from_pretrained(model, options=options)


def in_blocks(table: pyarrow.Table, plan: Plan) -> tuple[Dataset, Plan]:
    """A dataset of several blocks for each worker, so that none waits long for the last; and the
    plan without the workers for whom there is none."""
    import ray.data

    rows = len(table)
    in_block = min(MOST_IN_BLOCK, max(LEAST_IN_BLOCK, rows // (8 * plan.workers)))
    blocks = -(-rows // in_block)
    dataset = ray.data.from_arrow(table, override_num_blocks=blocks)
    return dataset, replace(plan, workers=min(plan.workers, blocks))


def prepare() -> None:
    """Set of Ray Data what has no place in a dataset."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = INIT_DEATHS


def _box(plain: Columns) -> Box:
    corners = (plain["xmin"], plain["ymin"], plain["xmax"], plain["ymax"])
    return Box(plain["label"], plain["score"], corners)


@contextmanager
def plain_errors() -> Iterator[None]:
    """What Ray raises, in one line."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        lines = [line for line in str(getattr(error, "cause", error)).splitlines() if line.strip()]
        raise RuntimeError(lines[0] if lines else type(error).__name__) from error
