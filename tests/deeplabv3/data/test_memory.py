"""What decoded images may take: a share of what is free, in a container and among processes too."""

import pytest

from deeplabv3.data import voc


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with a thousand kilobytes free."""
    monkeypatch.setattr(voc, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(voc, "CGROUP", tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  1000 kB\n")
    return tmp_path


def test_a_quarter_of_what_is_free(system):
    assert voc.allowance() == 256_000


@pytest.mark.parametrize(("limit", "allowed"), [("600000\n", 125_000), ("9000000\n", 256_000), ("max\n", 256_000)])
def test_a_containers_limit_counts(system, limit, allowed):
    (system / "memory.max").write_text(limit)
    (system / "memory.current").write_text("100000\n")
    assert voc.allowance() == allowed


def test_processes_on_one_machine_share(system, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert voc.allowance() == 32_000


def test_nothing_where_the_system_does_not_say(system):
    (system / "meminfo").unlink()
    assert voc.allowance() == 0
