"""The second stage of a run on Ray Data: what a model makes of pictures, in actors that hold it.

Knows rows and the two verbs; must not know how pictures were read, nor how answers come about.
"""

from __future__ import annotations

import errno
import json
import platform
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from localize.cluster.ledger import tried
from localize.cluster.reading import KEY, PIXELS, PROBLEM, Columns, picture_in, with_columns
from localize.cluster.start import ClusterError
from localize.files import OutputError
from localize.index.schema import window_rows, windows_schema
from localize.index.updates import windows_of
from localize.names import display_name
from localize.runs import Task

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

    from localize.cluster.plan import Plan
    from localize.encoding import Encoded, OnError
    from localize.images import Picture
    from localize.localizer import Localizer
    from localize.prompts import Prompt
    from localize.result import Localization
    from localize.runs import Run

Load = Callable[[], "Localizer"]
"""Makes the localizer, in each worker."""

CONTENT, WINDOW = "content", ("scale", "box", "vector")
"""Columns of a picture on its way into a store."""

TASK = "task"
"""Column of a run's task as JSON, where the run's own files are written."""

STOPPED = "stopped"
"""Column of what keeps all further pictures from being done, "model" or "output", else null. It is
said in a row because what is raised in an actor ends others in the midst of their work."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Why an output cannot be written that will keep all others from being written too."""


def by_model(
    dataset: Dataset, stage: type[Stage], arguments: tuple[Any, ...], plan: Plan
) -> Dataset:
    """What a stage makes of rows that `reading` gave.

    arguments: the stage's own: the ledger, how to load the localizer, and what else it takes.
    """
    from ray.data import ActorPoolStrategy

    return dataset.map_batches(
        stage,
        fn_constructor_args=arguments,
        batch_size=plan.batch,
        batch_format="pyarrow",
        # One batch is on its way to a worker while it is busy with another.
        compute=ActorPoolStrategy(size=plan.workers, max_tasks_in_flight_per_actor=2),
        num_cpus=plan.worker_cpus,
        num_gpus=plan.worker_gpus or None,
        memory=plan.worker_memory,
    )


class Stage(ABC):
    """What the stages that hold a model have in common: rows in, rows out, and who is to blame."""

    def __init__(self, ledger: Any, load: Load) -> None:
        self._ledger = ledger
        self._problem: str | None = None
        try:
            self.localizer = load()
        except Exception as error:  # Whatever a model may lead to on this machine.
            self._problem = f"{error} (on {platform.node()})"

    @abstractmethod
    def schema(self) -> pyarrow.Schema:
        """The columns that rows get."""

    @abstractmethod
    def results(self, pictures: Iterable[Picture], on_error: OnError) -> Iterator[Any]:
        """What the localizer makes of pictures, in their order; each knows its `source`."""

    @abstractmethod
    def columns(self, result: Any, table: pyarrow.Table, row: int) -> Columns:
        """The columns of one result, of a row of a table."""

    def __call__(self, table: pyarrow.Table) -> Iterator[pyarrow.Table]:
        import pyarrow as pa

        kept = table.drop_columns([KEY, PIXELS])
        if self._problem is not None:
            schema = pa.schema([(STOPPED, pa.string()), (PROBLEM, pa.string())])
            stopped = {STOPPED: "model", PROBLEM: self._problem}
            yield from (
                with_columns(kept.slice(row, 1), stopped, schema) for row in range(len(kept))
            )
            return
        schema = pa.schema([*self.schema(), (STOPPED, pa.string()), (PROBLEM, pa.string())])
        problems, keys = table[PROBLEM].to_pylist(), table[KEY].to_pylist()
        has_pixels = table[PIXELS].is_valid().to_pylist()
        for row in (row for row, has in enumerate(has_pixels) if not has):
            yield with_columns(kept.slice(row, 1), {PROBLEM: problems[row]}, schema)

        good = [row for row, has in enumerate(has_pixels) if has]

        def work(numbers: list[int]) -> Iterator[tuple[int, Columns]]:
            return self._worked_on(table, {number: good[number] for number in numbers})

        def set_aside(number: int, deaths: int) -> Columns:
            name = display_name(keys[good[number]])
            return {PROBLEM: f"cannot search {name}: its process died {deaths} times"}

        for number, columns in tried(self._ledger, [keys[row] for row in good], work, set_aside):
            yield with_columns(kept.slice(good[number], 1), columns, schema)

    def _worked_on(
        self, table: pyarrow.Table, rows: dict[int, int]
    ) -> Iterator[tuple[int, Columns]]:
        """The columns of pictures. rows: the row of each by its number."""
        waiting: dict[int, int] = {}  # numbers of the pictures that are on their way, by identity
        failed: dict[int, str] = {}

        def pictures() -> Iterator[Picture]:
            for number, row in rows.items():
                picture = picture_in(table, row)
                waiting[id(picture)] = number
                yield picture

        def on_error(source: Any, error: Exception) -> None:
            failed[waiting.pop(id(source))] = str(error)

        # What is made of one result, files among it, is made beside the next.
        with ThreadPoolExecutor(1) as beside:
            making: deque[tuple[int, Future[Columns]]] = deque()
            for result in self.results(pictures(), on_error):
                number = waiting.pop(id(result.source))
                making.append((number, beside.submit(self.columns, result, table, rows[number])))
                if len(making) > 1:
                    number, made = making.popleft()
                    yield number, made.result()
            for number, made in making:
                yield number, made.result()
        for number, problem in failed.items():
            yield number, {PROBLEM: problem}


class Locating(Stage):
    """Gives `presence` and `boxes`, and writes a run's own files where there is a run."""

    def __init__(
        self, ledger: Any, load: Load, prompts: Sequence[str | Prompt], job: Run | None
    ) -> None:
        super().__init__(ledger, load)
        self.prompts, self.job = prompts, job

    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        corners = [pa.field(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")]
        box = pa.struct([("label", pa.string()), ("score", pa.float64()), *corners])
        return pa.schema([("presence", pa.list_(pa.float32())), ("boxes", pa.list_(box))])

    def results(self, pictures: Iterable[Picture], on_error: OnError) -> Iterator[Localization]:
        return self.localizer.locate_many(pictures, self.prompts, on_error)

    def columns(self, result: Localization, table: pyarrow.Table, row: int) -> Columns:
        if self.job is not None:
            task = task_of(table[TASK][row].as_py())
            try:
                write(self.job, task, result)
            except OutputError as error:
                is_full = getattr(error.__cause__, "errno", None) in NO_ROOM
                return {PROBLEM: str(error), STOPPED: "output" if is_full else None}
        return {
            "presence": result.presence,
            "boxes": [
                {
                    "label": box.label,
                    "score": box.score,
                    **dict(zip(("xmin", "ymin", "xmax", "ymax"), box.xyxy, strict=True)),
                }
                for box in result.boxes
            ],
        }


class Indexing(Stage):
    """Gives `WINDOW`: what the windows' table of a store has of each content, as lists."""

    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        fields = windows_schema(self.localizer.bank.shape[1])
        return pa.schema([pa.field(name, pa.list_(fields.field(name).type)) for name in WINDOW])

    def results(self, pictures: Iterable[Picture], on_error: OnError) -> Iterator[Encoded]:
        return self.localizer.encode_many(pictures, on_error)

    def columns(self, result: Encoded, table: pyarrow.Table, row: int) -> Columns:
        rows = windows_of(result, table[CONTENT][row].as_py(), self.localizer)
        return {name: list(rows[name]) for name in WINDOW}


def windows_in(table: pyarrow.Table, row: int, content: str) -> dict[str, Any]:
    """The windows of a row that `Indexing` gave, as a store takes them."""
    columns = {name: table[name][row].values for name in WINDOW}
    vectors, boxes = (
        columns[name].flatten().to_numpy().reshape(len(columns[name]), -1)
        for name in ("vector", "box")
    )
    return window_rows(content, columns["scale"].to_numpy(), boxes, vectors)


class Encoding(Stage):
    """Gives `windows`, their boxes as xyxy, and `embeddings`, one a window."""

    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        length = self.localizer.bank.shape[1]
        return pa.schema(
            [
                ("windows", pa.list_(pa.list_(pa.float32(), 4))),
                ("embeddings", pa.list_(pa.list_(pa.float16(), length))),
            ]
        )

    def results(self, pictures: Iterable[Picture], on_error: OnError) -> Iterator[Encoded]:
        return self.localizer.encode_many(pictures, on_error)

    def columns(self, result: Encoded, table: pyarrow.Table, row: int) -> Columns:
        return {
            "windows": list(result.boxes),
            "embeddings": list(result.embeddings.numpy().astype(np.float16)),
        }


def check(row: Columns) -> None:
    """Raise what a row says of why nothing more can be done: ClusterError or OutputError."""
    if row.get(STOPPED) is not None:
        raise (OutputError if row[STOPPED] == "output" else ClusterError)(row[PROBLEM])


def write(job: Run, task: Task, result: Localization) -> None:
    """Write a picture's files. Raises OutputError, also where the run's folder is not seen here."""
    if not job.folder.is_dir():
        raise OutputError(
            f"cannot write to {display_name(job.folder)}: there is no such folder on "
            f"{platform.node()}; it must be one that all machines share"
        )
    job.write(task, result)


def task_as_json(task: Task) -> str:
    plain = {"path": str(task.path), "output": str(task.output), "seen": dict(task.seen)}
    return json.dumps(plain)  # An undecodable byte of a name as its escape.


def task_of(text: str) -> Task:
    """The task that `task_as_json` wrote."""
    plain = json.loads(text)
    return Task(Path(plain["path"]), Path(plain["output"]), plain["seen"])
