"""Give recorded runs and acknowledged verdicts the keys of composed experiments. Run once, from the repository's root.

Every experiment that a chapter declares, at every preset and in the gallery, is written as the flat identity it had
before; the hash of that is its old key. Arrays and provenance stay as they are: a trace keeps its bytes, a manifest all
but key, family and identity. `recorded/rekeyed.json` keeps the map, old → new.
"""

import hashlib
import json
import sys
from pathlib import Path

import yaml

from eoslib import store
from eoslib.chapter import presets
from eoslib.chapter.experiments import Descent, Map, Sizes, Stabilization
from eoslib.measure.curvature import PreconditionedSharpness, SegmentSharpness, Sharpness
from eoslib.measure.progress import ExpectedProgress, HeldOut, SegmentSmoothness
from eoslib.problems.problem import OnLandscape
from eoslib.store.files import read_json, write_json


def old_identity(e) -> dict | None:
    """As the fields of the ten kinds were; None for what is computed anew: adaptive methods, many starts."""
    common = {name: getattr(e, name) for name in ("chapter", "experiment", "step_size", "steps")} | {"revision": 1}
    common["fingerprint"] = e.fingerprint
    if isinstance(e, Map):
        kind = "SizesRun" if isinstance(e, Sizes) else "MapRun"
        return common | {"kind": kind, "landscape": e.landscape, "box": e.box, "grid": e.grid}
    if not isinstance(e, Descent | Stabilization):
        return None
    if isinstance(e.problem, OnLandscape):
        return common | {"kind": "LandscapeRun", "landscape": e.problem.landscape, "start": e.problem.start}
    data, network = e.problem.data, e.problem.network
    common |= {
        "dataset": data.dataset, "n": data.n, "standardisation": data.standardisation,
        "data_options": data.data_options, "loss": e.problem.loss, "activation": network.activation,
        "bias_init": network.bias_init, "seed": e.seed, "precision": e.precision,
    }  # fmt: skip
    architecture = {"architecture": network.architecture, "sizes": network.sizes}
    if isinstance(e, Stabilization):
        own = {name: getattr(e, name) for name in ("tracked", "unstable", "every", "predict_from")}
        return common | architecture | own | {"kind": "StabilizationRun"}
    taken = {type(m): m for m in e.measurements}
    sharpness = taken.get(Sharpness)
    if e.chapter == "self_stabilization":
        held_out = taken.get(HeldOut)
        return common | architecture | {
            "kind": "DescentRun", "every": sharpness.every, "eigenvalues": sharpness.eigenvalues,
            "test_n": held_out.examples if held_out else 0, "schedule": e.schedule.name,
        }  # fmt: skip
    common["hidden"] = network.sizes["hidden"]
    if PreconditionedSharpness in taken:
        return None
    if expected := taken.get(ExpectedProgress):
        sizes = {"batch_size": e.batches.batch_size, "estimates": expected.minibatches}
        return common | {"kind": "SGDRun"} | sizes
    smoothness, segment = taken.get(SegmentSmoothness), taken.get(SegmentSharpness)
    common |= {
        "kind": "TrainingRun", "stop_accuracy": e.stop_accuracy, "sharpness_every": sharpness.every if sharpness else 0,
        "eigenvalues": sharpness.eigenvalues if sharpness else 1, "sharpness_tolerance": 3e-3,
        "segment_every": smoothness.every if smoothness else 0, "segment_nodes": smoothness.nodes if smoothness else 16,
        "segment_rule": smoothness.rule if smoothness else "gauss",
    }  # fmt: skip
    return common | ({"kind": "SegmentRun", "every": segment.every, "points": segment.points} if segment else {})


def old_key(identity: dict) -> str:
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def declared() -> dict[str, object]:
    """Old key → experiment, of all that the book declares."""
    found = {}
    wanted = [(chapter, preset, {}) for chapter in presets.chapters() for preset in ("quick", "standard", "paper")]
    for page in sorted(Path("notebooks/gallery").glob("*.yaml")):
        content = yaml.safe_load(page.read_text())
        wanted.append((content["chapter"], content["preset"], content["parameters"]))
    for chapter, preset, overrides in wanted:
        path = presets.chapter_path(chapter)
        for listed in presets.declared_experiments(path, presets.parameters(path, preset, overrides)).values():
            found |= {old_key(identity): e for e in listed if (identity := old_identity(e))}
    return found


def rekey() -> None:
    experiments, map_, lost = declared(), {}, []
    for path in sorted(store.recorded().glob("*/*-*.json")):
        body = read_json(path)
        old = body["key"]
        if old not in experiments:
            lost.append(path.stem)
            continue
        identity = experiments[old].identity
        assert identity.fingerprint == body["identity"]["fingerprint"], path
        map_[old] = identity.key
        target = path.with_name(f"{path.stem.removesuffix(old)}{identity.key}.json")
        twin = next(iter(store.recorded().glob(f"*/*-{identity.key}.json")), None)
        if twin and "exp1-" in path.name + twin.name:  # experiment 3's stays
            loser = path if "exp1-" in path.name else twin
            loser.with_suffix(".nc").unlink()
            loser.unlink()
            if loser == path:
                continue
        path.with_suffix(".nc").rename(target.with_suffix(".nc"))
        body |= {"key": identity.key, "family": identity.family, "identity": store.plain(identity.values)}
        write_json(target, body)
        path.unlink()
    for old, e in experiments.items():
        map_.setdefault(old, e.identity.key)
    for path in sorted((store.recorded() / "claims").glob("*.yaml")):
        everything = yaml.safe_load(path.read_text())
        for entries in everything.values():
            for entry in entries.values():
                entry["runs"] = [map_.get(key, key) for key in entry["runs"]]
        path.write_text(yaml.safe_dump(everything, allow_unicode=True, sort_keys=True, width=110))
    (store.recorded() / "rekeyed.json").write_text(json.dumps(map_, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"{len(map_)} keys; not declared any more, left alone: {', '.join(lost) or 'none'}\n")


if __name__ == "__main__":
    rekey()
