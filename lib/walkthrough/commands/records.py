"""``deeplabv3 records``: the measured runs, listed, shown, compared and tidied up."""

import argparse
from typing import TYPE_CHECKING, Any

from walkthrough.commands.options import profile_of, profile_verb

if TYPE_CHECKING:
    from walkthrough.profiles import Profile
    from walkthrough.records.catalogue import Evaluation, RunRecord

RUN_HELP = "a run's name, the hash at its end, or as much of either as no other run begins with"


def add(verbs: Any) -> None:
    records = profile_verb(
        verbs, "records", long_main, "the measured runs; without more words, a list in full sentences"
    )
    parts = records.add_subparsers(metavar="list|show|diff|prune")
    listed = _part(parts, "list", list_main, "one line a run: what it is, what it took, and its mIoU")
    listed.add_argument("--stale", action="store_true", help="only those that are not used, with the reason")
    show = _part(parts, "show", show_main, "everything that is known of a run")
    show.add_argument("run", metavar="RUN", help=RUN_HELP)
    diff = _part(parts, "diff", diff_main, "in which settings two runs differ, and what of it came out")
    diff.add_argument("first", metavar="RUN", help=RUN_HELP)
    diff.add_argument("second", metavar="RUN")
    prune = _part(parts, "prune", prune_main, "name records that are no longer used and what killed processes left")
    prune.add_argument("--yes", action="store_true", help="delete it, rather than name it")
    prune.add_argument("--runs", action="store_true", help="the networks of such runs, too")
    prune.add_argument(
        "--unfinished",
        action="store_true",
        help="with --runs: also runs on the way, and those put aside by --no-resume",
    )


def _part(parts: Any, name: str, main: Any, text: str) -> argparse.ArgumentParser:
    part = parts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    part.set_defaults(verb=main)
    # Without a default of its own, what was given before the word stays: records --profile mobile list.
    part.add_argument("--profile", default=argparse.SUPPRESS, help="as for all verbs")
    part.add_argument("--set", action="append", default=argparse.SUPPRESS, metavar="SETTING=VALUE")
    return part


def long_main(options: argparse.Namespace) -> int:
    from walkthrough.records.catalogue import entries
    from walkthrough.records.compare import sentence

    profile = profile_of(options)
    found = entries(profile.name)
    for entry in found:
        if entry.path and not entry.flaw:
            values = entry.values
            print(f"{entry.name}  seed {values['settings']['seed']}  {values['seconds']:.0f} s  {values['device']}")
        else:
            print(f"{entry.name}  {entry.flaw or 'no training record'}")
        for evaluation in [] if entry.flaw else entry.evaluations:
            if evaluation.flaw:
                print(f"    {evaluation.path.name}: {evaluation.flaw}")
                continue
            values = evaluation.values
            print(f"    {sentence(evaluation.settings)}: mIoU {values['miou']:.2f} on {values['images']} images")
    _say_if_none(found, profile)
    return 0


def list_main(options: argparse.Namespace) -> int:
    from walkthrough.records.catalogue import entries

    profile = profile_of(options)
    found = entries(profile.name)
    flawed = [entry for entry in found if entry.flawed]
    shown = flawed if options.stale else found
    if shown:
        header = ["id", "run", "seed", "steps", "time", "device", "mIoU"]
        _print_columns([header, *(_line(entry, profile) for entry in shown)], right=(2, 3, 4))
    if options.stale:
        for entry in flawed:
            for path, flaw in [(entry.path, entry.flaw), *((one.path, one.flaw) for one in entry.evaluations)]:
                if flaw:
                    print(f"{path}\n    {flaw}")
        if not flawed:
            print(f"profile {profile.name!r} has no record that is stale or damaged.")
    elif flawed:
        print(
            f"{len(flawed)} of {len(found)} runs have records that are stale or damaged, and not used: "
            "'deeplabv3 records list --stale' says why, 'deeplabv3 records prune' deletes them."
        )
    _say_if_none(found, profile)
    return 0


def _line(entry: "RunRecord", profile: "Profile") -> list[str]:
    from walkthrough.records.compare import by_label

    what, _, identifier = entry.name.rpartition("-")
    settings, values = entry.values.get("settings"), entry.values
    if not isinstance(settings, dict):
        settings = {}
    seed, training = settings.get("seed", ""), settings.get("training")
    steps = training.get("iterations", "") if isinstance(training, dict) else ""
    seconds = values.get("seconds")
    time = _duration(seconds) if isinstance(seconds, int | float) else ""
    figures = [f"{name}: {one.values['miou']:.2f}" for name, one in by_label(entry.usable, profile)]
    if entry.flaw:
        figures = [_kind(entry.flaw)]
    else:
        figures += [f"{one.path.stem} {_kind(one.flaw)}" for one in entry.evaluations if one.flaw]
    return [identifier, what, str(seed), str(steps), time, str(values.get("device", "")), "   ".join(figures)]


def _kind(flaw: str) -> str:
    """``stale`` or ``damaged``."""
    return flaw.partition(":")[0]


def show_main(options: argparse.Namespace) -> int:
    from walkthrough.records.catalogue import find
    from walkthrough.records.compare import by_label, default_of, environment_of, settings_of

    profile = profile_of(options)
    entry = find(profile.name, options.run)
    print(f"run {entry.name}")
    print(f"record {(entry.path or entry.evaluations[0].path).parent}")
    if entry.flaw:
        print(f"{entry.flaw} It is not used.")
    settings = settings_of(entry)
    own = {name: value for name, value in settings.items() if value != default_of(name)}
    _print_section("settings that differ from their defaults, or have none", [[n, _text(v)] for n, v in own.items()])
    rest = [[name, _text(value)] for name, value in settings.items() if name not in own]
    _print_section("settings at their defaults", rest)
    _print_section("training", [[name, _text(value)] for name, value in environment_of(entry).items()])
    for evaluation in entry.evaluations:
        if evaluation.flaw:
            print(f"\n{evaluation.path.name}: {evaluation.flaw} It is not used.")
    if labeled := by_label(entry.usable, profile):
        print("\nevaluations")
        for name, one in labeled:
            print(f"  {name}: {_circumstances(one)}")
        print()
        labels, usable = zip(*labeled, strict=True)
        _print_columns([["IoU", *labels], *_by_class(usable)], right=range(1, 1 + len(usable)))
    return 0


def _circumstances(evaluation: "Evaluation") -> str:
    from walkthrough.records.compare import sentence

    values = evaluation.values
    words = [sentence(evaluation.settings), f"{values['images']} images of {values['list']}"]
    words += [_duration(values["seconds"])] if "seconds" in values else []
    words += [f"{values['images_per_second']:.2f} images/s"] if "images_per_second" in values else []
    words += [f"{values['peak_memory_mib']} MiB"] if values.get("peak_memory_mib") else []
    return ", ".join([*words, values.get("device", "device unknown")])


def diff_main(options: argparse.Namespace) -> int:
    from walkthrough.records.catalogue import find
    from walkthrough.records.compare import comparable, differences, environment_of, label, settings_of

    profile = profile_of(options)
    pair = [find(profile.name, named) for named in (options.first, options.second)]
    print("\n".join(f"{sign} {entry.name}{_remark(entry)}" for sign, entry in zip("AB", pair, strict=True)))
    for title, values_of in (("settings", settings_of), ("environment", environment_of)):
        rows = [[name, _text(a), _text(b)] for name, a, b in differences(*map(values_of, pair))]
        _print_section(title, [["", "A", "B"], *rows] if rows else [["the same"]])
    shared = comparable(*pair)
    for both in shared:
        print(f"\n{label(both[0], profile)}, {both[0].values['images']} images")
        rows = []
        for name, a, b in _by_class(both):
            rows.append([name, a, b, f"{float(b) - float(a):+.2f}" if "-" not in (a, b) else ""])
        _print_columns([["IoU", "A", "B", "B - A"], *rows], right=(1, 2, 3))
    if not shared:
        print("\nno strategy that both were evaluated with on the same images")
    return 0


def _remark(entry: "RunRecord") -> str:
    return f"   {entry.flaw}" if entry.flaw else ""


def _by_class(evaluations: Any) -> list[list[str]]:
    """A line for each class and one for the mean, with the IoU of every evaluation."""
    names = dict.fromkeys(name for one in evaluations for name in one.values["class_iou"])
    rows = [[name, *(_percent(one.values["class_iou"].get(name)) for one in evaluations)] for name in names]
    return [*rows, ["mIoU", *(_percent(one.values["miou"]) for one in evaluations)]]


def prune_main(options: argparse.Namespace) -> int:
    from deeplabv3.errors import UserError
    from walkthrough.records import prune

    if options.unfinished and not options.runs:
        raise UserError("--unfinished says which networks go as well; give it with --runs.")
    profile = profile_of(options)
    chosen = prune.plan(profile.name, options.runs, options.unfinished)
    size, verb = chosen.size() / 1e6, "deleted" if options.yes else "delete"
    if options.yes:
        prune.delete(chosen)
    for what, paths in ((verb, chosen.deleted), ("keep", chosen.kept)):
        for path, reason in paths.items():
            print(f"{what} {path}\n    {reason}")
    if not chosen.deleted:
        print(f"nothing of profile {profile.name!r} to delete.")
    elif options.yes:
        print(f"{len(chosen.deleted)} deleted, {size:.1f} MB.")
    else:
        print(f"{len(chosen.deleted)} to delete, {size:.1f} MB: nothing is deleted yet; add --yes.")
    return 0


def _say_if_none(found: list, profile: "Profile") -> None:
    if not found:
        print(f"profile {profile.name!r} has no records yet.")


def _print_section(title: str, rows: list[list[str]]) -> None:
    if rows:
        print(f"\n{title}")
        _print_columns([[f"  {row[0]}", *row[1:]] for row in rows])


def _print_columns(rows: list[list[str]], right: Any = ()) -> None:
    """Rows of texts with their columns aligned, those numbered in ``right`` to the right."""
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
    for row in rows:
        cells = zip(row, widths, strict=False)
        texts = [
            text.rjust(width) if column in right else text.ljust(width) for column, (text, width) in enumerate(cells)
        ]
        print("  ".join(texts).rstrip())


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(map(str, value)) + ")"
    return "-" if value is None else str(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
