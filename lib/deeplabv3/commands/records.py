"""``deeplabv3 records``: the measured runs."""

import argparse
from typing import Any

from deeplabv3.commands.common import profile_of, profile_verb


def add(verbs: Any) -> None:
    profile_verb(verbs, "records", main, "list the measured runs")


def main(options: argparse.Namespace) -> int:
    from deeplabv3.paper.records import all_records

    profile = profile_of(options)
    found = all_records(profile.name)
    for training, evaluations in found:
        print(
            f"{training['run']}  seed {training['settings']['seed']}  {training['seconds']:.0f} s  {training['device']}"
        )
        for record in evaluations:
            settings = record["settings"]
            print(
                f"    {settings['padding']} padding, output stride {settings['output_stride']}, "
                f"scales {', '.join(map(str, settings['scales']))}{', flip' if settings['flip'] else ''}"
                f"{', bf16' if settings.get('bf16') else ''}: mIoU {record['miou']:.2f} "
                f"on {record['pictures']} pictures"
            )
    if not found:
        print(f"profile {profile.name!r} has no records yet.")
    return 0
