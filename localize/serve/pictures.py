"""The pictures that a client only names: local files, and addresses of hosts that are allowed.

Knows files below one folder, and HTTP as a client; must not know pixels. Nothing is opened or
fetched that the user has not allowed, redirects are not followed, and proxies and passwords of the
environment are not used.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import httpx

from localize.serve.asked import from_base64
from localize.serve.refusal import RefusalError

LOCAL_FILES = "/data/local-files/"
"""How Label Studio's addresses of local files begin; the file's name is in ``d``."""

PORTS = {"http": 80, "https": 443}

FETCH_SECONDS = 60
"""A picture must have come after so many seconds."""


@dataclass(frozen=True)
class Place:
    """A host and port that pictures may be fetched from, port None meaning 80 and 443."""

    host: str
    port: int | None

    @classmethod
    def of(cls, text: str) -> Place:
        """Of HOST or HOST:PORT, [ADDRESS]:PORT for IPv6. Raises ValueError for anything else."""
        parts = urlsplit(f"//{text}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.path or parts.query or parts.username is not None:
            raise ValueError(f"a host must be HOST or HOST:PORT, not {text!r}")
        return cls(host, port)

    def has(self, url: httpx.URL) -> bool:
        """Whether an address is on it."""
        port = url.port or PORTS.get(url.scheme)
        wanted = PORTS.values() if self.port is None else (self.port,)
        return url.host.lower() == self.host and port in wanted


@dataclass(frozen=True)
class Pictures:
    """What may be opened and fetched.

    max_bytes: of one picture. folder: Label Studio's document root of local files, or None.
    places: hosts that pictures may be fetched from. label_studio: the address of the Label Studio
    whose uploads may be fetched, or None; label_studio_key: of the user it is asked as.
    """

    max_bytes: int
    folder: str | None = None
    places: tuple[Place, ...] = ()
    label_studio: str | None = None
    label_studio_key: str | None = field(default=None, repr=False)

    async def read(self, address: str) -> bytes:
        """The bytes behind the address of a picture in a task of Label Studio.

        Raises RefusalError where there is none (422), it may not be had (403) or fails (502).
        """
        if address.startswith("data:"):
            return from_base64(address)
        if address.startswith(LOCAL_FILES) and self.folder is not None:
            names = parse_qs(urlsplit(address).query).get("d", [])
            if len(names) != 1:
                raise RefusalError(422, f"the address of a local file must be {LOCAL_FILES}?d=NAME")
            return await asyncio.to_thread(self._local, self.folder, names[0])
        try:
            return await asyncio.wait_for(self._fetch(address), FETCH_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            raise RefusalError(502, f"{address} did not come in {FETCH_SECONDS} seconds") from None

    def _local(self, folder: str, name: str) -> bytes:
        """A plain file below the folder, links followed."""
        root = os.path.realpath(folder)
        missing = RefusalError(422, f"there is no file {name} below the folder of --local-files")
        try:
            path = os.path.realpath(os.path.join(root, name))
            if os.path.commonpath([root, path]) != root:
                raise missing
            status = os.stat(path)  # first: opening a pipe would wait for ever
            if not stat.S_ISREG(status.st_mode):
                raise missing
            with open(path, "rb") as file:
                data = file.read(self.max_bytes + 1)
        except (OSError, ValueError):
            raise missing from None
        self._check_size(len(data), name)
        return data

    def _check_size(self, count: int, name: str) -> None:
        if count > self.max_bytes:
            limit = self.max_bytes / 1e6
            raise RefusalError(422, f"the picture {name} is larger than the limit of {limit:g} MB")

    async def _fetch(self, address: str) -> bytes:
        url, headers = await self._allowed(address)
        # Identity: a few compressed kilobytes could otherwise unfold to gigabytes.
        headers["Accept-Encoding"] = "identity"
        try:
            async with (
                httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                if response.status_code != 200:
                    hint = ", and redirects are not followed" if response.is_redirect else ""
                    raise RefusalError(502, f"{url} answers with {response.status_code}{hint}")
                data = bytearray()
                async for part in response.aiter_raw():
                    data += part
                    self._check_size(len(data), str(url))
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise RefusalError(502, f"{url} cannot be fetched: {reason}") from None
        return bytes(data)

    async def _allowed(self, address: str) -> tuple[httpx.URL, dict[str, str]]:
        """The address to fetch and the headers that its host is to get."""
        own = None if self.label_studio is None else httpx.URL(self.label_studio)
        try:
            if address.startswith("/"):
                if own is None:
                    options = "--label-studio"
                    if address.startswith(LOCAL_FILES):
                        options = "--local-files or --label-studio"
                    raise RefusalError(
                        403, f"{address} is Label Studio's; start with {options} to read it"
                    )
                url = own.join(address)
            else:
                url = httpx.URL(address)
            if url.scheme not in PORTS or not url.host or url.userinfo:
                raise httpx.InvalidURL("")
        except (httpx.InvalidURL, ValueError):
            raise RefusalError(
                422, f"{address} is no address of a picture that can be read"
            ) from None
        if own is not None and Place(own.host.lower(), own.port or PORTS[own.scheme]).has(url):
            return url, await self._credentials(own)
        if not any(place.has(url) for place in self.places):
            named = f"{url.host}:{url.port}" if url.port else url.host
            raise RefusalError(
                403, f"nothing is fetched from {named}; start with --allow-host {named} to allow it"
            )
        return url, {}

    async def _credentials(self, own: httpx.URL) -> dict[str, str]:
        """What Label Studio knows its user by: a legacy token, or a personal one, which is a JWT
        that buys another for five minutes."""
        key = self.label_studio_key
        if not key:
            return {}
        if key.count(".") != 2:
            return {"Authorization": f"Token {key}"}
        url = own.join("/api/token/refresh")
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                response = await client.post(url, json={"refresh": key})
                return {"Authorization": f"Bearer {response.json()['access']}"}
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                raise RefusalError(502, "Label Studio does not take LABEL_STUDIO_API_KEY") from None


def places(texts: Iterable[str]) -> tuple[Place, ...]:
    """The hosts that the user allows. Raises ValueError for what names none."""
    return tuple(map(Place.of, texts))
