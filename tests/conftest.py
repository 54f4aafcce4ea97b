"""One thread everywhere, in the processes that tests start too.

The last bits of a sum depend on how many there are, and two threads on a busy core wait for each other.
"""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def online_again(monkeypatch):
    """``--offline`` holds for the process that it was given to, which here goes on with other tests."""
    monkeypatch.setenv("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))
