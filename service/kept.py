"""python -m service.kept COMMAND...: a program that ends with the process that holds the other end of its input.

However that process ends, also by SIGKILL, the system closes its end of the pipe. Ray and MLflow have processes of
their own, so they are asked to end, and only what is left of them after a while is killed.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

END_SECONDS = 20.0
"""For a program to end by itself."""


def main() -> None:
    """Run the command until it or the input ends; exit with its code."""
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal; who holds the pipe decides
        signal.signal(number, signal.SIG_IGN)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_listen_again)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    threading.Thread(target=_end_with_input, args=(process,), daemon=True).start()
    code = process.wait()
    _kill_rest(process.pid)
    sys.exit(code if code >= 0 else 128 - code)


def _end_with_input(process: "subprocess.Popen[bytes]") -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        _kill_rest(process.pid)


def _kill_rest(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _listen_again() -> None:
    """Undo in the program what it would inherit."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
