"""Download the published files of a dataset, checked against the published MD5."""

from __future__ import annotations

import hashlib
import http.client
import math
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from hemalens.datasets.base import Download
from hemalens.datasets.readers import READERS
from hemalens.errors import DatasetError, near_matches, one_line
from hemalens.files import atomic_path
from hemalens.outputs import claim_output
from hemalens.progress import track

TIMEOUT_S = 30.0
"""How long to wait for a server, in seconds."""
CHUNK_BYTES = 1 << 20


def download(name: str, out: Path, *, size_px: int, overwrite: bool = False) -> Path:
    """Download the file of `size_px` of the dataset `name` into the folder `out`; return its path.

    A failed download leaves nothing behind. Raises `DatasetError` for an unknown dataset or size, a server that cannot be
    reached or breaks off, and a wrong checksum; `OutputError` for a file that exists, unless `overwrite`, and for a folder
    that is not writable.
    """
    offered = [known for known, reader in READERS.items() if reader.downloads]
    if name not in offered:
        raise DatasetError(f"no download of {one_line(name)} is known", remedy=near_matches(name, offered))
    sizes = READERS[name].downloads
    if size_px not in sizes:
        raise DatasetError(
            f"{name} has no images of {size_px} px",
            expected=", ".join(str(size) for size in sizes),
            got=str(size_px),
            remedy="Choose another --size.",
        )
    published = sizes[size_px]
    path = out / published.name
    with claim_output(path, overwrite=overwrite):
        _fetch(published, path)
    return path


def _fetch(published: Download, path: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            for chunk in _chunks(published):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != published.md5:
            raise DatasetError(
                f"the download from {published.url} is not the published file",
                expected=f"MD5 {published.md5}",
                got=digest.hexdigest(),
                remedy="Try again later; no file was written.",
            )


def _chunks(published: Download) -> Iterator[bytes]:
    """Yield the bytes of a file; network errors become `DatasetError`."""
    n_bytes = 0
    try:
        request = urllib.request.Request(published.url, headers={"User-Agent": "hemalens"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            steps = None if total is None else math.ceil(total / CHUNK_BYTES)
            with track(f"downloading {published.name} (MB)", steps) as progress:
                while chunk := response.read(CHUNK_BYTES):
                    n_bytes += len(chunk)
                    yield chunk
                    progress(1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _broken(published, str(error) or type(error).__name__) from error
    if total is not None and n_bytes < total:
        raise _broken(published, f"{n_bytes} of {total} bytes")


def _broken(published: Download, got: str) -> DatasetError:
    return DatasetError(
        f"cannot download {published.url}",
        expected="the whole file",
        got=got,
        remedy="Check the network, or put the file into the folder of --out yourself; no file was written.",
    )
