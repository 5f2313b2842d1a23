"""What the runs of a chapter were made from."""

from collections.abc import Sequence

from eoslib import store
from eoslib.chapter.experiments import built
from eoslib.chapter.templates import render


def provenance(*groups: Sequence[store.Run]) -> None:
    """Show what the runs of a chapter were made from: data, seeds, machines, versions, time and products."""
    from IPython.display import display

    everything = {run.key: run for group in groups for run in group}.values()
    manifests = [run.manifest for run in everything]
    trained = [run for run in everything if run.identity["fingerprint"]]
    data = {(run["dataset"], run["fingerprint"]): built(run.identity).problem.data for run in trained}
    machines = [m["machine"] for m in manifests] + [s["machine"] for m in manifests for s in m.get("stretches", [])]
    unreadable = sorted({name for m in manifests for name in m.get("unreadable", ())})
    rows = {
        "runs": f"{len(manifests)}, of which {sum(run.recorded for run in everything)} recorded",
        "data": "; ".join(f"{name}, fingerprint {fingerprint[:12]}…" for name, fingerprint in data),
        "about the data": "; ".join({w: w for d in data.values() if (w := d.warning)}),
        "images that could not be read": f"{len(unreadable):,}: {', '.join(unreadable)}" if unreadable else "",
        "seeds": ", ".join(sorted({str(run["seed"]) for run in trained})),
        "precision": ", ".join(sorted({run["precision"] for run in trained})),
        "processor": "; ".join(sorted({m["processor"] for m in machines})),
        "GPU": "; ".join(sorted({m["gpu"] for m in machines})),
        "threads": ", ".join(sorted({str(m["threads"]) for m in manifests})),
        "PyTorch": ", ".join(sorted({m["torch"] for m in machines})),
        "library": ", ".join(sorted({m["library_sha256"][:12] for m in manifests})),
        "commit": ", ".join(sorted({(m["commit"] or "none")[:12] for m in manifests})),
        "mixed": ", ".join(m["key"] for m in manifests if m.get("stretches")),
        "computing time": f"{sum(m['wall_seconds'] for m in manifests):.0f} s",
        "gradients": f"{sum(m['gradients'] for m in manifests):,}",
        "Hessian-vector products": f"{sum(m['products'] for m in manifests):,}",
    }
    rows = {name: text for name, text in rows.items() if text}
    plain = "\n".join(f"{name}: {text}" for name, text in rows.items())
    record = {"application/vnd.eoslib.provenance+json": rows}
    display({"text/plain": plain, "text/html": render("provenance.html", rows=rows)} | record, raw=True)
