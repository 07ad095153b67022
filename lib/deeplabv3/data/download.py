"""Fetches files from hosts that are often down, and unpacks archives without trusting them.

A download is kept as ``FILE.partial`` and goes on where it stopped, on the same host or on the next. It gets its own
name only when its checksum fits, so whatever bears that name is whole.
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
from deeplabv3.files import writing

TIMEOUT_S = 30
BLOCK = 2**18


@dataclass(frozen=True)
class Source:
    """A file to fetch: its name, size in bytes, and where it is.

    ``checksum`` is ``md5:`` or ``sha256:`` and its hexadecimal digits, ``unpacked`` how many bytes come out of it.
    """

    file: str
    checksum: str
    size: int
    urls: tuple[str, ...]
    unpacked: int = 0


class Unavailable(Exception):
    """Why a host does not give a file."""


def say(text: str) -> None:
    """Tell the person at the terminal; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def fits(path: Path, source: Source) -> bool:
    """Whether a file has the checksum."""
    kind, _, expected = source.checksum.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == expected


def verified(path: Path, source: Source) -> Path:
    """A file that somebody else put there; any other file than ``source`` is a :class:`UserError`."""
    if not path.is_file():
        raise UserError(f"file {path} does not exist; check the path.")
    if path.stat().st_size != source.size or not fits(path, source):
        raise UserError(
            f"file {path} ({path.stat().st_size:,} bytes) is not {source.file} ({source.size:,} bytes, "
            f"{source.checksum}); delete it and fetch it again."
        )
    return path


def fetch(source: Source, folder: Path, urls: Sequence[str] = ()) -> Path:
    """The file in ``folder``, downloaded unless it is there: from one of ``urls``, by default the known ones.

    A full disk is noticed first; that no host answers is one sentence that says what to fetch by hand.
    """
    target = folder / source.file
    if target.is_file():
        return verified(target, source)
    partial = folder / f"{source.file}.partial"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, source.size - _size(partial) + source.unpacked, source.file)
    failures = []
    for url in urls or source.urls:
        say(f"{source.file} ({gigabytes(source.size)}) from {url}")
        try:
            _fetch_whole(url, partial, source)
        except Unavailable as failure:
            failures.append(f"{urlsplit(url).netloc}: {failure}")
            say(f"  {failure}")
        else:
            with writing(target):
                os.replace(partial, target)
            return target
    raise UserError(
        f"{source.file} ({gigabytes(source.size)}, {source.checksum}) could not be fetched ({'; '.join(failures)}); "
        f"fetch it by other means, put it into {folder} and run the same command again, or try again later: what has "
        "come is kept."
    )


def require_room(folder: Path, size: int, what: str) -> None:
    """That a disk is too small is better said before an hour of downloading than after."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{what} needs {gigabytes(size)} in {folder}, where {gigabytes(free)} are free; make room, or name a "
            "folder on another disk."
        )


def _fetch_whole(url: str, partial: Path, source: Source) -> None:
    """Fill ``partial`` from ``url``, on from where it is, asking again as long as that brings it further."""
    own = False
    while True:
        before = _size(partial)
        own |= before == 0
        if before < source.size:
            try:
                _transfer(url, partial, source.size)
            except Unavailable:
                if _size(partial) <= before:
                    raise
                say(f"  cut off at {gigabytes(_size(partial))}, going on")
                continue
        if fits(partial, source):
            return
        partial.unlink()
        if own:
            raise Unavailable("wrong checksum")
        say("  wrong checksum; from the beginning, lest an earlier part was to blame")


def _transfer(url: str, partial: Path, size: int) -> None:
    """One request: the rest of the file, or all of it where the host cannot give parts."""
    begin = _size(partial)
    headers = {"User-Agent": "deeplabv3-walkthrough"} | ({"Range": f"bytes={begin}-"} if begin else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            begin = _begin_of(answer, begin, size)
            _write(answer, partial, begin, size)
    except (OSError, HTTPException, ValueError) as error:
        reason = str(error).removeprefix("<urlopen error ").removesuffix(">")
        raise Unavailable(reason or type(error).__name__) from error
    if _size(partial) < size:
        raise Unavailable(f"cut off at {_size(partial):,} of {size:,} bytes")


def _begin_of(answer: HTTPResponse, begin: int, size: int) -> int:
    """Where an answer's bytes belong; one about another file, such as the page of a host that moved, is refused."""
    if answer.status == 206:
        if answer.headers.get("Content-Range") != f"bytes {begin}-{size - 1}/{size}":
            raise Unavailable(f"has another file ({answer.headers.get('Content-Range')})")
        return begin
    length = answer.headers.get("Content-Length")
    if length is None and answer.headers.get_content_maintype() == "text":
        raise Unavailable("answers with a page")
    if length not in (None, str(size)):
        raise Unavailable(f"has another file ({int(length):,} bytes)")
    return 0


def _write(answer: HTTPResponse, partial: Path, begin: int, size: int) -> None:
    with (
        writing(partial),
        open(partial, "ab" if begin else "wb", buffering=0) as file,
        tqdm(total=size, initial=begin, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while begin < size:
            try:
                block = answer.read(min(BLOCK, size - begin))
            except (OSError, HTTPException) as error:
                raise Unavailable(f"cut off at {begin:,} of {size:,} bytes ({error})") from error
            if not block:
                return
            file.write(block)
            begin += len(block)
            bar.update(len(block))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def unpack(archive: Path, target: Path, inside: str, verify: Callable[[Path], None]) -> None:
    """Unpack a tar archive, whose folder ``inside`` becomes ``target`` when ``verify`` finds it whole, or not at all.

    Until then everything lies in ``TARGET.partial``, which an unpacking that was killed leaves and the next one clears.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        with writing(partial):
            if partial.exists():
                shutil.rmtree(partial)
            with (
                tarfile.open(archive) as tar,
                tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, desc="unpacking", disable=None) as bar,
            ):
                for member in tar:
                    _require_harmless(member, archive)
                    tar.extract(member, partial, set_attrs=False)
                    bar.update(tar.offset - bar.n)
        verify(partial / inside)
        with writing(target):
            os.replace(partial / inside, target)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"archive {archive} cannot be unpacked ({error}); fetch it again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_harmless(member: tarfile.TarInfo, archive: Path) -> None:
    """Refuse what could land outside the folder or is no file: absolute paths, ``..``, links, devices."""
    paths = PurePosixPath(member.name), PureWindowsPath(member.name)
    outside = any(path.anchor or ".." in path.parts for path in paths)
    if outside or not (member.isfile() or member.isdir()):
        raise UserError(
            f"archive {archive} holds {member.name!r}, which is no plain file in a folder of its own, and was not "
            "unpacked; fetch it from elsewhere."
        )
