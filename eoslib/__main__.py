"""The command line, `python -m eoslib` (also installed as `eoslib`).

Exit status 0 only if what was asked for was done, 1 if not, 2 for wrong usage.
"""

import dataclasses
import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from eoslib import store
from eoslib.chapter import audit as audits
from eoslib.chapter import claims as ledger
from eoslib.chapter import compare, costs, execution, experiments, presets, selftest
from eoslib.chapter import sweep as sweeps
from eoslib.problems import datasets, ranks

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Rerun, compute, inspect: papers on gradient descent with large step sizes.",
)  # fmt: skip

Chapter = Annotated[str, typer.Argument(help="A chapter: the name of a file in notebooks/, without .py.")]
Preset = Annotated[str, typer.Option("--preset", help="quick, standard or paper.")]
Assignments = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A parameter; 2/60 is a number.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


class WithParameters(typer.core.TyperCommand):
    """A command whose help, once a chapter is given, lists the chapter's parameters at the preset given."""

    def parse_args(self, ctx, args):
        self.given, *_ = self.make_parser(ctx).parse_args(list(args))  # help is shown before anything else is read
        return super().parse_args(ctx, args)

    def format_help(self, ctx, formatter) -> None:
        super().format_help(ctx, formatter)
        chapter, preset = (self.given.get(name) for name in ("chapter", "preset"))
        if not isinstance(chapter, str):
            return
        preset = preset if isinstance(preset, str) else "quick"
        meaning = ""
        print(f"Parameters of {chapter}, with their values at {preset}:\n")
        for row in presets.described(presets.chapter_path(chapter), preset):
            if row["meaning"] != meaning:
                meaning = row["meaning"]
                print(textwrap.fill(meaning, 100, initial_indent="# ", subsequent_indent="# "))
            print(f"  {row['name']}: {row['type']} = {row['value']}")


@app.command(
    cls=WithParameters,
    epilog="Example: python -m eoslib run unstable_convergence -p n=300 -p 'hidden=[64, 64]' -o mine.ipynb",
)
def run(
    chapter: Annotated[str, typer.Argument(help="A chapter; with --help, its parameters are listed.")],
    preset: Preset = "quick",
    p: Assignments = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to write the executed notebook.")] = None,
) -> None:
    """Rerun one chapter with new parameters; writes the executed notebook, and its claims as JSON beside it. Says what
    was changed against the preset and which verdicts changed with it. Status 1 if a claim's control does not fail its
    criterion."""
    path = presets.chapter_path(chapter)
    out = out or Path(f"{chapter}.ipynb")
    notebook = execution.execute(path, out, preset, _assignments(p), progress=sys.stderr.isatty())
    verdicts = ledger.in_notebook(notebook)
    out.with_suffix(".claims.json").write_text(json.dumps(verdicts, indent=1, ensure_ascii=False))
    for verdict in verdicts:
        print(f"{verdict['verdict']:<24} {verdict['id']}: {verdict['value']}")
    difference = compare.with_preset(notebook)
    if difference.parameters:
        import nbformat

        print(difference.text())
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f"**Rerun**\n{difference.markdown()}"))
        store.write_atomically(out, nbformat.writes(notebook).encode())
    print(f"wrote {out} and {out.with_suffix('.claims.json')}")
    if failures := ledger.control_failures(verdicts):
        print(*failures, sep="\n", file=sys.stderr)
        raise typer.Exit(1)


@app.command(epilog="Example: python -m eoslib compute unstable_convergence --preset paper --only exp3 --budget 30")
def compute(
    chapter: Chapter,
    preset: Preset = "quick",
    p: Assignments = None,
    only: Annotated[str | None, typer.Option(help="One experiment, e.g. exp3.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Minutes until it stops; resumes next time.")] = None,
    device: Device = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore what is stored and compute anew.")] = False,
    mix: Annotated[bool, typer.Option("--mix", help="Go on with another machine's run; the page says so.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Copy finished runs to recorded/.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Only show status and estimated cost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do the long runs of a chapter without a notebook; on several GPUs as torchrun --nproc-per-node 8 -m eoslib …"""
    if device:
        os.environ["EOSLIB_DEVICE"] = device
    wanted = _experiments(chapter, preset, p, only)
    if list_:
        _print([_plan(e) for e in wanted], as_json)
        return
    deadline = None if budget is None else time.monotonic() + 60 * budget
    done = 0
    with ranks.joined(store.default_device(), [e.identity.key for e in wanted]):
        if ranks.rank() > 0:
            experiments.follow(wanted)
            return
        for experiment in wanted:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # with the budget spent, --fresh would only forget what is stored
            finished = None if fresh and left == 0 else experiments.carry_on(experiment, left, fresh, mix=mix)
            done += finished is not None
            if record and finished and not finished.recorded:
                print(f"recorded {store.record(finished)}")
    print(f"{done} of {len(wanted)} run(s) of {chapter} at {preset} are finished")
    if done < len(wanted):
        print(f"the budget ended; the same command{' without --fresh' if fresh else ''} resumes", file=sys.stderr)
        raise typer.Exit(1)


@app.command(
    epilog="Example: python -m eoslib sweep unstable_convergence --only exp3 -g width=16,32 -g seeds=[0],[1] -o out"
)
def sweep(
    chapter: Chapter,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder of the results; the same one resumes.")],
    preset: Preset = "quick",
    p: Assignments = None,
    g: Annotated[
        list[str] | None,
        typer.Option("-g", "--grid", metavar="NAME=VALUES", help="a,b,c, or low:high:count, with @log geometrically."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Cases from a CSV or YAML file, each with every point.")] = None,
    only: Annotated[str | None, typer.Option(help="Compute the runs of one experiment, e.g. exp3.")] = None,
    cluster: Annotated[str, typer.Option(help="local, or the address tcp://… of a Dask scheduler.")] = "local",
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only every N-th case, from the I-th on.")] = "1/1",
    print_job: Annotated[int | None, typer.Option(metavar="N", help="Only print a SLURM script of N shards.")] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="Y:X:HUE", help="Draw an observable or claim, by parameter.")
    ] = None,
) -> None:
    """A chapter over a grid of parameters, on all cores; collects claims and observables in OUT/results.csv. Status 1
    if a case failed."""
    fixed, path = _assignments(p), presets.chapter_path(chapter)
    rows = sweeps.table(file) if file else [{}]
    given = [fixed | row | point for row in rows for point in sweeps.grid(g or [])]
    wanted = sweeps.cases(path, preset, given, only)
    mine = sweeps.of_shard(wanted, shard)
    if print_job:
        at = sys.argv.index("--print-job")
        print(sweeps.job([*sys.argv[2:at], *sys.argv[at + 2 :]], print_job), end="")
        return
    failed = sweeps.sweep(wanted, out, cluster, shard)
    for key, failure in failed.items():
        case = next(case for case in wanted if case.key == key)
        print(f"case {key} failed: {case.given}\n{failure}", file=sys.stderr)
    print(f"{len(mine) - len(failed)} of {len(mine)} case(s) finished; wrote {out / 'results.csv'}")
    if plot:
        print(f"wrote {sweeps.plot(out, plot)}")
    if failed:
        raise typer.Exit(1)


@app.command("compare", epilog="Example: python -m eoslib compare before.ipynb after.ipynb --html difference.html")
def compare_command(
    a: Annotated[str, typer.Argument(help="A run (key or path), an executed notebook, or a folder of them.")],
    b: Annotated[str, typer.Argument(help="Another of the same kind.")],
    html: Annotated[Path | None, typer.Option(help="Also write a page, with figures side by side.")] = None,
    as_json: AsJson = False,
) -> None:
    """What differs between two runs, executed notebooks or builds: parameters, verdicts, values, figures; and where two
    trajectories part."""
    found = compare.compare(a, b)
    if html:
        store.write_atomically(html, found.html().encode())
    if as_json:
        parted = [dataclasses.asdict(parting) for parting in found.parted]
        shown = {"identical": found.identical, **found.sections(), "parted": parted}
        print(json.dumps(shown | {"figures": [name for name, _, _ in found.pictures]}, indent=1, ensure_ascii=False))
    else:
        print(found.text())


@app.command(epilog="Example: python -m eoslib claims unstable_convergence --accept .executed/quick")
def claims(
    chapter: Annotated[str | None, typer.Argument(help="A chapter, or a page with claims; default all.")] = None,
    accept: Annotated[Path | None, typer.Option(help="Acknowledge an executed notebook, or a folder of them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the ledger with the verdicts last acknowledged, or acknowledge new ones."""
    if chapter in ledger.of_pages():
        chosen = [chapter]
    else:
        chosen = [presets.chapter_path(chapter).stem] if chapter else [*presets.chapters(), *ledger.of_pages()]
    if accept:
        import nbformat

        for name in chosen:
            path = accept if accept.suffix == ".ipynb" else accept / f"{name}.ipynb"
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist: build the book, or run the chapter, first")
            notebook = nbformat.read(path, as_version=4)
            preset = notebook.metadata["eoslib"]["preset"]
            print(f"acknowledged in {ledger.acknowledge(ledger.in_notebook(notebook), name, preset)} ({preset})")
        return
    rows = []
    for name in chosen:
        known = ledger.acknowledged(name)
        for id_ in ledger.read(ledger.ledger_path(name)):
            for preset in ledger.PRESETS:
                entry = {"verdict": ledger.NOT_RUN, "value": None} | known.get(preset, {}).get(id_, {})
                rows.append({"id": id_, "preset": preset, "verdict": entry["verdict"], "value": entry["value"]})
    _print(rows, as_json)


@app.command("runs", epilog="Example: python -m eoslib runs --json")
def runs_command(
    as_json: AsJson = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its checksum.")] = False,
) -> None:
    """List the stored and recorded runs, or verify them."""
    if not verify:
        _print(store.listing(), as_json)
    elif problems := store.verify():
        raise store.Damaged("\n".join(problems))
    else:
        print("every stored file matches its checksum")


@app.command(epilog="Example: python -m eoslib audit --steps 20")
def audit(
    chapter: Annotated[str | None, typer.Argument(help="Only this chapter's runs.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps to recompute.")] = 20,
) -> None:
    """Recompute the first steps of the recorded runs and compare: bit for bit on the machine that made them, else
    to a relative 1e-3."""
    recorded = store.recorded_runs(chapter)
    bad = 0
    for run_ in recorded:
        fingerprint, built = run_.identity["fingerprint"], experiments.built(run_.identity)
        if absent := [e.identity.key for e in built.builds_on if store.status(e.identity) != "finished"]:
            problems = [f": it builds on θ kept by {', '.join(absent)}, which recorded/ does not hold"]
            verdict = "skipped"
        elif built.fingerprint == fingerprint:
            problems = [f"\n    {difference}" for difference in audits.audit(run_, steps)[:5]]
            verdict = "differs" if problems else "agrees"
        else:
            problems = [f": its data (fingerprint {fingerprint[:12]}…) is not here"]
            verdict = "skipped"
        bad += bool(problems)
        print(f"{verdict:<9} {run_.identity['experiment']}-{run_.key}{''.join(problems)}")
    print(f"{len(recorded) - bad} of {len(recorded)} recorded run(s) agree over {steps} steps")
    if bad:
        raise typer.Exit(1)


@app.command(epilog="Example: python -m eoslib data --download cifar10")
def data(
    download: Annotated[str | None, typer.Option(metavar="NAME", help="Fetch a data set against its md5.")] = None,
    as_json: AsJson = False,
) -> None:
    """Where each data set is, its fingerprint, source, licence and how to get it."""
    if download:
        print(datasets.download(download))
    elif as_json:
        _print(datasets.describe(), as_json)
    else:
        for entry in datasets.describe():
            print(f"{entry['name']}: {entry['description']}")
            for field in ("found", "looked_in", "fingerprint", "source", "licence", "how_to_get", "warning"):
                if entry[field] not in (None, []):
                    value = ", ".join(entry[field]) if isinstance(entry[field], list) else entry[field]
                    print(f"    {field.replace('_', ' '):<12} {value}")


@app.command("selftest", epilog="Example: python -m eoslib selftest --device cuda")
def selftest_command(device: Device = None, as_json: AsJson = False) -> None:
    """Is this machine fit: its device, and a few steps of each kind of experiment on it, against the CPU."""
    if device:
        os.environ["EOSLIB_DEVICE"] = device
    done = []
    for check in selftest.run(store.default_device()):
        done.append(check)
        if not as_json:
            word = "ok" if check["ok"] else "FAILED"
            print(f"{word:<6} {check['seconds']:6.1f} s  {check['check']}: {check['seen']}")
    if as_json:
        _print(done, as_json)
    if not all(check["ok"] for check in done):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; expected errors are one message, not a traceback, and Ctrl-C is status 130."""
    try:
        app()
    except (RuntimeError, FileNotFoundError, presets.ParameterError, ledger.ClaimError, datasets.DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, presets.ParameterError) else 1)


def _assignments(given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise presets.ParameterError(f"-p {text!r}: expected name=value")
        pairs[name.strip()] = value
    return pairs


def _experiments(chapter: str, preset: str, given: list[str] | None, only: str | None) -> list[experiments.Experiment]:
    """The experiments of a chapter at a preset, each once."""
    path = presets.chapter_path(chapter)
    declared = presets.declared_experiments(path, presets.parameters(path, preset, _assignments(given)))
    if only is not None and only not in declared:
        raise presets.ParameterError(f"{chapter} has no experiment {only!r}; there are {', '.join(declared)}")
    chosen = [e for name, listed in declared.items() if only in (None, name) for e in listed]
    return list({e.identity.key: e for e in chosen}.values())


def _plan(experiment: experiments.Experiment) -> dict[str, Any]:
    seconds, memory = costs.cost(experiment)
    return {
        "experiment": experiment.experiment, "key": experiment.identity.key, "step_size": f"{experiment.step_size:.5g}",
        "status": store.status(experiment.identity), "at_most_minutes": round(seconds / 60, 2),
        "memory_mb": round(memory / 1e6), "device": str(store.default_device()),
    }  # fmt: skip


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    """As JSON, or as a table."""
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)] if rows else [["none"]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


if __name__ == "__main__":
    main()
