"""Claims of several profiles beside each other: groups, folded tables and the figure."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import CLASSES, profile_values, write_voc

from walkthrough.paper import claims, tables
from walkthrough.profiles import load_profile
from walkthrough.records.cells import cell_jobs
from walkthrough.report import overview as module
from walkthrough.report.overview import GROUPS, Overview, group_of, overview


def record(profile, cell, right: int) -> None:
    """Records of every seed of 20 images, of which ``right`` are predicted right."""
    for run, settings in cell_jobs(cell, profile):
        counts = np.zeros((20, 3, 3), dtype=np.int64)
        counts[: right + run.seed % 2, 1, 1], counts[right + run.seed % 2 :, 1, 2] = 1, 1
        run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)
        run.write_training_record(1.0)


@pytest.fixture(scope="module", params=[1, 8])
def page(request, tmp_path_factory) -> SimpleNamespace:
    """``seeds`` that have records, the page of a profile that asks for one beside another profile, and its groups."""
    folder = tmp_path_factory.mktemp("overview")
    values = profile_values(write_voc(folder / "VOC2012"), CLASSES)
    for name in ("tiny", "other"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPLABV3_WORKSPACE", str(folder / "workspace"))
        patch.setattr(module, "recorded_profiles", lambda: [str(folder / "other.yaml")])
        one = load_profile(str(folder / "tiny.yaml"))
        seeds = replace(one, seeds=request.param)
        record(seeds, tables.load(1).cell(output_stride="8"), 18)
        record(seeds, tables.load(1).cell(output_stride="16"), 4)
        for profile in (seeds, load_profile(str(folder / "other.yaml"))):
            record(profile, tables.load(5).cell(multi_grid="(1,2,4)", rates="(6,12,18)", image_pooling="no"), 18)
            record(profile, tables.load(5).cell(image_pooling="yes"), 2)
        found = overview(one)
        groups = {name: found.group(name) for name in GROUPS}
        own = Overview(found.views[:1], found.results[:1])
        alone = {name: own.group(name) for name in ("cascade", "training")}
        return SimpleNamespace(seeds=request.param, found=found, groups=groups, alone=alone)


def test_verdicts_are_those_of_all_recorded_seeds(page):
    own, real = page.found.views
    assert (own.profile.seeds, real.profile.seeds) == (page.seeds, 1)
    words = {one.claim.name: one.label for one in own.verdicts}
    one = page.seeds == 1
    assert words["output stride 16 costs accuracy"] == ("this network: higher" if one else "supported")
    assert words["image-level features help"] == ("this network: lower" if one else "contradicted")


def test_group_has_row_per_profile_with_records(page):
    images = [f"real ({view.profile.name})" for view in page.found.views]
    texts = page.groups["ASPP"].texts()
    pooling = texts[texts["compared"] == "with image pooling over without"]
    assert pooling["images"].tolist() == images and len(set(images)) == 2
    assert pooling["claim"].tolist()[1:] == [""] and set(pooling["paper"]) == {"+0.63*"}
    assert not texts["ours (95 %)"].isin(["", "missing"]).any()


def test_claims_without_records_are_counted_once(page):
    group = page.alone["cascade"]
    assert len(group.texts()) == 3  # the profile has one network for both of the paper's
    (note,) = group.notes()
    assert note.startswith("11 claims have no record here: ") and "more blocks help" in note
    assert "missing" not in group._repr_html_()
    assert [view.table.number for view in page.alone["training"].folded] == [9]  # two of its four cells


def test_tables_are_folded_without_their_claims(page):
    above, folded = page.groups["training"]._repr_html_().split("<details>")
    assert "<summary>Table 9, every cell</summary>" in folded and "Table 9. Batch size" in folded
    assert "The larger the batch" in above and "The larger the batch" not in folded
    assert folded.rstrip().endswith("</details>")


def test_not_run_claims_have_papers_differences(page):
    texts = page.groups["not run"].texts().set_index("compared")
    assert texts.loc["with COCO over without", "paper"] == "+2.93"
    assert set(texts["verdict"]) == {"not run"} and "ours (95 %)" not in texts
    assert [view.table.number for view in page.groups["not run"].folded] == [7, 11, 12, 13]


def test_synthetic_images_come_first(profile, monkeypatch):
    monkeypatch.setattr(module, "recorded_profiles", lambda: ["mobile", "offline"])

    def view(profile, results):
        return SimpleNamespace(profile=profile, verdicts=[SimpleNamespace(found=True)])

    monkeypatch.setattr(module, "claims_view", view)
    shown = {one.name: [view.profile.name for view in overview(one).views] for one in (profile, load_profile("smoke"))}
    assert shown == {profile.name: ["offline", profile.name, "mobile"], "smoke": ["smoke", "mobile"]}


def test_every_claim_is_in_one_group():
    counts = dict.fromkeys(GROUPS, 0)
    for claim in claims.load():
        counts[group_of(claim)] += 1
    assert all(counts.values()) and sum(counts.values()) == len(claims.load())


def test_figure_has_line_per_profile_with_records(page):
    axis = page.found.figure().axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    first = names.index("image-level features help  (Table 5)")
    assert names[first + 1] == f"real ({page.found.views[1].profile.name})"
    marks = [line.get_ydata()[0] for line in axis.lines if line.get_marker() == "D"]
    assert len(names) == len(axis.texts) == len(marks)
    assert "logarithmic" in axis.get_xlabel()
    drawn = page.groups["ASPP"].figure().axes[0]
    assert drawn.get_xlabel().endswith("difference, points of mIoU") and len(drawn.get_yticklabels()) == 4
