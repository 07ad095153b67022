"""The paper's tables as data: consistent with each other and the text, and filled by the right runs."""

from dataclasses import replace

import pytest

from deeplabv3.errors import UserError
from deeplabv3.model.atrous import aspp_rates
from walkthrough.paper import tables
from walkthrough.profiles import Profile, load_profile
from walkthrough.records.cells import cell_job, cell_jobs, in_profile, table_jobs


def miou(number: int, **keys: str) -> float:
    return tables.load(number).cell(**keys).miou


def test_values_printed_twice_agree():
    assert miou(1, output_stride="16") == miou(2, network="ResNet-50", last_block="block7") == 73.88
    assert miou(2, network="ResNet-101", last_block="block7") == 75.76
    assert miou(3, multi_grid="(1,1,1)", last_block="block6") == miou(2, network="ResNet-101", last_block="block6")
    assert miou(3, multi_grid="(1,2,1)", last_block="block7") == miou(4, output_stride="16") == 76.66
    assert miou(6, output_stride="8") == miou(10, training_output_stride="16", output_stride="8") == 78.51
    best = [
        miou(5, image_pooling="yes"),
        miou(6, output_stride="16"),
        miou(8, crop="513", upsample_logits="yes", fine_tune_batch_norm="yes"),
        miou(9, batch="16"),
        miou(10, training_output_stride="16", output_stride="16"),
        miou(11, replicas="1"),
    ]
    assert best == 6 * [77.21]
    assert [len(tables.load(number).cells) for number in tables.NUMBERS] == [6, 8, 20, 4, 5, 5, 4, 4, 6, 9]
    assert {cell.source_quality for number in tables.NUMBERS for cell in tables.load(number).cells} == {*"ABC", ""}


def with_training(profile: Profile, **changes) -> Profile:
    return replace(profile, training=replace(profile.training, **changes))


def test_cells_of_one_network_share_run(profile):
    profile = with_training(profile, batch_size=8)
    first = cell_job(tables.load(1).cell(output_stride="16"), profile)
    second = cell_job(tables.load(2).cell(network="ResNet-50", last_block="block7"), profile)
    assert first == second
    best = [
        cell_job(cell, profile)
        for number in (5, 6, 8, 9, 10, 14)
        for cell in tables.load(number).cells
        if cell.miou == 77.21
    ]
    assert len(best) == 6 and len(set(best)) == 1
    runs = {run.name for number in tables.NUMBERS for run, _ in table_jobs(tables.load(number), profile)}
    # Both networks are one small ResNet in this profile, so Table 2 has four runs, of which one is Table 1's; all are
    # Table 3's first row. Tables 4 and 6 evaluate runs of Tables 3 and 5. The appendix adds three runs each by protocol
    # and batch, and two by output stride. Table 14 adds DeepLabv2 twice, its head, and ASPP without batch norm.
    assert len(runs) == 6 + 3 + 16 + 5 + 3 + 3 + 2 + 4


def test_table_8_changes_training_only(profile):
    runs = [cell_job(cell, profile)[0] for cell in tables.load(8).cells]
    assert {run.config for run in runs} == {profile.model_config()}
    rows = [(run.training.crop_size, run.training.upsample_logits, run.training.freeze_batch_norm) for run in runs]
    assert rows == [(33, True, False), (33, True, True), (33, False, False), (17, True, False)]
    same = {replace(run.training, crop_size=33, upsample_logits=True, freeze_batch_norm=False) for run in runs}
    assert same == {profile.training}


@pytest.mark.parametrize(
    ("crop_size", "batch_size", "crops", "batches"),
    [(513, 16, [513, 321], [4, 6, 8, 12, 16, 24]), (97, 8, [97, 65], [2, 3, 4, 6, 8, 12]),
     (257, 8, [257, 161], [2, 3, 4, 6, 8, 12]), (100, 3, [100, 65], [2, 2, 2, 2, 3, 4]), (17, 1, [17, 17], 5 * [2])],
)  # fmt: skip
def test_crops_and_batches_scale_with_profile(profile, crop_size, batch_size, crops, batches):
    profile = with_training(profile, crop_size=crop_size, batch_size=batch_size)
    training = [cell_job(cell, profile)[0].training for number in (8, 9, 10) for cell in tables.load(number).cells]
    assert list(dict.fromkeys(one.crop_size for one in training[:4])) == list(dict.fromkeys(crops))
    assert sorted({one.batch_size for one in training}) == sorted({*batches, batch_size})


def test_accumulated_batch_keeps_part_size(profile):
    profile = with_training(profile, batch_size=16, grad_accum_steps=4)
    training = [cell_job(cell, profile)[0].training for number in (9, 10) for cell in tables.load(number).cells]
    found = {(one.batch_size, one.grad_accum_steps) for one in training}
    assert found == {(4, 1), (6, 2), (8, 2), (12, 3), (16, 4), (24, 6)}


@pytest.mark.parametrize(("batch_size", "steps"), [(2, 1), (5, 1), (9, 3), (10, 2)])
def test_accumulated_parts_have_two_images(profile, batch_size, steps):
    """Batch norm behind image pooling fails on one: a batch of three in parts of at most two is not cut."""
    profile = with_training(profile, batch_size=batch_size, grad_accum_steps=steps)
    for number in (9, 10):
        for cell in tables.load(number).cells:
            training = cell_job(cell, profile)[0].training
            assert training.batch_size // training.grad_accum_steps >= 2


def test_table_10_evaluates_runs_at_two_output_strides(profile):
    cells = [(cell, *cell_job(cell, profile)) for cell in tables.load(10).cells]
    for cell, run, settings in cells:
        assert run.config == profile.model_config(output_stride=int(cell.keys["training_output_stride"]))
        assert settings == replace(profile.evaluation, output_stride=int(cell.keys["output_stride"]))
    assert [run for _, run, _ in cells[:3]] == [run for _, run, _ in cells[3:]]
    assert len(set(table_jobs(tables.load(10), profile))) == 6


def test_table_1_varies_output_stride_only(profile):
    configs = [cell_job(cell, profile)[0].config for cell in tables.load(1).cells]
    assert [config.output_stride for config in configs] == [8, 16, 32, 64, 128, 256]
    assert {(config.head, config.last_block, config.multi_grid) for config in configs} == {("cascade", 7, (1, 1, 1))}
    for cell in tables.load(1).cells:
        run, settings = cell_job(cell, profile)
        assert settings.output_stride == run.config.output_stride


def test_heads_without_batch_norm_learn_at_deeplab_v2s_rate(profile):
    found = {}
    for cell in tables.load(14).cells:
        run, _ = cell_job(cell, profile)
        norm = run.config.head in ("aspp", "cascade") and run.config.head_batch_norm
        found.setdefault(norm, set()).add(run.training.lr)
    assert found == {True: {profile.training.lr}, False: {round(profile.training.lr / 7, 6)}}
    assert in_profile(tables.load(14).cells[0].training, load_profile("voc"))["lr"] == 0.001


def test_table_14_is_deeplab_v2_as_published(profile):
    run, settings = cell_job(tables.load(14).cells[0], profile)
    config, training = run.config, run.training
    assert (config.head, config.output_stride, config.multi_grid, config.image_pooling) == ("v2", 8, (1, 1, 1), False)
    assert aspp_rates(config.atrous_rates, 8) == (2, 2, 4, 4)  # of this profile's 1, 2, 3, 4; halves are rounded
    assert (training.crop_size, training.upsample_logits, training.freeze_batch_norm) == (17, False, True)
    found = (settings.output_stride, settings.scales, settings.flip, settings.fusion)
    assert found == (8, (0.5, 0.75, 1.0), False, "max")
    voc = load_profile("voc").model_config(**tables.load(14).cells[0].variant)
    assert aspp_rates(voc.atrous_rates, 8) == (6, 12, 18, 24)


def test_table_14_changes_one_thing_a_row(profile):
    published, normalized, head, head_best, cascade, best, plain, frozen, bare = (
        cell_job(cell, profile) for cell in tables.load(14).cells
    )
    assert normalized[0].training == replace(published[0].training, freeze_batch_norm=False)
    assert (normalized[0].config, normalized[1]) == (published[0].config, published[1])
    assert head[0] == head_best[0] and head[0].training == replace(profile.training, lr=bare[0].training.lr)
    assert head[0].config == profile.model_config(
        head="v2", multi_grid=(1, 2, 4), atrous_rates=(6, 12, 18, 24), image_pooling=False
    )
    assert cascade == cell_job(tables.load(4).cells[3], profile)
    assert best == cell_job(tables.load(6).cells[3], profile) and head_best[1] == best[1]
    assert plain == cell_job(tables.load(6).cells[0], profile) and head[1] == plain[1]
    assert frozen == cell_job(tables.load(8).cell(fine_tune_batch_norm="no"), profile)
    assert bare[0].config == replace(plain[0].config, head_batch_norm=False) and bare[1] == plain[1]


def test_table_5_is_aspp_on_block4(profile):
    configs = [cell_job(cell, profile)[0].config for cell in tables.load(5).cells]
    assert {(config.head, config.last_block, config.output_stride) for config in configs} == {("aspp", 4, 16)}
    assert [config.multi_grid for config in configs] == [(1, 1, 1), (1, 2, 1)] + 3 * [(1, 2, 4)]
    assert [len(config.atrous_rates) for config in configs] == [3, 3, 3, 4, 3]
    assert [config.image_pooling for config in configs] == [False] * 4 + [True]


def test_table_3_is_grid_of_cascades(profile):
    configs = [cell_job(cell, profile)[0].config for cell in tables.load(3).cells]
    assert [config.last_block for config in configs] == 5 * [4, 5, 6, 7]
    assert [config.multi_grid for config in configs[::4]] == [(1, 1, 1), (1, 2, 1), (1, 2, 3), (1, 2, 4), (2, 2, 2)]
    assert {(config.head, config.output_stride) for config in configs} == {("cascade", 16)}


@pytest.mark.parametrize(("number", "table", "place"), [(4, 3, 7), (6, 5, 4)])
def test_inference_strategies_share_one_run(profile, number, table, place):
    strategies = [cell_job(cell, profile) for cell in tables.load(number).cells[:4]]
    assert {run for run, _ in strategies} == {cell_job(tables.load(table).cells[place], profile)[0]}
    found = [(settings.output_stride, len(settings.scales), settings.flip) for _, settings in strategies]
    assert found == [(16, 1, False), (8, 1, False), (8, 6, False), (8, 6, True)]
    assert {settings.padding for _, settings in strategies} == {profile.evaluation.padding}


def test_cell_without_variant_has_no_job(profile):
    assert not cell_jobs(tables.load(6).cell(coco="yes"), profile)
    for number in set(tables.ALL) - set(tables.NUMBERS):
        table = tables.load(number)
        assert table.cells and not table_jobs(table, profile)
        assert all(0 < cell.miou < 100 for cell in table.cells)
    assert tuple(range(1, 15)) == tables.ALL


def test_profile_without_extra_blocks_leaves_their_rows_out(profile):
    without = replace(profile, model=replace(profile.model, extra_blocks=False))
    for block in ("block4", "block5", "block7"):
        cell = tables.load(3).cell(last_block=block)
        assert len(cell_jobs(cell, profile)) == 1
        assert len(cell_jobs(cell, without)) == (block == "block4")
    assert not table_jobs(tables.load(4), without) and table_jobs(tables.load(6), without)


def test_every_seed_is_its_own_run(profile):
    jobs = cell_jobs(tables.load(1).cell(output_stride="8"), replace(profile, seed=2, seeds=3))
    assert [run.seed for run, _ in jobs] == [2, 3, 4]
    assert len({run.name for run, _ in jobs}) == 3
    assert {settings for _, settings in jobs} == {jobs[0][1]}


def test_unknown_table_or_cell_is_named():
    with pytest.raises(UserError, match="there is no table 15; choose one from 1 to 14"):
        tables.load(15)
    with pytest.raises(UserError, match="no cell with"):
        tables.load(1).cell(output_stride="12")
