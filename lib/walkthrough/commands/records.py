"""``deeplabv3 records``: list, show, compare and prune the measured runs."""

import argparse
from typing import TYPE_CHECKING, Any

from walkthrough.commands.options import add_command, add_profile_command, profile_of

if TYPE_CHECKING:
    from walkthrough.profiles import Profile
    from walkthrough.records.catalogue import Evaluation, RunRecord

RUN_HELP = "a run's name, the hash at its end, or as much of either as no other run begins with"


def add(subparsers: Any) -> None:
    records = add_profile_command(
        subparsers, "records", long_main, "the measured runs; without more words, a list in full sentences"
    )
    parts = records.add_subparsers(metavar="list|show|diff|card|prune")
    listed = _part(parts, "list", list_main, "one line a run: what it is, what it took, and its mIoU")
    listed.add_argument("--stale", action="store_true", help="only those that are not used, with the reason")
    listed.add_argument(
        "--format", choices=("text", "csv"), default="text", help="csv: one line an evaluation, in full"
    )
    show = _part(parts, "show", show_main, "everything that is known of a run")
    show.add_argument("run", metavar="RUN", help=RUN_HELP)
    diff = _part(parts, "diff", diff_main, "in which settings two runs differ, and what of it came out")
    diff.add_argument("first", metavar="RUN", help=RUN_HELP)
    diff.add_argument("second", metavar="RUN")
    card = _part(parts, "card", card_main, "print a run's model card in Markdown")
    card.add_argument("run", metavar="RUN", help=RUN_HELP)
    prune = _part(parts, "prune", prune_main, "name records that are no longer used and what killed processes left")
    prune.add_argument("--yes", action="store_true", help="delete it, rather than name it")
    prune.add_argument("--runs", action="store_true", help="the networks of such runs, too")
    prune.add_argument(
        "--include-unfinished",
        action="store_true",
        help="with --runs: also unfinished runs, and those put aside by --no-resume",
    )


def _part(parts: Any, name: str, main: Any, text: str) -> argparse.ArgumentParser:
    part = add_command(parts, name, main, text)
    # Without a default of its own, what was given before the word stays: records --profile mobile list.
    part.add_argument("--profile", default=argparse.SUPPRESS, help="as for all commands")
    part.add_argument("--set", action="append", default=argparse.SUPPRESS, metavar="SETTING=VALUE")
    return part


def card_main(options: argparse.Namespace) -> int:
    from walkthrough.report.model_card import model_card

    print(model_card(profile_of(options), options.run), end="")
    return 0


def long_main(options: argparse.Namespace) -> int:
    from walkthrough.records.catalogue import run_records
    from walkthrough.records.compare import sentence

    profile = profile_of(options)
    records = run_records(profile.name)
    for record in records:
        if record.path and not record.problem:
            values = record.values
            print(f"{record.name}  seed {values['settings']['seed']}  {values['seconds']:.0f} s  {values['device']}")
        else:
            print(f"{record.name}  {record.problem or _origin(record) or 'no training record'}")
        for evaluation in [] if record.problem else record.evaluations:
            if evaluation.problem:
                print(f"    {evaluation.path.name}: {evaluation.problem}")
                continue
            values = evaluation.values
            print(f"    {sentence(evaluation.settings)}: mIoU {values['miou']:.2f} on {values['images']} images")
    _say_if_none(records, profile)
    return 0


def list_main(options: argparse.Namespace) -> int:
    from deeplabv3.errors import UserError
    from walkthrough.records.catalogue import run_records
    from walkthrough.records.rows import as_csv

    profile = profile_of(options)
    if options.format == "csv":
        if options.stale:
            raise UserError(
                "--stale lists records with their problems, which --format csv leaves out; give one of them."
            )
        print(as_csv(profile), end="")
        return 0
    records = run_records(profile.name)
    invalid = [record for record in records if record.has_problem]
    shown = invalid if options.stale else records
    if shown:
        header = ["id", "run", "seed", "steps", "time", "device", "mIoU"]
        _print_columns([header, *(_line(record, profile) for record in shown)], right=(2, 3, 4))
    if options.stale:
        for record in invalid:
            parts: list[RunRecord | Evaluation] = [record, *record.evaluations]
            for part in parts:
                if part.problem:
                    print(f"{part.path}\n    {part.problem}")
        if not invalid:
            print(f"profile {profile.name!r} has no record that is stale or damaged.")
    elif invalid:
        print(
            f"{len(invalid)} of {len(records)} runs have records that are stale or damaged, and not used: "
            "'deeplabv3 records list --stale' says why, 'deeplabv3 records prune' deletes them."
        )
    _say_if_none(records, profile)
    return 0


def _line(record: "RunRecord", profile: "Profile") -> list[str]:
    from walkthrough.records.compare import by_label, duration

    what, _, identifier = record.name.rpartition("-")
    settings, values = record.values.get("settings"), record.values
    if not isinstance(settings, dict):
        settings = {}
    seed, training = settings.get("seed", ""), settings.get("training")
    steps = training.get("iterations", "") if isinstance(training, dict) else ""
    seconds = values.get("seconds")
    time = duration(seconds) if isinstance(seconds, int | float) else ""
    figures = [f"{name}: {one.values['miou']:.2f}" for name, one in by_label(record.usable, profile)]
    if record.problem:
        figures = [_kind(record.problem)]
    else:
        figures += [f"{one.path.stem} {_kind(one.problem)}" for one in record.evaluations if one.problem]
    device = _origin(record) or values.get("device", "")
    return [identifier, what, str(seed), str(steps), time, str(device), "   ".join(figures)]


def _origin(record: "RunRecord") -> str:
    """File and weights of a network from elsewhere, which no run has trained; empty for others."""
    return next((one.values["network"] for one in record.evaluations if "network" in one.values), "")


def _kind(problem: str) -> str:
    """``stale`` or ``damaged``."""
    return problem.partition(":")[0]


def show_main(options: argparse.Namespace) -> int:
    from walkthrough.profiles import load_profile, profile_names
    from walkthrough.records.catalogue import find, profile_with
    from walkthrough.records.compare import by_label, default_of, environment_of, settings_of

    profile = profile_of(options)
    owner = profile_with(options.run, profile.name) if options.profile is None else profile.name
    if owner != profile.name and owner in profile_names():
        profile = load_profile(owner)
    record = find(owner, options.run)
    print(f"run {record.name}")
    print(f"record {(record.path or record.evaluations[0].path).parent}")
    if origin := _origin(record):
        print(f"network {origin}")
    if record.problem:
        print(f"{record.problem} It is not used.")
    rows = [[name, _text(value), value == default_of(name)] for name, value in settings_of(record).items()]
    changed, rest = ([row[:2] for row in rows if row[2] == at_default] for at_default in (False, True))
    _print_section("settings that differ from their defaults, or have none", changed)
    _print_section("settings at their defaults", rest)
    _print_section("training", [[name, _text(value)] for name, value in environment_of(record).items()])
    for evaluation in record.evaluations:
        if evaluation.problem:
            print(f"\n{evaluation.path.name}: {evaluation.problem} It is not used.")
    if labeled := by_label(record.usable, profile):
        print("\nevaluations")
        for name, one in labeled:
            print(f"  {name}: {_circumstances(one)}")
        print()
        labels, usable = zip(*labeled, strict=True)
        _print_columns([["IoU", *labels], *_by_class(usable)], right=range(1, 1 + len(usable)))
    return 0


def _circumstances(evaluation: "Evaluation") -> str:
    from walkthrough.records.compare import duration, sentence

    values = evaluation.values
    words = [sentence(evaluation.settings), f"{values['images']} images of {values['list']}"]
    words += [duration(values["seconds"])] if "seconds" in values else []
    words += [f"{values['images_per_second']:.2f} images/s"] if "images_per_second" in values else []
    words += [f"{values['peak_memory_mib']} MiB"] if values.get("peak_memory_mib") else []
    return ", ".join([*words, values.get("device", "device unknown")])


def diff_main(options: argparse.Namespace) -> int:
    from walkthrough.records.catalogue import find
    from walkthrough.records.compare import comparable, differences, environment_of, label, settings_of

    profile = profile_of(options)
    pair = [find(profile.name, named) for named in (options.first, options.second)]
    print("\n".join(f"{sign} {record.name}{_remark(record)}" for sign, record in zip("AB", pair, strict=True)))
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


def _remark(record: "RunRecord") -> str:
    return f"   {record.problem}" if record.problem else ""


def _by_class(evaluations: Any) -> list[list[str]]:
    """A line for each class and one for the mean, with the IoU of every evaluation."""
    names = dict.fromkeys(name for one in evaluations for name in one.values["class_iou"])
    rows = [[name, *(_percent(one.values["class_iou"].get(name)) for one in evaluations)] for name in names]
    return [*rows, ["mIoU", *(_percent(one.values["miou"]) for one in evaluations)]]


def prune_main(options: argparse.Namespace) -> int:
    from deeplabv3.errors import UserError
    from walkthrough.records import prune

    if options.include_unfinished and not options.runs:
        raise UserError("--include-unfinished says which networks go as well; give it with --runs.")
    profile = profile_of(options)
    chosen = prune.plan(profile.name, options.runs, options.include_unfinished)
    size, verb = chosen.size() / 1e6, "deleted" if options.yes else "delete"
    if options.yes:
        prune.delete(chosen)
    for what, paths in ((verb, chosen.delete), ("keep", chosen.keep)):
        for path, reason in paths.items():
            print(f"{what} {path}\n    {reason}")
    if not chosen.delete:
        print(f"nothing of profile {profile.name!r} to delete.")
    elif options.yes:
        print(f"{len(chosen.delete)} deleted, {size:.1f} MB.")
    else:
        print(f"{len(chosen.delete)} to delete, {size:.1f} MB: nothing is deleted yet; add --yes.")
    return 0


def _say_if_none(records: list, profile: "Profile") -> None:
    if not records:
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
