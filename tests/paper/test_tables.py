"""The paper's tables as data: consistent with each other and with the text, and filled by the runs that they mean."""

import pytest

from deeplabv3.errors import UserError
from deeplabv3.paper import tables


def miou(number: int, **keys: str) -> float:
    return tables.load(number).cell(**keys).miou


def test_values_that_the_paper_prints_twice_agree():
    assert miou(1, output_stride="16") == miou(2, network="ResNet-50", last_block="block7") == 73.88
    assert miou(2, network="ResNet-101", last_block="block7") == 75.76
    assert miou(5, image_pooling="yes") == 77.21
    assert [len(tables.load(number).cells) for number in tables.NUMBERS] == [6, 8, 5]
    assert {cell.trust for number in tables.NUMBERS for cell in tables.load(number).cells} <= set("ABC")


def test_cells_of_one_network_share_a_run(profile):
    first = tables.load(1).cell(output_stride="16").job(profile)
    second = tables.load(2).cell(network="ResNet-50", last_block="block7").job(profile)
    assert first == second
    runs = {run.name for number in tables.NUMBERS for run, _ in tables.jobs(tables.load(number), profile)}
    # both networks are one small ResNet in this profile, so Table 2 has four runs, and one of them is Table 1's
    assert len(runs) == 6 + 3 + 5


def test_table_1_varies_the_output_stride_alone(profile):
    configs = [cell.job(profile)[0].config for cell in tables.load(1).cells]
    assert [config.output_stride for config in configs] == [8, 16, 32, 64, 128, 256]
    assert {(config.head, config.last_block, config.multi_grid) for config in configs} == {("cascade", 7, (1, 1, 1))}
    for cell in tables.load(1).cells:
        run, settings = cell.job(profile)
        assert settings.output_stride == run.config.output_stride


def test_table_5_is_aspp_on_block4_with_the_rows_settings(profile):
    configs = [cell.job(profile)[0].config for cell in tables.load(5).cells]
    assert {(config.head, config.last_block, config.output_stride) for config in configs} == {("aspp", 4, 16)}
    assert [config.multi_grid for config in configs] == [(1, 1, 1), (1, 2, 1)] + 3 * [(1, 2, 4)]
    assert [len(config.atrous_rates) for config in configs] == [3, 3, 3, 4, 3]
    assert [config.image_pooling for config in configs] == [False] * 4 + [True]


def test_what_is_not_there_is_named():
    with pytest.raises(UserError, match="table 7 is not among"):
        tables.load(7)
    with pytest.raises(UserError, match="no cell with"):
        tables.load(1).cell(output_stride="12")
