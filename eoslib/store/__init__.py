"""What lasts: the run store, and the one driver of long computations.

A run is one process carried to its end. Its *identity*, plain values, says all that determines it; the key is a hash of
what differs from the defaults. `carry_on` steps the process, records what it observes, checkpoints, shows progress,
stops at a budget and resumes, bit for bit. In the store (`EOSLIB_RUNS`, default ./runs) a run is a folder:

    rows-*.npz, state-*.safetensors, checkpoint.json    while it goes on; checkpoint.json commits the others
    trace.nc, manifest.json                             once finished; manifest.json commits the trace
    theta-*.safetensors                                 θ that the experiment asked to keep

Every file is written under another name, flushed to the disk and renamed, and carries a checksum that is
verified before use. `recorded/` holds finished traces, floats as float32, smaller, read-only to a build.
"""

from eoslib.store.archive import Run, find, inventory, listing, load, manifests, record, recorded_runs, status, verify
from eoslib.store.files import Damaged, StoreError, write_atomically
from eoslib.store.identity import Identity, default_device, home, library_sha256, machine, plain, processor, recorded
from eoslib.store.journal import Process, carry_on
from eoslib.store.traces import side_by_side, single, tables_of, thin, trace_of, values_sha256, window_of, windowed

__all__ = [
    "Damaged", "Identity", "Process", "Run", "StoreError", "carry_on", "default_device", "find", "home",
    "inventory", "library_sha256", "listing", "load", "machine", "manifests", "plain", "processor", "record",
    "recorded", "recorded_runs", "side_by_side", "single", "status", "tables_of", "thin", "trace_of", "values_sha256",
    "verify", "window_of", "windowed", "write_atomically",
]  # fmt: skip
