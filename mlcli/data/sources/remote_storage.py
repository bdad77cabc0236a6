"""Tar shards behind an address (http://, s3://, gs://, ...), read by ranges through fsspec, an extra: mlcli[remote]."""

import importlib.util
import os
import posixpath
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from mlcli.data.sources.storage import MOST_SMALL, TAR, Shard, changed
from mlcli.errors import ConfigError, DataError, UserError
from mlcli.text import listed, without_secrets

TIMEOUT_S, ATTEMPTS = 60.0, 4
"""Of a request, and how often it is made before it has failed; pauses of 1, 2 and 4 s between them."""
PAUSE_S = 1.0
Result = TypeVar("Result")


class RemoteStorage:
    """Shards behind an address, read by ranges. User, password and query are used and never shown."""

    is_remote = True

    def __init__(self, root: str) -> None:
        self._protocol = root.partition("://")[0].lower()
        path, mark, query = root.partition("?")
        folder, _, last = path.rstrip("/").rpartition("/")
        self._one = last if last.lower().endswith(TAR) else ""
        self._root, self._query = folder if self._one else path.rstrip("/"), mark + query
        self.address = without_secrets(self._root)
        self._system: tuple[int, Any] | None = None
        self._last: tuple[Any, list[bytes]] = (None, [])
        self._ranges_told = False
        needed = ("fsspec", "aiohttp") if self._is_http else ("fsspec",)
        if any(importlib.util.find_spec(name) is None for name in needed):
            fix = "pip install 'mlcli[remote]'; for s3:// also s3fs, for gs:// gcsfs"
            raise ConfigError(f"shards behind an address need {listed(needed)}", where="data.root", fix=fix)

    @property
    def _is_http(self) -> bool:
        return self._protocol in ("http", "https")

    @property
    def _files(self) -> Any:
        """The file system of fsspec; one for each process, as it holds connections and a thread."""
        if self._system is None or self._system[0] != os.getpid():
            import fsspec

            options: dict[str, Any] = {}
            if self._is_http:
                import aiohttp

                timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
                looking = aiohttp.TraceConfig()
                looking.on_request_end.append(self._look_at_answer)
                options = {"client_kwargs": {"timeout": timeout, "trace_configs": [looking]}}
            try:
                options |= {"skip_instance_cache": True, "use_listings_cache": False}
                system = fsspec.filesystem(self._protocol, **options)
            except (ImportError, ValueError) as error:
                fix = "pip install s3fs for s3://, gcsfs for gs://"
                what = f"{self._protocol}:// cannot be read here: {error}"
                raise ConfigError(what, where="data.root", fix=fix) from error
            self._system = os.getpid(), system
        return self._system[1]

    def _url(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/") + self._query

    def names(self) -> list[str]:
        if self._one:
            return [self._one]
        found, folders = list[str](), [""]
        for folder in folders:  # and those in it, to which it grows
            url = self._url(folder)
            url = url if self._query or not self._is_http else url + "/"
            for entry in self._asked(folder, lambda url=url: self._files.ls(url, detail=True)):  # type: ignore[misc]
                last = posixpath.basename(unquote(urlsplit(entry["name"]).path).rstrip("/"))
                name = posixpath.join(folder, last)
                if entry["type"] == "directory" and not folder and last and len(folders) < 1000:
                    folders.append(name)
                elif last.lower().endswith(TAR):
                    found.append(name)
        return sorted(set(found))

    def shard(self, name: str) -> Shard:
        found = self._asked(name, lambda: self._files.info(self._url(name)))
        if not isinstance(found.get("size"), int):
            raise self._no_ranges(name, "it does not say how large the file is")
        stamps = ("ETag", "Last-Modified", "LastModified", "etag", "md5Hash", "mtime", "updated", "created")
        shard = Shard(name, found["size"], str(next((found[key] for key in stamps if found.get(key)), "")))
        if self._is_http and not self._ranges_told and shard.size >= 2:
            if found.get("partial") is False:
                raise self._no_ranges(name)
            self.read(shard, 1, 1)
            self._ranges_told = True
        return shard

    async def _look_at_answer(self, session: Any, context: Any, ended: Any) -> None:
        """Raise DataError, before anything is read, for an answer by http that is not the part that was asked for, or
        not of the file that the index was made of."""
        answer, asked = ended.response, re.fullmatch(r"bytes=(\d+)-(\d+)", ended.headers.get("Range", ""))
        if asked is None or answer.status not in (200, 206, 416):
            return
        first, size = int(asked[1]), int(asked[2]) - int(asked[1]) + 1
        shard: Shard | None = (context.trace_request_ctx or {}).get(str((*answer.history, answer)[0].url))
        name = shard.name if shard else ""
        told, total = re.match(r"bytes (\d+)-\d+/(\d*)", answer.headers.get("Content-Range", "")), answer.content_length
        if answer.status == 416 and shard:  # no such part: it is shorter by now
            raise changed(self.address, shard)
        if answer.status == 206 and (told is None or int(told[1]) != first):
            raise self._no_ranges(name)
        if answer.status == 200 and (first, total) != (0, size):  # but all that there is may be all that was asked for
            raise self._no_ranges(name)
        by_tag = shard is not None and shard.stamp.removeprefix("W/").startswith('"')
        stamp = answer.headers.get("ETag" if by_tag else "Last-Modified", "")
        others = shard and stamp and stamp.removeprefix("W/") != shard.stamp.removeprefix("W/")
        if shard and shard.stamp and (others or (told and told[2] and int(told[2]) != shard.size)):
            raise changed(self.address, shard)

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        return self._parts([(shard, offset, size)])[0]

    def read_many(self, parts: Sequence[tuple[Shard, int, int]]) -> Iterator[bytes]:
        """All at once, over several connections; the last answer is kept, as sizes are asked for before crops."""
        if len(parts) < 2:
            return iter([self.read(*part) for part in parts])
        before, found = self._last
        if before != parts:
            found = self._parts(parts)
            self._last = parts, found
        return iter(found)

    def _parts(self, parts: Sequence[tuple[Shard, int, int]]) -> list[bytes]:
        urls = [self._url(shard.name) for shard, _, _ in parts]
        starts, ends = [offset for _, offset, _ in parts], [offset + size for _, offset, size in parts]
        options: dict[str, Any] = {}
        if self._is_http:  # for `_look_at_answer`
            meant = {str(self._files.encode_url(url)): part[0] for url, part in zip(urls, parts, strict=True)}
            options = {"trace_request_ctx": meant}

        def ask() -> list[bytes]:
            found = self._files.cat_ranges(urls, starts, ends, on_error="raise", **options)
            for data, (shard, _, size) in zip(found, parts, strict=True):
                if isinstance(data, Exception):  # older versions of fsspec return them
                    raise data
                if len(data) < size and self._is_http:
                    raise ConnectionResetError("the answer is cut off")
                if len(data) != size:
                    raise self._no_ranges(shard.name) if len(data) > size else changed(self.address, shard)
            return [bytes(data) for data in found]

        return self._asked(parts[0][0].name, ask)

    def small(self, name: str) -> bytes | None:
        try:
            return self._asked(name, lambda: self._files.cat_file(self._url(name)))[:MOST_SMALL]
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None, "_last": (None, [])}

    def _asked(self, name: str, ask: Callable[[], Result]) -> Result:
        """What a request brings, made again where it may help. Raises DataError with the address."""
        where, pause_s = f"{self.address}/{name}".rstrip("/"), PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ask()
            except (FileNotFoundError, PermissionError, NotImplementedError) as error:
                what = "there is no such file" if isinstance(error, FileNotFoundError) else "it may not be read"
                fix = "check the address; without a listing name the files: data.shards={train: 'a-{000..146}.tar'}"
                raise DataError(f"{what} (answer to a request)", where=where, fix=fix) from error
            except UserError:
                raise
            except Exception as error:  # of many libraries, whose texts may hold the address with its secrets
                status = getattr(error, "status", None)
                why = type(error).__name__ + (f", status {status}" if status else "")
                is_final = isinstance(error, ValueError)  # an address that is none
                is_final |= isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
                if attempt == ATTEMPTS or is_final:
                    what = f"cannot be read over the network: {why}"
                    fix = "check address, network and credentials, and go on with --resume"
                    raise DataError(what, where=where, fix=fix) from error
                print(f"warning    {where}: {why}; asked again in {pause_s:g} s", file=sys.stderr, flush=True)
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _no_ranges(self, name: str, what: str = "the server does not send parts of files (ranges)") -> DataError:
        fix = "use a server that takes ranges (nginx, S3, ...), or copy the shards to a disk and name its folder"
        return DataError(what, where=f"{self.address}/{name}".rstrip("/"), fix=fix)
