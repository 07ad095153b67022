"""``deeplabv3 info``: what a report of a problem needs, in one paste."""

import torch

from walkthrough.cli import main


def test_info_names_versions_profile_and_workspace(profile_file, voc_root, workspace, capsys):
    assert main(["info", "--profile", str(profile_file)]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert f"torch {torch.__version__.split('+')[0]}" in lines["machine"] and "commit " in lines["machine"]
    assert lines["profile"].strip() == "tiny-tests: Three steps of a small network"
    assert lines["workspace"].strip() == f"{workspace} (does not exist)"
    assert lines["data"].strip() == str(voc_root)
    assert f"DEEPLABV3_WORKSPACE={workspace}" in lines["variables"]


def test_info_draws_no_images(workspace, capsys):
    assert main(["info", "--profile", "smoke"]) == 0
    assert "drawn" in capsys.readouterr().out and not workspace.exists()
