"""The models that a page can choose from, loaded once they are asked for.

Knows names and which few are in memory; must not know how a model is loaded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from localize.localizer import Localizer
from localize.serve.desk import Desk
from localize.serve.refusal import RefusalError

AT_ONCE = 2
"""Models in memory at one time."""


class Models:
    """Desks for models, each with its own share of the memory for encoded pictures.

    names: what may be asked for. load: makes a localizer of a name; it raises a ValueError, one
    sentence, for a model that cannot be loaded. megabytes: for the encoded pictures of all. ready:
    localizers that are there already.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[str], Localizer],
        megabytes: float,
        ready: Mapping[str, Localizer],
    ):
        self.names = tuple(names)
        self._load, self._megabytes = load, megabytes / AT_ONCE
        self._ready = ready
        self._desks: OrderedDict[str, Desk] = OrderedDict()
        self._turn = asyncio.Lock()

    def is_loaded(self, name: str) -> bool:
        """Whether a question to this model is answered without loading it first."""
        return name in self._desks

    async def desk(self, name: str) -> Desk:
        """The desk of a model. Raises RefusalError for one that is not here, or does not load."""
        if name not in self.names:
            raise RefusalError(404, f"there is no model {name} here")
        async with self._turn:
            if name not in self._desks:
                try:
                    desk = await asyncio.to_thread(self.open, name)
                except (ValueError, ImportError, OSError) as error:
                    raise RefusalError(422, str(error)) from error
                self.put(name, desk)
            self._desks.move_to_end(name)
            return self._desks[name]

    def open(self, name: str) -> Desk:
        """Load a model and all that its first question needs."""
        localizer = self._ready[name] if name in self._ready else self._load(name)
        desk = Desk(localizer, self._megabytes)
        desk.warm_up()
        return desk

    def put(self, name: str, desk: Desk) -> None:
        """Have a desk in memory, in place of the one that was used longest ago."""
        self._desks[name] = desk
        while len(self._desks) > AT_ONCE:
            self._desks.popitem(last=False)
