"""Catalogue of records: stale and damaged ones are named and not used, and runs are found by short names."""

from dataclasses import replace

import pytest
from record_helpers import PROFILE, recorded, run_of, setting

from deeplabv3.errors import UserError
from walkthrough.records import catalogue
from walkthrough.records.run import Run


@pytest.fixture
def run(profile) -> Run:
    return run_of(profile)


STALE = {
    "unknown model setting": (setting("model", decoder=True), "model setting 'decoder' does not exist any more"),
    "unknown training setting": (setting("training", nesterov=1), "training setting 'nesterov' does not exist"),
    "refused model setting": (setting("model", head="fcn"), "setting 'head' is 'fcn'"),
    "refused training setting": (setting("training", precision="float16"), "setting 'precision' is 'float16'"),
    "refused network": (setting("model", output_stride=12), "output_stride 12 is not possible"),
    "unknown backbone": (setting("model", backbone="vgg16"), "backbone 'vgg16' is unknown"),
    "another kind": (setting("training", lr="fast"), "training settings are of another kind"),
    "no settings": (lambda record: record["settings"].update(model=[1]), "its model settings are [1]"),
    "another results version": (
        lambda record: record["settings"].update(results_version=0),
        "it was made by version 0",
    ),
    "another name": (setting("training", lr=0.06), "a run with its settings is called aspp-small_resnet20-os16-"),
}


@pytest.mark.parametrize(("change", "reason"), STALE.values(), ids=STALE)
def test_run_with_unknown_settings_is_stale(run, profile, change, reason):
    other = run_of(replace(profile, seed=1))
    recorded(other)
    recorded(run, training=change)
    records = {record.name: record for record in catalogue.run_records(PROFILE)}
    assert records[run.name].problem.startswith("stale: ")
    assert reason in records[run.name].problem
    assert records[run.name].problem.endswith(".")
    assert not records[other.name].has_problem
    assert [values["run"] for values, _ in catalogue.all_records(PROFILE)] == [other.name]
    assert catalogue.all_counts(PROFILE, run.name) == {}
    assert len(catalogue.all_counts(PROFILE, other.name)) == 1


STALE_EVALUATIONS = {
    "unknown setting": (lambda record: record["settings"].update(crf=True), "stale: evaluation setting 'crf' does not"),
    "refused setting": (lambda record: record["settings"].update(scales=[]), "stale: the code refuses its evaluation"),
    "impossible stride": (
        lambda record: record["settings"].update(output_stride=64),
        "output_stride 64 is not possible",
    ),
    "another name": (lambda record: record["settings"].update(flip=True), "stale: an evaluation with its settings is"),
    "no number": (lambda record: record.update(miou="high"), "damaged: its mIoU is no number"),
    "nothing in it": (lambda record: record.pop("miou"), "damaged: it lacks miou"),
    "another number": (lambda record: record.update(images=41), "are not those of 41 images"),
    "no hash": (lambda record: record.pop("counts"), "are not those that it was written with"),
    "other counts": (lambda record: record.update(counts="0" * 16), "are not those that it was written with"),
}


@pytest.mark.parametrize(("change", "reason"), STALE_EVALUATIONS.values(), ids=STALE_EVALUATIONS)
def test_stale_evaluation_leaves_its_run_valid(run, change, reason):
    recorded(run, evaluation=change)
    (record,) = catalogue.run_records(PROFILE)
    assert not record.problem and record.usable == []
    assert reason in record.evaluations[0].problem
    ((training, evaluations),) = catalogue.all_records(PROFILE)
    assert (training["run"], evaluations) == (run.name, [])
    assert catalogue.all_counts(PROFILE, run.name) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 3}', "{}"])
@pytest.mark.parametrize("training", [True, False])
def test_damaged_file_is_named_and_skipped(run, profile, content, training):
    other = run_of(replace(profile, seed=1))
    recorded(other)
    folder = recorded(run)
    name = "run.json" if training else f"{run.evaluation_name(profile.evaluation)}.json"
    (folder / name).write_text(content)
    record = next(record for record in catalogue.run_records(PROFILE) if record.name == run.name)
    assert (record.problem if training else record.evaluations[0].problem).startswith("damaged: ")
    assert record.has_problem and record.usable == []
    assert catalogue.all_records(PROFILE)[-1 if other.name > run.name else 0][0]["run"] == other.name


def test_early_records_are_valid(run):
    """Settings with a default came later, as did the images' fingerprint and the speed."""

    def as_before(record: dict) -> None:
        for part, names in (
            ("training", ("precision", "grad_accum_steps", "hard_classes")),
            ("model", ("stride_unit",)),
        ):
            for name in names:
                del record["settings"][part][name]

    def evaluated_before(record: dict) -> None:
        for name in ("fingerprint", "images_per_second", "peak_memory_mib"):
            del record[name]
        del record["settings"]["precision"]

    recorded(run, training=as_before, evaluation=evaluated_before)
    (record,) = catalogue.run_records(PROFILE)
    assert not record.has_problem
    assert run.evaluation_record(run.profile.evaluation)["mark"] == 3
    assert list(catalogue.all_counts(PROFILE, run.name)) == [run.profile.evaluation]


def test_committed_records_are_valid():
    found = catalogue.run_records("mobile")
    assert len(found) >= 7
    assert [record.name for record in found if record.has_problem] == []


def test_run_is_found_by_abbreviated_name_or_hash(profile):
    one, two = run_of(profile), run_of(replace(profile, seed=1))
    for run in (one, two):
        recorded(run)
    identifier = one.name[-12:]
    for named in (one.name, identifier, identifier[:7], one.name[:-3]):
        assert catalogue.find(PROFILE, named).name == one.name
    with pytest.raises(UserError, match=f"may be any of .*{one.name}.*; write more of it"):
        catalogue.find(PROFILE, "aspp-")
    with pytest.raises(UserError, match=f"has no run '{identifier[:-1]}x'; did you mean {one.name}"):
        catalogue.find(PROFILE, identifier[:-1] + "x")
    for unlike in ("zzz", ""):
        with pytest.raises(UserError, match="'deeplabv3 records list' shows"):
            catalogue.find(PROFILE, unlike)


def test_run_that_started_from_a_network_says_nothing_of_the_backbones_weights(run, profile):
    """It counts where there is no other."""
    classes = run.identity["data"]["classes"]
    started = Run(run.profile, run.identity | {"init_from": "f" * 16, "backbone_weights": "imagenet"})
    started.write_training_record(1.0)
    for weights in ("imagenet", ""):
        expected = {(run.identity["data"]["fingerprint"], weights)}
        assert catalogue.recorded_inputs(PROFILE, "train", classes) == expected
        run.write_training_record(1.0)
