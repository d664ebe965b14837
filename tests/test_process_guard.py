"""What holds `make quick` to tests that start no process (tests/conftest.py)."""

import multiprocessing
import subprocess
import sys

import pytest


def spawn() -> None:
    multiprocessing.get_context("spawn").Process(target=print).start()  # no audit hook hears of it


def run() -> None:
    subprocess.run([sys.executable, "-V"], check=True)


@pytest.mark.parametrize("start", [run, spawn])
def test_a_process_fails_a_test_that_is_not_marked(start):
    with pytest.raises(pytest.fail.Exception, match=r"needs @pytest\.mark\.processes"):
        start()
