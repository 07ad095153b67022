"""Sweeps: the plan and its order, its estimated cost, and that it is carried out, resumed, shared and reported."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import read_until
from interrupts import assert_ended, interrupt_at_first_step

from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import checkpoint_step
from deeplabv3.model.cost import multiply_adds
from deeplabv3.signals import Interrupted
from walkthrough.cli import main
from walkthrough.experiments import estimate, local, progress, sweep
from walkthrough.experiments.estimate import Throughput, estimate_hours
from walkthrough.experiments.local import run_missing
from walkthrough.experiments.progress import Progress
from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.experiments.sweep import plan, without_images
from walkthrough.experiments.task import Task, image_work, missing, step_work, tasks_of
from walkthrough.paper import tables
from walkthrough.profiles import load_profile
from walkthrough.records.cells import table_jobs
from walkthrough.records.compare import duration
from walkthrough.records.lock import LOCK, locked
from walkthrough.records.naming import SHIPPED, reading
from walkthrough.records.run import Run


def stop_after(task: Task, step: int) -> None:
    """Train so far that a checkpoint stands behind ``step``, and stop."""

    def stop(number: int, loss: float, lr: float) -> None:
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train_run(task.run, stop)


# --- the plan


def test_tables_are_parsed_from_numbers_and_ranges():
    assert sweep.parse_tables("1-6,8") == (1, 2, 3, 4, 5, 6, 8)
    assert sweep.parse_tables("9, 2-3,3") == (9, 2, 3)
    assert sweep.parse_tables("5-9") == (5, 6, 8, 9)  # Table 7 is not regenerated
    assert sweep.parse_tables("12", load_profile("cityscapes_fine").extra_data) == (12,)


@pytest.mark.parametrize("text", ["7", "0", "x", "", "3-1", "1-6;8", "15"])
def test_unknown_tables_are_a_user_error(text):
    with pytest.raises(UserError, match=r"names no table that is regenerated; choose from 1, 2, 3"):
        sweep.parse_tables(text)


def test_all_tables_with_one_seed_come_first(profile):
    sweep_plan = plan(replace(profile, seeds=2))
    seeds = [task.run.seed for task in sweep_plan.tasks]
    assert seeds == sorted(seeds) and seeds.count(0) == seeds.count(1) == len(seeds) / 2
    first = [task for task in sweep_plan.tasks if task.run.seed == 0]
    assert [task.run.name for task in first] == [task.run.name for task in plan(profile).tasks]


def test_tables_are_completed_early(profile):
    """Table by table, each time the one with the least left to do; a shared run counts for all; longest runs first."""
    sweep_plan = plan(profile)
    left = {number: {run for run, _ in table_jobs(tables.load(number), profile)} for number in tables.NUMBERS}
    costs = {task.run: task.left() for task in sweep_plan.tasks}
    tasks = list(sweep_plan.tasks)
    assert len({task.run for task in tasks}) == len(tasks) > 30
    while left:
        number = min(left, key=lambda number: (sum(costs[run] for run in left[number]), number))
        group = [tasks.pop(0).run for _ in left[number]]
        assert set(group) == left.pop(number)
        assert [costs[run] for run in group] == sorted((costs[run] for run in group), reverse=True)
        left = {number: runs - set(group) for number, runs in left.items()}
    assert not tasks


def test_one_run_fills_cells_of_many_tables(profile):
    """The best network is Table 5's last row, all of Table 6, and a row of each table of Appendix A."""
    sweep_plan = plan(profile)
    (best,) = [task for task in sweep_plan.tasks if 6 in sweep_plan.cells[task.run]]
    assert list(sweep_plan.cells[best.run]) == [5, 6, 8, 9, 10, 14]
    assert "Table 5 (1,2,4) (6,12,18) image pooling; Table 6 output stride 16, output stride 8," in sweep_plan.cells_of(
        best.run
    )
    assert len(best.evaluations) == 4
    jobs = {job for number in tables.NUMBERS for job in table_jobs(tables.load(number), profile)}
    assert {(task.run, settings) for task in sweep_plan.tasks for settings in task.evaluations} == jobs


def test_recorded_evaluations_are_not_planned(profile):
    first = plan(profile, (6,)).tasks[0]
    train_run(first.run)
    evaluate_run(first.run, first.evaluations[0])
    (again,) = plan(profile, (6,)).tasks
    assert again.evaluations == first.evaluations[1:]
    assert again.left() == sum(map(first.evaluation, first.evaluations[1:]))


# --- work and time


def test_work_is_counted_in_multiply_adds(profile):
    """A step is three passes over the batch; two scales, mirrored, are four passes, at the stride of the evaluation."""
    config, training = profile.model_config(), profile.training
    assert step_work(config, training) == 3 * 2 * multiply_adds(config, 33, 33)
    settings = replace(profile.evaluation, scales=(0.5, 1.0), flip=True, output_stride=8)
    at_8 = replace(config, output_stride=8)
    assert image_work(config, settings) == 2 * (multiply_adds(at_8, 33, 33) + multiply_adds(at_8, 65, 65))
    (task,) = tasks_of([(Run.of(profile, config), settings)])
    assert task.total == 3 * step_work(config, training) + 3 * image_work(config, settings)


def test_hours_follow_order_and_workers(profile):
    tasks = plan(profile, (1,)).tasks
    speed = Throughput(training=1e-6, evaluation=2e-6, source="")
    training, evaluation = sum(task.training for task in tasks), sum(task.total - task.training for task in tasks)
    alone = training * 1e-6 + evaluation * 2e-6
    assert estimate_hours(tasks, speed, 1) == pytest.approx(alone / 3600)
    assert estimate_hours(tasks, speed, 99) == pytest.approx(max(map(speed.seconds, tasks)) / 3600)
    assert alone / 2 <= 3600 * estimate_hours(tasks, speed, 2) < alone


def test_finished_steps_cost_nothing(profile):
    (task,) = tasks_of([(Run.of(profile, profile.model_config()), profile.evaluation)])
    speed = Throughput(training=1.0, evaluation=0.0, source="")
    assert speed.seconds(task) == task.training
    stop_after(task, 2)
    assert task.steps_done() == checkpoint_step(task.run.checkpoint) == 2
    assert speed.seconds(task) == pytest.approx(task.training / 3)
    task.run.checkpoint.write_bytes(b"damaged")
    assert task.steps_done() == 0


def test_estimate_prefers_records_of_this_machine(profile, monkeypatch):
    tasks = plan(profile, (6,)).tasks
    assert estimate.recorded_speed(profile) is None
    assert "timed here" in estimate.speed_of(profile, tasks).source
    run, settings = tasks[0].run, tasks[0].evaluations[0]
    train_run(run)
    evaluate_run(run, settings)
    for file, seconds in (("run", 12.0), (run.evaluation_name(settings), 6.0)):
        path = run.record_folder() / f"{file}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds}))
    speed = estimate.speed_of(profile, tasks)
    assert "1 recorded run of this profile" in speed.source
    assert speed.training * tasks[0].training == pytest.approx(12)
    assert speed.evaluation * tasks[0].evaluation(settings) == pytest.approx(6)

    with reading(SHIPPED):
        assert "1 recorded run" in estimate.speed_of(profile, tasks).source, "reproduce reads but one kind of records"

    here = estimate.environment()
    monkeypatch.setattr(estimate, "environment", lambda: here | {"device": "another"})
    assert estimate.recorded_speed(profile) is None


def test_timed_step_gives_the_estimate(profile, monkeypatch):
    """A second a step: a run of three steps takes three seconds, and one with twice the work six."""
    monkeypatch.setattr(estimate, "_step_seconds", lambda run, training: iter([5.0, 1.0]))
    tasks = plan(profile, (1,)).tasks
    smallest = min(tasks, key=lambda task: step_work(task.run.config, task.run.training))
    speed = estimate.timed_speed(tasks)
    assert speed.training * smallest.training == pytest.approx(3)
    for load, busy in ((0.0, False), (math.inf, True)):
        monkeypatch.setattr(estimate.psutil, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert ("other programs were busy" in estimate.timed_speed(tasks).source) == busy


# --- progress


def test_time_left_follows_speed_since_this_start(profile, monkeypatch, capsys):
    """Two of three steps were done before; the third takes ten seconds, so an evaluation as large as it takes ten."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    task = FakeTask(total=400, before=200)
    with Progress([task], "sweep") as bar:
        assert bar.seconds_left() is None
        clock[0] += 10
        bar.moved(0, 300, 0.5)
        assert bar.seconds_left() == pytest.approx(10)
        assert capsys.readouterr().err == "", "at most a line a minute where nobody watches"
        clock[0] += 51
        bar.moved(0, 310)
        assert capsys.readouterr().err == "sweep, 0 of 1 runs, 78%, 00:49 left, loss=0.500\n"


def test_progress_names_the_tables_at_work(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    names = ["Table 3 (1,2,1) block7", "Table 5 (1,1,1)", "Table 9 batch 4", "Table 9 batch 8"]
    with Progress([FakeTask(100) for _ in names], "sweep", names) as bar:
        for number in range(3):
            bar.moved(number, 50, 0.5 + number)
        clock[0] += 61
        bar.moved(0, 60, 0.25)
        bar.ended(1)
        clock[0] += 61
        bar.ended(0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("left, Table 3 (1,2,1) block7 loss=0.250; Table 5 (1,1,1) loss=1.500; 1 more")
    assert second.startswith("sweep, 2 of 4 runs") and second.endswith("left, Table 9 batch 4 loss=2.500")


def test_plan_names_cells_and_seeds(profile):
    assert "Table 1 output stride 8" in plan(profile, (1,)).names()
    assert "Table 1 output stride 8, seed 1" in plan(replace(profile, seeds=2), (1,)).names()


def test_failed_task_leaves_the_time_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress([FakeTask(100), FakeTask(100), FakeTask(100)], "sweep") as bar:
        clock[0] += 10
        bar.moved(0, 100)
        bar.ended(0)
        assert bar.seconds_left() == pytest.approx(20)
        bar.ended(1, failed=True)
        assert bar.seconds_left() == pytest.approx(10)
        bar.ended(2)
        assert bar.seconds_left() == 0


def test_bar_reads_runs_and_percentage(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress([FakeTask(100), FakeTask(100)], "Table 3") as bar:
        bar.moved(0, 50, loss=1.5)
        bar._bar.refresh()
        bar.ended(0)
        bar._bar.refresh()
    shown = terminal.getvalue()
    assert "Table 3, 0 of 2 runs:  25%" in shown and "Table 3, 1 of 2 runs:  50%" in shown and ": :" not in shown


class FakeTask:
    def __init__(self, total: int, before: int = 0):
        self.total, self._before = total, before

    def done(self) -> int:
        return self._before


# --- the command


def test_dry_run_prints_plan_and_writes_nothing(profile_file, profile, workspace, capsys):
    task = next(task for task in plan(profile, (1,)).tasks if task.run.config.output_stride == 8)
    stop_after(task, 2)
    before = sorted(workspace.rglob("*"))
    assert main(["sweep", "--profile", str(profile_file), "--tables", "1-2", "--seeds", "2", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert re.search(
        rf"{task.run.name}  seed 0  goes on at step 2 of 3, 1 evaluation, .*\n +Table 1 output stride 8\n", text
    )
    assert re.search(
        r"seed 1  3 steps, 1 evaluation, .*\n +Table 1 output stride 16; Table 2 ResNet-50 block7, ResNet-101 block7\n",
        text,
    )
    assert re.search(r"18 runs and 18 evaluations under profile tiny-tests: about \d+ (s|min) with \d+ at a time", text)
    assert sorted(workspace.rglob("*")) == before


def test_dry_run_without_images_lists_all_runs(workspace, capsys, monkeypatch):
    """The paper's protocol, its images not yet there: what it will take is worth knowing before they are."""
    speed = Throughput(1e-13, 1e-13, "by nothing")
    monkeypatch.setattr(estimate, "speed_of", lambda profile, tasks: speed)
    arguments = ["sweep", "--profile", "voc", "--set", "model.backbone_weights=''", "--tables", "6,9"]
    assert main([*arguments, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "aspp-resnet101-os16  seed 0  30,000 steps, 4 evaluations" in text
    assert re.search(r"4 runs and 7 evaluations under profile voc: about .* h", text)
    assert re.search(r"note: data root .*VOC2012 does not exist; .* Without images nobody can tell", text)
    assert not workspace.exists()
    assert main(arguments) == 1
    assert re.match(r"deeplabv3: data root .*VOC2012 does not exist; name a folder", capsys.readouterr().err)


def test_images_of_a_list_are_counted_by_records():
    """The list of the profile ``mobile`` is a part of VOC's 1,449."""
    with without_images(load_profile("mobile")) as (_, images):
        assert images == 445


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90, "90 s"), (6000, "100 min"), (9000, "2.5 h"), (259199, "72.0 h"), (259200, "3 days"), (1e9, "11,574 days")],
)
def test_duration_has_a_unit_that_people_count_in(seconds, text):
    assert duration(seconds) == text


def test_failed_run_stops_no_other_and_is_resumed(profile_file, profile, capsys):
    """Tables 8 and 9; one of Table 8's runs has a damaged checkpoint. Each run is trained once."""
    sweep_plan = plan(profile, (8, 9))
    broken = next(task for task in sweep_plan.tasks if 9 not in sweep_plan.cells[task.run])
    broken.run.folder.mkdir(parents=True)
    broken.run.checkpoint.write_bytes(b"damaged")
    command = ["sweep", "--profile", str(profile_file), "--tables", "8,9", "--set", "runtime.parallel_runs=1"]
    assert main(command) == 1
    out, error = capsys.readouterr()
    assert "Table 9 complete" in out
    assert re.search(r"Table 8 lacks 1 of \d evaluations", out)
    assert re.search(rf"failed: {broken.run.name}, seed 0 \(Table 8 .*\): checkpoint .* is damaged", error)
    assert f"1 of {len(sweep_plan.tasks)} runs failed" in error and "Traceback" not in error
    for task in sweep_plan.tasks:
        if task != broken:
            steps = [line.split(",")[0] for line in (task.run.folder / "log.csv").read_text().splitlines()]
            assert steps == ["step", "0", "1", "2"]

    broken.run.checkpoint.unlink()
    assert main(command) == 0
    assert "Tables 8, 9 complete; print one with: deeplabv3 table 8" in capsys.readouterr().out
    assert not missing(job for number in (8, 9) for job in table_jobs(tables.load(number), profile))


def test_interrupted_sweep_saves_and_says_so(profile_file, monkeypatch, capsys):
    """SIGTERM, as a batch system sends it: no traceback, everything saved, and the plan knows how far it is."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", math.inf)  # the first step may come after a minute
    workers = interrupt_at_first_step(monkeypatch, local, signal.SIGTERM)
    command = ["sweep", "--profile", str(profile_file), "--tables", "6"]
    command += ["--set", "training.iterations=100000", "--set", "runtime.parallel_runs=0"]
    assert main(command) == 1
    assert capsys.readouterr().err == "deeplabv3: stopped on the way; the same command goes on.\n"
    assert_ended(workers)
    (task,) = plan(load_profile(str(profile_file), {"training.iterations": 100_000}), (6,)).tasks
    assert task.steps_done() > 0


def test_concurrent_sweeps_share_runs(profile_file, profile, workspace):
    """While a run is locked, both do all others; then one of them does that one. Each run is trained once."""
    tasks = plan(profile, (2,)).tasks
    first, *others = tasks
    command = [sys.executable, str(Path(__file__).with_name("sweep_process.py")), str(profile_file), "2"]
    with locked(first.run.folder / LOCK, "the first run"):
        sweeps = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
        try:
            for sweep_process in sweeps:
                read_until(sweep_process.stderr, b"other processes are busy with what is left", 300)
            while missing((task.run, settings) for task in others for settings in task.evaluations):
                assert all(sweep_process.poll() is None for sweep_process in sweeps)
                time.sleep(0.1)
            assert first.run.training_record() is None
        except BaseException:
            for sweep_process in sweeps:
                sweep_process.kill()
            raise
    for sweep_process in sweeps:
        assert sweep_process.wait(timeout=300) == 0
    assert not missing(table_jobs(tables.load(2), profile))
    assert sorted((workspace / "trained").read_text().split()) == sorted(task.run.name for task in tasks)


def test_complete_tables_need_no_work(profile_file, profile, capsys):
    run_missing(table_jobs(tables.load(9), profile))
    assert main(["sweep", "--profile", str(profile_file), "--tables", "9", "--dry-run"]) == 0
    assert capsys.readouterr().out == "Nothing is missing.\n"
    assert main(["sweep", "--profile", str(profile_file), "--tables", "9"]) == 0
    assert "Table 9 complete" in capsys.readouterr().out
