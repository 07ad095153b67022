"""Breaks a copy of the library on purpose, once for each proof, and sees that the proof's test fails.

Run by hand, some minutes: ``.venv/bin/python tests/mutants.py [WORD …]``; words choose the breakages whose name has
one of them. Exit code 1 if a breakage is not caught, or if the library no longer holds the text that it changes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]

# What is wrong | file below lib | tests below tests, then a text that occurs there once, and what it becomes.
BREAKAGES = """
multi-grid replaces the rate instead of multiplying it | deeplabv3/model/atrous.py | deeplabv3/model/test_atrous.py
    plan.append(UnitPlan(block, unit, unit_stride, rate * unit_rate))
    plan.append(UnitPlan(block, unit, unit_stride, unit_rate if block >= GRID_BLOCK else rate))
rates are not doubled where a stride is lost | deeplabv3/model/atrous.py | deeplabv3/model/test_backbones.py -k made_dense
    rate *= unit_stride
    pass
the paper's layout has its strides in the first units | deeplabv3/model/atrous.py | deeplabv3/model/test_atrous.py
    has_stride = first if first_unit_strided else last
    has_stride = first
ASPP's rates stay put at output stride 8 | deeplabv3/model/deeplab.py | deeplabv3/model/test_deeplab.py deeplabv3/model/test_variants.py -k stride
    self.head.set_rates(aspp_rates(config.atrous_rates, output_stride))
    self.head.set_rates(config.atrous_rates)
padding is off by one in a ResNet's unit | deeplabv3/model/resnet.py | deeplabv3/model/test_backbones.py -k made_dense
    self.conv2.dilation = self.conv2.padding = (rate, rate)
    self.conv2.dilation, self.conv2.padding = (rate, rate), (rate - 1, rate - 1)
a ResNet's shortcut is averaged instead of subsampled | deeplabv3/model/resnet.py | deeplabv3/model/test_backbones.py -k made_dense
    shortcut = x[:, :, ::stride, ::stride] if stride > 1 else x
    shortcut = F.avg_pool2d(x, stride, ceil_mode=True) if stride > 1 else x
MobileNetV2 ignores its rates | deeplabv3/model/mobilenet.py | deeplabv3/model/test_backbones.py -k made_dense
    self.depthwise.dilation = self.depthwise.padding = (rate, rate)
    self.depthwise.dilation = self.depthwise.padding = (1, 1)
MobileNetV2's ReLU has no ceiling | deeplabv3/model/mobilenet.py | deeplabv3/model/test_backbones.py -k torchvision
    nn.ReLU6(inplace=True)
    nn.ReLU(inplace=True)
corners are always aligned | deeplabv3/model/deeplab.py | deeplabv3/model/test_weights.py -k logits_match
    return resize(logits, images.shape[2:], self.config.align_corners)
    return resize(logits, images.shape[2:], True)
torchvision's additional convolution is left out | deeplabv3/model/heads.py | deeplabv3/model/test_weights.py -k logits_match
    if self.extra is not None:
    if False:
image pooling is missing from the concatenation | deeplabv3/model/heads.py | deeplabv3/model/test_heads.py
    outputs.append(self.image_pooling(features))
    outputs.append(torch.zeros_like(outputs[0]))
DeepLabv2's head loses a classifier | deeplabv3/model/heads.py | deeplabv3/model/test_heads.py
    sum(classifier(features) for classifier in self.classifiers)
    sum(classifier(features) for classifier in self.classifiers[1:])
the output stride does not come back | deeplabv3/model/deeplab.py | deeplabv3/model/test_variants.py -k in_place_and_back
    config = replace(self.config, output_stride=output_stride)
    config = replace(self.config, output_stride=min(output_stride, self.config.output_stride))
no gradient reaches the backbone | deeplabv3/model/deeplab.py | deeplabv3/model/test_variants.py -k overfits
    return self.head(features)
    return self.head(features.detach())
features are added to large numbers | deeplabv3/model/heads.py | deeplabv3/model/test_variants.py -k bfloat16
    outputs = [branch(features) for branch in self.branches]
    outputs = [branch(features + 1000 - 1000) for branch in self.branches]
pooling reads channels last as channels first | deeplabv3/model/heads.py | deeplabv3/model/test_variants.py -k channels_last
    features.mean(dim=(2, 3), keepdim=True)
    features.as_strided(features.shape, torch.empty(features.shape).stride()).mean((2, 3), keepdim=True)
an export fixes the size of the image | deeplabv3/model/deeplab.py | deeplabv3/model/test_variants.py -k exported
    images.shape[2:], self.config.align_corners)
    [int(n) for n in images.shape[2:]], self.config.align_corners)
a checkpoint rounds its tensors | deeplabv3/model/checkpoint.py | deeplabv3/model/test_variants.py -k saved
    value.cpu().contiguous() for name, value in checkpoint.model.items()
    (value / 3 * 3).to(value.dtype) for name, value in checkpoint.model.items()
the batch norm freeze is lost by train() | deeplabv3/model/deeplab.py | deeplabv3/model/test_deeplab.py
    if self._batch_norm_frozen:
    if False:
one value per channel is left to batch norm | deeplabv3/model/deeplab.py | deeplabv3/model/test_deeplab.py
    self._refuse_one_value_per_channel(images)
    pass
block5 is not initialized from block4 | deeplabv3/model/weights.py | deeplabv3/model/test_weights.py
    for number in range(5, model.config.last_block + 1):
    for number in range(6, model.config.last_block + 1):
biases cost nothing | deeplabv3/model/cost.py | deeplabv3/model/test_cost.py
    self.out_channels * (2 if self.norm else 1)
    self.out_channels * (2 if self.norm else 0)
the shortcut's convolution is costed before its stride | deeplabv3/model/cost.py | deeplabv3/model/test_cost.py
    yield LayerCost(f"{name}.downsample.0", 1, channels, outer, *strided)
    yield LayerCost(f"{name}.downsample.0", 1, channels, outer, *size)
Figure 4's closed form is off by one | deeplabv3/model/atrous.py | deeplabv3/model/test_atrous.py -k figure_4
    three = max(0, size - 2 * rate) / size
    three = max(0, size - 2 * rate + 1) / size
the receptive field forgets the stride | deeplabv3/model/atrous.py | deeplabv3/model/test_backbones.py -k gradient
    field += (effective_kernel(kernel, rate) - 1) * stride
    field += effective_kernel(kernel, rate) - 1
255 is counted as background in the metric | deeplabv3/evaluation/metrics.py | deeplabv3/evaluation/test_metrics.py
    counted = truth != VOID
    truth, counted = np.where(truth == VOID, 0, truth), truth >= 0
other classes are background instead of void | deeplabv3/data/voc.py | walkthrough/datasets/test_check.py -k other_classes
    self._lookup = np.full(256, VOID if unlisted_labels == "ignore" else -1, dtype=np.int16)
    self._lookup = np.full(256, 0 if unlisted_labels == "ignore" else -1, dtype=np.int16)
trainaug keeps VOC's val images | walkthrough/datasets/prepare.py | walkthrough/datasets/test_prepare.py -k end_to_end
    names = sorted({*train, *sbd_names} - set(val))
    names = sorted({*train, *sbd_names})
SBD's labels are preferred to VOC's | deeplabv3/data/lists.py | walkthrough/datasets/test_prepare.py -k end_to_end
    LABELS = ("SegmentationClass", "SegmentationClassAug", "SegmentationClassPNG")
    LABELS = ("SegmentationClassAug", "SegmentationClass", "SegmentationClassPNG")
images are not turned as viewers show them | deeplabv3/data/reading.py | deeplabv3/data/test_reading.py -k viewers
    ImageOps.exif_transpose(image, in_place=True)
    pass
grays of 2 and 4 bits are stretched in labels | deeplabv3/data/reading.py | deeplabv3/data/test_reading.py -k few_bits
    stretch = {"2": 85, "4": 17}[layout[1]] if layout else 1
    stretch = 1
corrected labels of equal size are the same data | deeplabv3/data/voc.py | deeplabv3/data/test_voc.py -k fingerprint
    hashlib.sha256(label.read_bytes()).hexdigest()
    label.stat().st_size
a class that never occurs is trained for hours | walkthrough/datasets/survey.py | walkthrough/datasets/test_survey.py -k missing
    if not missing:
    if True:
a download begins again instead of going on | walkthrough/datasets/download.py | walkthrough/datasets/test_download.py -k cut_connection
    begin = _size(partial)
    begin = 0
a wrong checksum is not noticed | walkthrough/datasets/download.py | walkthrough/datasets/test_download.py -k fault
    return hashlib.file_digest(file, kind).hexdigest() == expected
    return hashlib.file_digest(file, kind).hexdigest() != ""
an archive may leave its folder | walkthrough/datasets/download.py | walkthrough/datasets/test_download.py -k hostile
    outside = any(path.anchor or ".." in path.parts for path in paths)
    outside = False
a replaced image keeps its signature | deeplabv3/data/voc.py | deeplabv3/data/test_voc.py -k signature
    return " ".join([self.names[index], *(f"{file.st_size}@{file.st_mtime_ns}" for file in found)])
    return " ".join([self.names[index], *(f"{file.st_size}" for file in found)])
255 is learned as background | deeplabv3/training/step.py | deeplabv3/training/test_step.py -k void
    F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
    F.cross_entropy(logits, labels.where(labels != VOID, 0), reduction="none")
batch norm is not synchronized | deeplabv3/distributed.py | deeplabv3/test_distributed.py -k two_processes_equal
    module.__class__ = SyncBatchNorm
    module.__class__ = nn.BatchNorm2d
every process divides by its own pixels | deeplabv3/training/step.py | deeplabv3/test_distributed.py -k two_processes_equal
    if parts > 1 or processes.world_size > 1:
    if parts > 1:
parts of a batch are averaged | deeplabv3/training/step.py | deeplabv3/training/test_step.py -k accumulated_gradient
    if parts > 1 or processes.world_size > 1:
    if processes.world_size > 1:
every process trains on the whole batch | deeplabv3/training/trainer.py | deeplabv3/test_distributed.py -k two_processes_equal
    self.runtime.num_workers, *share)
    self.runtime.num_workers)
the checkpoint before is not tried | deeplabv3/training/trainer.py | deeplabv3/training/test_resume.py -k gives_way
    if number == len(paths):
    if True:
the newest network is taken for the best | deeplabv3/training/trainer.py | deeplabv3/training/test_trainer.py -k the_best_network
    score > self._best_score()
    score > 0
losses at the end of a run are not read | deeplabv3/training/trainer.py | deeplabv3/training/test_trainer.py -k read_late
    if self.steps_done % READ_EVERY.get(self.device.type, 1) and not validates and not finished:
    if self.steps_done % READ_EVERY.get(self.device.type, 1) and not validates:
a record's counts are not compared with its JSON | walkthrough/records/store.py | walkthrough/records/test_store.py -k killed_writer
    return content if values.get(COUNTS) == counts_hash(content) else None
    return content
a checkpoint's checksum is not compared | deeplabv3/model/checkpoint.py | deeplabv3/model/test_checkpoint.py -k flipped
    if header.get("crc32", checksum) != checksum:
    if False:
a setting that the code lost is read as if it had it | walkthrough/records/catalogue.py | walkthrough/records/test_catalogue.py -k unknown_settings
    if unknown := sorted(set(values) - known):
    if False:
records of another results version are used | walkthrough/records/catalogue.py | walkthrough/records/test_catalogue.py -k unknown_settings
    if version != RESULTS_VERSION:
    if False:
a record under a name that is not its own is used | walkthrough/records/catalogue.py | walkthrough/records/test_catalogue.py -k unknown_settings
    return "" if current_name == name else f"a run with its settings is called {current_name} now."
    return ""
two processes train one run | walkthrough/experiments/run.py | walkthrough/records/test_lock.py -k train_run_once
    with locked(run.folder / LOCK, f"run {run.name}", processes, wait):
    with locked(run.folder / f".{id(run)}", f"run {run.name}", processes, wait):
a run that another process trains fails the sweep | walkthrough/experiments/processes.py | walkthrough/experiments/test_sweep.py -k share_runs
    if isinstance(error, Locked):
    if False:
a lock is deleted though it is another's by now | walkthrough/records/lock.py | walkthrough/records/test_lock.py -k moved_folder
    if not os.path.samestat(path.stat(), os.fstat(descriptor)):
    if not path.exists():
prune deletes what git tracks | walkthrough/records/prune.py | walkthrough/records/test_prune.py -k git_tracked
    if path in tracked:
    if False:
prune deletes runs that could go on | walkthrough/records/prune.py | walkthrough/records/test_prune.py -k only_when_asked
    if runs and (reason or (include_unfinished and unfinished)):
    if runs and (reason or unfinished):
prune deletes without being told to | walkthrough/commands/records.py | walkthrough/commands/test_records_command.py -k only_with_yes
    chosen = prune.plan(profile.name, options.runs, options.include_unfinished)
    chosen = prune.plan(profile.name, options.runs, options.include_unfinished); options.yes = True
a seed's tables are mixed with the next seed's | walkthrough/experiments/sweep.py | walkthrough/experiments/test_sweep.py -k one_seed_come_first
    left = {number: {run for run, _ in jobs[number, seed] if run in tasks} for number in numbers}
    left = {number: {run for n, s in jobs for run, _ in jobs[n, s] if n == number} & {*tasks} for number in numbers}
tables come by number, however long they take | walkthrough/experiments/sweep.py | walkthrough/experiments/test_sweep.py -k completed_early
    number = min(left, key=lambda number: (sum(task.left() for task in new[number]), number))
    number = min(left)
the longest run of a table begins last | walkthrough/experiments/sweep.py | walkthrough/experiments/test_sweep.py -k completed_early
    key=lambda task: (-task.left(), task.run.name)
    key=lambda task: (task.left(), task.run.name)
the estimate takes records of another machine | walkthrough/experiments/estimate.py | walkthrough/experiments/test_sweep.py -k prefers_records
    if (record["device"], record.get("threads", threads)) != (here, threads):
    if False:
what a checkpoint holds is estimated again | walkthrough/experiments/task.py | walkthrough/experiments/test_sweep.py -k finished_steps
    return min(checkpoint_step(self.run.checkpoint), self.run.training.iterations)
    return 0
the mirror images of an evaluation are no work | walkthrough/experiments/task.py | walkthrough/experiments/test_sweep.py -k multiply_adds
    return (1 + settings.flip) * sum(
    return sum(
work of before counts as the speed of now | walkthrough/experiments/progress.py | walkthrough/experiments/test_sweep.py -k speed_since_this_start
    done = sum(self._positions) - self._before
    done = sum(self._positions)
an unreadable image ends the whole pool | walkthrough/experiments/run.py | walkthrough/experiments/test_experiments.py -k survives_pickling
    return type(self), (str(self), self.values)
    return super().__reduce__()
all processes share the first GPU | walkthrough/experiments/local.py | walkthrough/experiments/test_experiments.py -k take_gpus
    torch.cuda.set_device(slot % torch.cuda.device_count())
    torch.cuda.set_device(0)
a lost worker's run is not tried again | walkthrough/experiments/ray_cluster.py | walkthrough/experiments/test_ray_cluster.py -k killed_worker
    RETRIES = 3
    RETRIES = 0
a run that fails by itself is tried again | walkthrough/experiments/ray_cluster.py | walkthrough/experiments/test_ray_cluster.py -k killed_worker
    retry_exceptions=False
    retry_exceptions=True
an interrupt leaves the cluster's tasks training | walkthrough/experiments/ray_cluster.py | walkthrough/experiments/test_ray_cluster.py -k saves_tasks
    ray.cancel(reference, force=False)
    pass
differences are not paired by image | walkthrough/report/intervals.py | walkthrough/report/test_intervals.py -k paired
    totals = (draws_of_images(images) @ confusions.reshape(images, -1)).reshape(-1, classes, classes)
    totals = (np.random.permutation(draws_of_images(images)) @ confusions.reshape(images, -1)).reshape(-1, *2 * [classes])
an interval is one of 90 % | walkthrough/report/intervals.py | walkthrough/report/test_intervals.py -k known
    below, above = self._distances((1 - level) / 2)
    below, above = self._distances(1 - level)
seeds are no chance | walkthrough/report/intervals.py | walkthrough/report/test_intervals.py -k seed
    return float(stats.sem(self.values)) if len(self.values) > 1 else 0.0
    return 0.0
few seeds are taken for many | walkthrough/report/intervals.py | walkthrough/report/test_intervals.py -k seed
    chance_of_seeds = _student(1 - tail, seeds - 1) * self._seed_error if seeds > 1 else 0.0
    chance_of_seeds = stats.norm.ppf(1 - tail) * self._seed_error
one comparison is enough to support a claim | walkthrough/report/verdicts.py | walkthrough/report/test_verdicts.py
    if all(ours.interval()[0] > comparison.bound for comparison, ours in self.found):
    if any(ours.interval()[0] > comparison.bound for comparison, ours in self.found):
the higher mIoU is enough | walkthrough/report/verdicts.py | walkthrough/report/test_verdicts.py
    if all(ours.interval()[0] > comparison.bound for comparison, ours in self.found):
    if all(ours.value > comparison.bound for comparison, ours in self.found):
one of many comparisons contradicts by chance | walkthrough/report/verdicts.py | walkthrough/report/test_verdicts.py
    joint = 1 - (1 - LEVEL) / len(self.found)
    joint = LEVEL
one seed supports and contradicts | walkthrough/report/verdicts.py | walkthrough/report/test_verdicts.py -k seed
    return bool(self.found) and all(len(ours.values) > 1 for _, ours in self.found)
    return bool(self.found)
no gain is an order | walkthrough/paper/comparisons.py | walkthrough/report/test_verdicts.py -k margin
    return Comparison(name, ((1, kept), (-1, changed)), -DELTA)
    return Comparison(name, ((1, kept), (-1, changed)))
no result is outside the seeds' spread | walkthrough/report/reproduction.py | walkthrough/report/test_reproduction.py -k told_by_their_size
    outcome = UNKNOWN if np.isnan(low) else SPREAD if low <= mean <= high else OUTSIDE
    outcome = UNKNOWN if np.isnan(low) else SPREAD
many reproduced cells are judged as one | walkthrough/report/reproduction.py | walkthrough/report/test_reproduction.py -k many_comparisons
    level = 1 - (1 - intervals.LEVEL) / max(1, sum(not outcome for outcome, _ in examined))
    level = intervals.LEVEL
records of other labels are compared | walkthrough/report/reproduction.py | walkthrough/report/test_reproduction.py -k broken_record
    if a.shape != b.shape or (a.sum(axis=2) != b.sum(axis=2)).any():
    if a.shape != b.shape:
what ships passes for what was made here | walkthrough/records/naming.py | walkthrough/records/test_run_records.py -k apart_from_shipped
    if base and only in ("", source)]
    if base]
a network that is gone is not made again | walkthrough/experiments/local.py | walkthrough/experiments/test_live.py -k deleted_network
    _run(_not_made_here(jobs), title)
    _run(missing(jobs), title)
cells of different seeds are compared | walkthrough/report/results.py | walkthrough/report/test_verdicts.py
    seeds = [seed for seed in self.profile.all_seeds() if all(seed in estimates for _, estimates in found)]
    seeds = [seed for seed in self.profile.all_seeds() if any(seed in estimates for _, estimates in found)]
Table 4 evaluates the vanilla cascade | walkthrough/paper/tables.py | walkthrough/paper/test_tables.py
    return {"variant": _cascade("resnet101", 7, (1, 2, 1)), "evaluation": _strategy(keys)}
    return {"variant": _cascade("resnet101", 7), "evaluation": _strategy(keys)}
heads without batch norm take DeepLabv3's learning rate | walkthrough/paper/tables.py | walkthrough/paper/test_tables.py -k rate
    training |= {"lr": 0.001}
    training |= {}
the season shows on the pond | deeplabv3/data/synthetic.py | deeplabv3/data/test_synthetic.py -k season
    gray = 120 + _value_noise(random, height, width, cell=40, strength=20)
    gray = 110 + 20 * (season == WATER) + _value_noise(random, height, width, cell=40, strength=20)
tiles begin off the grid of the whole image's features | deeplabv3/evaluation/inference.py | deeplabv3/evaluation/test_tiles.py -k away_from_borders
    unit = 4 * config.output_stride
    unit = 4 + 4 * config.output_stride
a tile keeps what only its neighbor sees whole | deeplabv3/evaluation/inference.py | deeplabv3/evaluation/test_tiles.py -k every_pixel_once
    margin = -(-(tile - 1) // (8 * unit)) * unit
    margin = 0
"""


@cache
def intact(copy: Path, tests: str) -> bool:
    return not failure(copy, tests)


def failure(copy: Path, tests: str) -> str:
    """The first of the tests that fails in ``copy``, or the empty text."""
    # Two changes within a second may leave files of one size and time: no bytecode, or the old one would run.
    environment = os.environ | {"PYTHONPATH": str(copy / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [f"tests/{word}" if word.endswith(".py") else word for word in tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    failed = re.search(r"^FAILED tests/(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    return failed[1] if failed else "" if done.returncode == 0 else f"pytest itself: {done.stdout}{done.stderr}"


def main(words: list[str]) -> int:
    lines = [line.strip() for line in BREAKAGES.strip().splitlines()]
    entries = [e for e in zip(*[iter(lines)] * 3, strict=True) if not words or any(word in e[0] for word in words)]
    caught = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("lib", "tests", "data/paper"):
            shutil.copytree(HOME / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(HOME / "pyproject.toml", copy)
        for head, old, new in entries:
            name, file, tests = head.split(" | ")
            path = copy / "lib" / file
            text = path.read_text()
            if text.count(old) != 1:
                told = f"TEXT FOUND {text.count(old)} TIMES in {file}: {old}"
            elif not intact(copy, tests):
                told = f"FAILS UNBROKEN: {tests}"
            else:
                path.write_text(text.replace(old, new))
                test = failure(copy, tests)
                path.write_text(text)
                caught += "::" in test
                told = f"caught by {test}" if "::" in test else f"NOT CAUGHT by {tests} {test}"
            print(f"{name}: {told}", flush=True)
    print(f"{caught} of {len(entries)} caught")
    return 0 if caught == len(entries) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
