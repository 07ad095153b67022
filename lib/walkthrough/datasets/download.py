"""Downloads from hosts that are often down, and unpacking of archives that are not trusted.

A download is kept as ``FILE.partial`` and resumes where it stopped, on the same host or on the next. It gets its own
name only when its checksum fits, so a file of that name is complete.
"""

import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from deeplabv3.errors import UserError

TIMEOUT_S = 30
BLOCK = 2**18  # bytes


@dataclass(frozen=True)
class Source:
    """A file to download."""

    file: str
    checksum: str  # "md5:" or "sha256:" and the hexadecimal digits
    size: int  # bytes
    urls: tuple[str, ...]
    unpacked: int = 0  # bytes that come out of an archive


def say(text: str) -> None:
    """Print to standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def gigabytes(size: int) -> str:
    """Text of a size in bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def has_checksum(path: Path, source: Source) -> bool:
    """Return True if a file has the checksum of ``source``."""
    kind, _, expected = source.checksum.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == expected


def verified(path: Path, source: Source) -> Path:
    """Return the path of a file that is ``source``; any other file is a :class:`UserError`."""
    if not path.is_file():
        raise UserError(f"file {path} does not exist; check the path.")
    if path.stat().st_size != source.size or not has_checksum(path, source):
        raise UserError(
            f"file {path} ({path.stat().st_size:,} bytes) is not {source.file} ({source.size:,} bytes, "
            f"{source.checksum}); delete it and fetch it again."
        )
    return path


def fetch(source: Source, folder: Path, urls: Sequence[str] = ()) -> Path:
    """Return the file in ``folder``; it is downloaded unless it is there, from ``urls`` or else the known hosts.

    Too little free space is a :class:`UserError` before the download; so is a file that no host gives, after it.
    """
    target = folder / source.file
    if target.is_file():
        return verified(target, source)
    partial = folder / f"{source.file}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    require_free_space(folder, source.size - _size(partial) + source.unpacked, source.file)
    failures = []
    for url in urls or source.urls:
        say(f"{source.file} ({gigabytes(source.size)}) from {url}")
        failure = _download(url, partial, source)
        if not failure:
            os.replace(partial, target)
            return target
        failures.append(f"{urlsplit(url).netloc}: {failure}")
        say(f"  {failure}")
    raise UserError(
        f"{source.file} ({gigabytes(source.size)}, {source.checksum}) could not be fetched ({'; '.join(failures)}); "
        f"fetch it by other means, put it into {folder} and run the same command again, or try again later: what has "
        "come is kept."
    )


def require_free_space(folder: Path, size: int, what: str) -> None:
    """Require ``size`` bytes of free space on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{what} needs {gigabytes(size)} in {folder}, where {gigabytes(free)} are free; make room, or name a "
            "folder on another disk."
        )


def _download(url: str, partial: Path, source: Source) -> str:
    """Complete ``partial`` from ``url``, resuming as long as each request adds to it; return the failure, if any."""
    from_start = False
    while True:
        before = _size(partial)
        from_start |= before == 0
        failure = _transfer(url, partial, source.size) if before < source.size else ""
        if failure and _size(partial) <= before:
            return failure
        if failure:
            say(f"  cut off at {gigabytes(_size(partial))}, resuming")
        elif has_checksum(partial, source):
            return ""
        else:
            partial.unlink()
            if from_start:
                return "wrong checksum"
            say("  wrong checksum; starting over, an earlier part may have been wrong")


def _transfer(url: str, partial: Path, size: int) -> str:
    """Request the rest of a file, or all of it where the host cannot give parts; return the failure, if any."""
    begin = _size(partial)
    headers = {"User-Agent": "deeplabv3-walkthrough"} | ({"Range": f"bytes={begin}-"} if begin else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as response:
            begin = _first_byte(response, begin, size)
            with tqdm(total=size, initial=begin, unit="B", unit_scale=True, disable=None) as bar:
                while block := response.read(min(BLOCK, size - begin)):
                    _write(partial, block, begin)
                    begin += len(block)
                    bar.update(len(block))
    except (OSError, HTTPException, ValueError) as error:
        return str(error).removeprefix("<urlopen error ").removesuffix(">") or type(error).__name__
    return "" if begin == size else f"cut off at {begin:,} of {size:,} bytes"


def _first_byte(response: HTTPResponse, begin: int, size: int) -> int:
    """Position of a response's first byte in the file; raise an HTTPException if it is of another file or a page."""
    if response.status == 206:
        if response.headers.get("Content-Range") != f"bytes {begin}-{size - 1}/{size}":
            raise HTTPException(f"has another file ({response.headers.get('Content-Range')})")
        return begin
    length = response.headers.get("Content-Length")
    if length is None and response.headers.get_content_maintype() == "text":
        raise HTTPException("answers with a page")
    if length not in (None, str(size)):
        raise HTTPException(f"has another file ({int(length):,} bytes)")
    return 0


def _write(partial: Path, block: bytes, begin: int) -> None:
    """Write a block at the end of a file that has ``begin`` bytes; at 0 the file is written anew."""
    try:
        with open(partial, "ab" if begin else "wb") as file:
            file.write(block)
    except OSError as error:  # not the host's failure: another one would not help
        raise UserError(f"{partial} cannot be written ({error}).") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def unpack(archive: Path, target: Path, inside: str, verify: Callable[[Path], None]) -> None:
    """Unpack a tar archive; its folder ``inside`` becomes ``target`` if ``verify`` accepts it.

    Until then everything is in ``TARGET.partial``; what a killed process has left there is deleted first.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with (
            tarfile.open(archive) as tar,
            tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, desc="unpacking", disable=None) as bar,
        ):
            for member in tar:
                _require_harmless(member, archive)
                tar.extract(member, partial, set_attrs=False)
                bar.update(tar.offset - bar.n)
        verify(partial / inside)
        os.replace(partial / inside, target)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"archive {archive} cannot be unpacked ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_harmless(member: tarfile.TarInfo, archive: Path) -> None:
    """Refuse what could be written outside the folder or is no file: absolute paths, ``..``, links, devices."""
    paths = PurePosixPath(member.name), PureWindowsPath(member.name)
    outside = any(path.anchor or ".." in path.parts for path in paths)
    if outside or not (member.isfile() or member.isdir()):
        raise UserError(
            f"archive {archive} holds {member.name!r}, which is no plain file in a folder of its own, and was not "
            "unpacked; fetch it from elsewhere."
        )
