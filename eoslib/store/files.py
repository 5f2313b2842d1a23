"""Files that are whole or not there: written atomically, with checksums that are verified before use."""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path


class StoreError(RuntimeError):
    """The store could not be written or read; the message names the file and the way out."""


class Damaged(StoreError):
    """A stored file does not match its checksum."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write atomically: after a crash at any instant the file is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        disk = next(folder for folder in path.parents if os.path.isdir(folder))
        raise StoreError(
            f"cannot write {path}: {error.strerror} ({len(content):,} bytes; "
            f"{shutil.disk_usage(disk).free:,} are free). Nothing finished or checkpointed is lost: "
            "make room and give the same command again"
        ) from error


def write_json(path: Path, body: dict) -> None:
    wrapped = {"sha256": sha256(_text(body)), "body": body}
    write_atomically(path, json.dumps(wrapped, sort_keys=True, indent=1).encode())


def read_json(path: Path) -> dict:
    """The body of a file made by `write_json`, verified."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        wrapped = json.loads(path.read_bytes())
        if wrapped["sha256"] == sha256(_text(wrapped["body"])):
            return wrapped["body"]
    raise _damage(path)


def _text(body: dict) -> bytes:
    return json.dumps(body, sort_keys=True, ensure_ascii=False).encode()


def verified(path: Path, checksum: str) -> bytes:
    """The file's content, whose checksum is right."""
    if not path.exists() or sha256(content := path.read_bytes()) != checksum:
        raise _damage(path)
    return content


def _damage(path: Path) -> Damaged:
    what = "damaged: its checksum is not the one it was written with. It is not used" if path.exists() else "missing"
    return Damaged(f"{path} is {what}. Begin this run anew with --fresh, or delete {path.parent}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
