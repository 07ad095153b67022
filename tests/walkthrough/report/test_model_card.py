"""The model card: every number from the record."""

import numpy as np
import pytest

from deeplabv3.errors import UserError
from walkthrough.profiles import load_profile
from walkthrough.records.catalogue import all_records
from walkthrough.records.run import Run
from walkthrough.report.model_card import model_card


def test_card_holds_what_the_record_holds():
    record, evaluations = next(found for found in all_records("mobile") if len(found[1]) > 2)
    card = model_card(load_profile("mobile"), record["run"])
    assert record["run"] in card
    for evaluation in evaluations:
        assert f"| {evaluation['miou']:.1f} (" in card
        assert all(f"| {round(iou)} (" in card for iou in evaluation["class_iou"].values())
    assert f"{record['settings']['training']['iterations']:,} steps" in card
    assert "are labeled background" in card


def test_card_tells_the_stages_in_their_order():
    records = {record["run"]: record for record, _ in all_records("mobile")}
    last = next(record for record in records.values() if record.get("started_from") in records)
    first = records[last["started_from"]]
    card = model_card(load_profile("mobile"), last["run"])
    steps = [f"{record['settings']['training']['iterations']:,} steps" for record in (first, last)]
    assert 0 < card.index(steps[0]) < card.index(f"From the network of `{first['run']}`") < card.index(steps[1])


def test_card_of_an_unknown_run_is_refused():
    with pytest.raises(UserError, match="no run 'nobody'"):
        model_card(load_profile("mobile"), "nobody")


def test_card_of_an_own_run_tells_no_foreign_origin(profile):
    run, settings = Run.of(profile, profile.model_config()), profile.evaluation
    counts = np.array([[[90, 0, 0], [0, 50, 5], [0, 0, 40]]])
    run.write_training_record(5.0)
    run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)
    card = model_card(profile, run.name)
    assert "Flickr" not in card and str(run.record_folder()) in card
    assert card.count("% of the pixels of") == 1, "of nine pairs of classes one is confused"
