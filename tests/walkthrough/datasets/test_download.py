"""Downloads from hosts with faults, and unpacking of hostile archives."""

import hashlib
import io
import shutil
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from faulty_server import Server, serve

from deeplabv3.errors import UserError
from walkthrough.datasets.download import Source, fetch, unpack

DATA = np.random.default_rng(0).integers(0, 256, 10_000).astype(np.uint8).tobytes()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve({"file.tar": DATA}) as running:
        yield running


def source_of(server: Server, *faults: str) -> Source:
    urls = tuple(server.url(fault, "file.tar") for fault in faults)
    return Source("file.tar", f"md5:{hashlib.md5(DATA).hexdigest()}", len(DATA), urls)


def test_file_is_fetched_once(server, tmp_path):
    source, folder = source_of(server, "good"), tmp_path / "new" / "folder"
    for _ in range(2):
        assert fetch(source, folder).read_bytes() == DATA
    assert server.asked == [("good", 0)]
    assert [path.name for path in folder.iterdir()] == ["file.tar"]


def test_cut_connection_resumes(server, tmp_path):
    """No byte comes twice, and the host that gives some is asked again."""
    source = source_of(server, "cut", "good")
    assert fetch(source, tmp_path).read_bytes() == DATA
    assert server.asked == [("cut", begin) for begin in (0, 3000, 6000, 9000)]


def test_partial_download_resumes(server, tmp_path):
    (tmp_path / "file.tar.partial").write_bytes(DATA[:7000])
    assert fetch(source_of(server, "good"), tmp_path).read_bytes() == DATA
    assert server.asked == [("good", 7000)]


def test_next_host_resumes_partial_download(server, tmp_path):
    server.most = 0
    (tmp_path / "file.tar.partial").write_bytes(DATA[:5000])
    assert fetch(source_of(server, "cut", "good"), tmp_path).read_bytes() == DATA
    assert server.asked == [("cut", 5000), ("good", 5000)]


def test_host_without_ranges_starts_over(server, tmp_path):
    (tmp_path / "file.tar.partial").write_bytes(DATA[:7000])
    assert fetch(source_of(server, "norange"), tmp_path).read_bytes() == DATA


def test_host_without_progress_is_given_up(server, tmp_path):
    assert fetch(source_of(server, "cut-norange", "good"), tmp_path).read_bytes() == DATA
    assert server.asked == [("cut-norange", 0), ("cut-norange", 3000), ("good", 3000)]


@pytest.mark.parametrize("fault", ["404", "500", "page", "short", "wrong"])
@pytest.mark.parametrize("fetched", [0, 4000])
def test_host_with_fault_is_skipped(server, tmp_path, fault, fetched):
    """Bytes with a wrong checksum are deleted; a partial download survives a host that sends something else."""
    (tmp_path / "file.tar.partial").write_bytes(DATA[:fetched])
    assert fetch(source_of(server, fault, "good"), tmp_path).read_bytes() == DATA
    assert server.asked[0] == (fault, fetched)
    assert server.asked[-1] == ("good", 0 if fault == "wrong" else fetched)


def test_wrong_partial_file_is_fetched_again(server, tmp_path):
    (tmp_path / "file.tar.partial").write_bytes(bytes(4000))
    assert fetch(source_of(server, "good"), tmp_path).read_bytes() == DATA
    assert server.asked == [("good", 4000), ("good", 0)]


def test_all_hosts_down_says_what_to_do(server, tmp_path):
    """The file that was then fetched by hand is used, and another one in its place is not."""
    source = source_of(server, "404", "cut-norange")
    with socket.socket() as silent, pytest.raises(UserError) as caught:
        silent.bind(("127.0.0.1", 0))  # nobody listens there, nor can anybody else meanwhile
        fetch(source, tmp_path, [f"http://127.0.0.1:{silent.getsockname()[1]}/file.tar", *source.urls])
    message = str(caught.value)
    assert "\n" not in message
    for part in ("file.tar (0.0 MB, md5:", "Connection refused", "404", "cut off at 3,000 of 10,000 bytes",
                 f"put it into {tmp_path}"):  # fmt: skip
        assert part in message
    (tmp_path / "file.tar").write_bytes(DATA[::-1])
    with pytest.raises(UserError, match=r"file\.tar \(10,000 bytes\) is not file\.tar .*delete it"):
        fetch(source, tmp_path)
    (tmp_path / "file.tar").write_bytes(DATA)
    asked = len(server.asked)
    assert fetch(source, tmp_path) == tmp_path / "file.tar"
    assert len(server.asked) == asked


def test_too_small_disk_is_an_error_before_download(server, tmp_path, monkeypatch):
    """A partial download counts as space that is taken already, the archive's content as space that is needed."""
    source = source_of(server, "good")
    source = Source(source.file, source.checksum, source.size, source.urls, unpacked=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_005_000))
    with pytest.raises(UserError, match=r"file\.tar needs 2\.0 GB in .* make room"):
        fetch(source, tmp_path)
    assert server.asked == []
    (tmp_path / "file.tar.partial").write_bytes(DATA[:5000])
    assert fetch(source, tmp_path).read_bytes() == DATA


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_is_a_user_error(server, tmp_path):
    (tmp_path / "file.tar.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot be written .*No space left"):
        fetch(source_of(server, "good", "good"), tmp_path)
    assert server.asked == [("good", 0)]  # another host would not help


def archive_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(entry("top/inside/first.txt"), io.BytesIO(b"data"))
        for member in members:
            archive.addfile(member, io.BytesIO(b"evil") if member.isreg() else None)
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return member


def test_archive_is_unpacked_whole(tmp_path):
    """Files that a killed process has left are deleted."""
    (tmp_path / "target.partial" / "top").mkdir(parents=True)
    (tmp_path / "target.partial" / "top" / "inside").write_text("half")
    archive = archive_of(tmp_path / "a.tar", entry("top/inside/below", tarfile.DIRTYPE), entry("top/outside.txt"))
    seen = []
    unpack(archive, tmp_path / "target", "top/inside", seen.append)
    assert {path.name for path in (tmp_path / "target").iterdir()} == {"first.txt", "below"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "target"}
    assert seen == [tmp_path / "target.partial" / "top" / "inside"]


def test_refused_archive_leaves_nothing(tmp_path):
    def refuse(folder: Path) -> None:
        raise UserError("half of it")

    with pytest.raises(UserError, match="half of it"):
        unpack(archive_of(tmp_path / "a.tar"), tmp_path / "target", "top/inside", refuse)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar"}


HOSTILE = [
    entry("/evil"),
    entry("../evil"),
    entry("top/inside/../../../evil"),
    entry("..\\evil"),
    entry("C:/evil"),
    entry("top/inside/link", tarfile.SYMTYPE, "../../../evil"),
    entry("top/inside/link", tarfile.SYMTYPE, "/etc/passwd"),
    entry("top/inside/link", tarfile.LNKTYPE, "../evil"),
    entry("top/inside/device", tarfile.CHRTYPE),
    entry("top/inside/pipe", tarfile.FIFOTYPE),
]


@pytest.mark.parametrize("member", HOSTILE, ids=lambda member: f"{member.name} {member.linkname}")
def test_hostile_archive_is_refused(tmp_path, member):
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    if member.name.startswith("/"):
        member.name = str(tmp_path / "evil")
    archive = archive_of(tmp_path / "a.tar", member, entry("top/inside/link/evil"))
    with pytest.raises(UserError, match=r"a\.tar holds '.*was not unpacked"):
        unpack(archive, folder / "target", "top/inside", lambda folder: None)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"deep", "deep/folder", "a.tar"}


def test_truncated_archive_is_a_user_error(tmp_path):
    archive = archive_of(tmp_path / "a.tar", *(entry(f"top/inside/{number}") for number in range(20)))
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a\.tar cannot be unpacked .* fetch it again"):
        unpack(archive, tmp_path / "target", "top/inside", lambda folder: None)
    assert not (tmp_path / "target").exists()


def test_checksums_are_those_of_torchvision():
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    from walkthrough.datasets import prepare

    assert prepare.VOC.checksum == f"md5:{DATASET_YEAR_DICT['2012']['md5']}"
    assert prepare.SBD.checksum == f"md5:{SBDataset.md5}"
    assert DATASET_YEAR_DICT["2012"]["url"] in prepare.VOC.urls
    assert SBDataset.url in prepare.SBD.urls
    assert all(source.file in url for source in (prepare.VOC, prepare.SBD) for url in source.urls)
