"""The command line, `python -m eoslib` (also installed as `eoslib`).

Exit status 0 only if what was asked for was done, 1 if not, 2 for wrong usage.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from eoslib import store
from eoslib.chapter import audit as audits
from eoslib.chapter import claims as ledger
from eoslib.chapter import costs, execution, experiments, presets, selftest
from eoslib.problems import datasets

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Rerun, compute, inspect: papers on gradient descent with large step sizes.",
)

Chapter = Annotated[str, typer.Argument(help="A chapter: the name of a file in notebooks/, without .py.")]
Preset = Annotated[str, typer.Option("--preset", help="quick, standard or paper.")]
Assignments = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A parameter; 2/60 is a number.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


@app.command(epilog="Example: python -m eoslib run unstable_convergence -p n=300 -p 'hidden=[64, 64]' -o mine.ipynb")
def run(
    chapter: Chapter,
    preset: Preset = "quick",
    p: Assignments = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to write the executed notebook.")] = None,
) -> None:
    """Rerun one chapter with new parameters; writes the executed notebook, and its claims as JSON beside it."""
    path = presets.chapter_path(chapter)
    out = out or Path(f"{chapter}.ipynb")
    notebook = execution.execute(path, out, preset, _assignments(p), progress=sys.stderr.isatty())
    verdicts = ledger.in_notebook(notebook)
    out.with_suffix(".claims.json").write_text(json.dumps(verdicts, indent=1, ensure_ascii=False))
    for verdict in verdicts:
        print(f"{verdict['verdict']:<24} {verdict['id']}: {verdict['value']}")
    print(f"wrote {out} and {out.with_suffix('.claims.json')}")


@app.command(epilog="Example: python -m eoslib compute unstable_convergence --preset paper --only exp3 --budget 30")
def compute(
    chapter: Chapter,
    preset: Preset = "quick",
    p: Assignments = None,
    only: Annotated[str | None, typer.Option(help="One experiment, e.g. exp3.")] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Stop cleanly after so many minutes; resumes next time.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore what is stored and compute anew.")] = False,
    mix: Annotated[
        bool, typer.Option("--mix", help="Go on with what another kind of machine has begun; manifest and page say so.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Copy finished runs to recorded/.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Only show status and estimated cost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do the long runs of a chapter without a notebook."""
    if device:
        os.environ["EOSLIB_DEVICE"] = device
    wanted = _experiments(chapter, preset, p, only)
    if list_:
        _print_plan(wanted, as_json)
        return
    deadline = None if budget is None else time.monotonic() + 60 * budget
    unfinished = []
    for experiment in wanted:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        # with the budget spent, --fresh would only forget what is stored
        finished = None if fresh and left == 0 else experiments.carry_on(experiment, left, fresh, mix=mix)
        if finished is None:
            unfinished.append(experiment)
        elif record and not finished.recorded:
            print(f"recorded {store.record(finished)}")
    done = len(wanted) - len(unfinished)
    print(f"{done} of {len(wanted)} run(s) of {chapter} at {preset} are finished")
    if unfinished:
        print(f"the budget ended; the same command{' without --fresh' if fresh else ''} resumes", file=sys.stderr)
        raise typer.Exit(1)


@app.command(epilog="Example: python -m eoslib claims unstable_convergence --accept .executed/quick")
def claims(
    chapter: Annotated[str | None, typer.Argument(help="A chapter; default all.")] = None,
    accept: Annotated[
        Path | None,
        typer.Option(help="Acknowledge the verdicts of the executed notebook in this folder (or this .ipynb file)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the ledger with the verdicts last acknowledged, or acknowledge new ones."""
    chosen = [presets.chapter_path(chapter).stem] if chapter else presets.chapters()
    if accept:
        for name in chosen:
            _accept(name, accept if accept.suffix == ".ipynb" else accept / f"{name}.ipynb")
        return
    rows = []
    for name in chosen:
        known = ledger.acknowledged(name)
        for claim in ledger.read(ledger.ledger_path(name)).values():
            for preset in ledger.PRESETS:
                entry = known.get(preset, {}).get(claim.id, {})
                verdict = entry.get("verdict", ledger.NOT_RUN)
                rows.append({"id": claim.id, "preset": preset, "verdict": verdict, "value": entry.get("value")})
    _print_table(rows, as_json)


@app.command("runs", epilog="Example: python -m eoslib runs --json")
def runs_command(
    as_json: AsJson = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its checksum.")] = False,
) -> None:
    """List the stored and recorded runs, or verify them."""
    if not verify:
        _print_table(store.listing(), as_json)
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
        name = f"{run_.identity['experiment']}-{run_.key}"
        experiment = experiments.built(run_.identity)
        if experiment.fingerprint != run_.identity["fingerprint"]:
            print(f"skipped   {name}: its data (fingerprint {run_.identity['fingerprint'][:12]}…) is not here")
            bad += 1
            continue
        differences = audits.audit(run_, steps)
        bad += bool(differences)
        print(f"{'differs' if differences else 'agrees':<9} {name}" + "".join(f"\n    {d}" for d in differences[:5]))
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
        return
    described = datasets.describe()
    if as_json:
        print(json.dumps(described, indent=1, ensure_ascii=False))
        return
    for entry in described:
        print(f"{entry['name']}: {entry['description']}")
        for field in ("found", "looked_in", "fingerprint", "source", "licence", "how_to_get", "warning"):
            if entry[field] not in (None, []):
                value = ", ".join(entry[field]) if isinstance(entry[field], list) else entry[field]
                print(f"    {field.replace('_', ' '):<12} {value}")


@app.command("selftest", epilog="Example: python -m eoslib selftest --device cuda")
def selftest_command(
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Is this machine fit: its device, and a few steps of each kind of experiment on it, against the CPU."""
    if device:
        os.environ["EOSLIB_DEVICE"] = device
    done = []
    for check in selftest.run(store.default_device()):
        done.append(check)
        if not as_json:
            print(
                f"{'ok' if check['ok'] else 'FAILED':<6} {check['seconds']:6.1f} s  {check['check']}: {check['seen']}"
            )
    if as_json:
        print(json.dumps(done, indent=1, ensure_ascii=False))
    if not all(check["ok"] for check in done):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; expected errors are one message, not a traceback."""
    try:
        app(standalone_mode=True)
    except presets.ParameterError as error:
        _fail(error, 2)
    except (
        execution.ChapterFailed, ledger.ClaimError, datasets.DataError, store.StoreError, RuntimeError,
        FileNotFoundError,
    ) as error:  # fmt: skip
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: Exception, status: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(status)


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


def _print_plan(wanted: list[experiments.Experiment], as_json: bool) -> None:
    rows = []
    for e in wanted:
        seconds, memory = costs.cost(e)
        rows.append(
            {
                "experiment": e.experiment,
                "key": e.identity.key,
                "step_size": f"{e.step_size:.5g}",
                "status": store.status(e.identity),
                "at_most_minutes": round(seconds / 60, 2),
                "memory_mb": round(memory / 1e6),
                "device": str(store.default_device()),
            }
        )
    _print_table(rows, as_json)


def _print_table(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if not rows:
        print("none")
        return
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    print("  ".join(f"{name:<{width}}" for name, width in widths.items()).rstrip())
    for row in rows:
        print("  ".join(f"{row[name]!s:<{width}}" for name, width in widths.items()).rstrip())


def _accept(chapter: str, path: Path) -> None:
    import nbformat

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: build the book, or run the chapter, first")
    notebook = nbformat.read(path, as_version=4)
    preset = notebook.metadata["eoslib"]["preset"]
    print(f"acknowledged in {ledger.acknowledge(ledger.in_notebook(notebook), chapter, preset)} ({preset})")


if __name__ == "__main__":
    main()
