"""Memory that decoded images may take: a share of what is free, also in a container and among processes."""

from types import SimpleNamespace

import psutil
import pytest

from deeplabv3.data import voc


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Folder for a container's limit, on a machine with 1,024,000 bytes free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_024_000))
    monkeypatch.setattr(voc, "CGROUP", tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return tmp_path


def test_allowance_is_a_quarter_of_free_memory(cgroup):
    assert voc.allowance() == 256_000


@pytest.mark.parametrize(("limit", "allowed"), [("600000\n", 125_000), ("9000000\n", 256_000), ("max\n", 256_000)])
def test_allowance_respects_container_limit(cgroup, limit, allowed):
    (cgroup / "memory.max").write_text(limit)
    (cgroup / "memory.current").write_text("100000\n")
    assert voc.allowance() == allowed


def test_allowance_is_shared_by_local_processes(cgroup, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert voc.allowance() == 32_000
