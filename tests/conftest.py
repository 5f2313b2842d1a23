"""What every test gets: an empty run store, no recorded runs, one thread, the CPU, hypothesis without deadlines."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported, here and in the processes that tests start

import pytest
import torch
from hypothesis import settings

# Seeded by the test itself: a build that changed nothing must not fail.
settings.register_profile("eoslib", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("eoslib")


@pytest.fixture(autouse=True)
def a_store_of_its_own(tmp_path, monkeypatch):
    """No test may see, or write to, the store and the recorded runs of this checkout."""
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "store"))
    monkeypatch.setenv("EOSLIB_RECORDED", str(tmp_path / "recorded"))
    monkeypatch.setenv("EOSLIB_DEVICE", "cpu")
    for name in ("EOSLIB_COMPUTE", "EOSLIB_PRESET", "EOSLIB_OPTIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def one_thread():
    """The same bits whatever ran before."""
    torch.set_num_threads(1)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What is displayed, as a notebook would get it: a list of {"data": mime type → content, "metadata": …}."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # of the shell: IPython warns if it is another than ours
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    publisher = shell.display_pub = CapturingDisplayPublisher()
    yield publisher.outputs
    InteractiveShell.clear_instance()
