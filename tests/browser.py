"""A real Chromium for tests, driven over the pipe of its DevTools protocol: no port, no driver to install."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

BINARY = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
TIMEOUT_SECONDS = 60.0


class Browser:
    """One tab; `complaints` are what its console said: errors of scripts, and what the page's policy refused."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium")
        self.complaints: list[str] = []
        self._number, self._answers, self._loads, self._rest = 0, dict[int, Any](), 0, b""
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for pair in (os.pipe(), os.pipe()) for end in pair]
        asked, self._ask, self._hear, answered = ends
        command = ["bash", "-c", f'exec "$@" 3<&{asked} 4>&{answered}', "chromium", str(BINARY), *FLAGS]
        command.append(f"--user-data-dir={self._profile}")
        self._process = subprocess.Popen(
            command, pass_fds=(asked, answered), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(asked)
        os.close(answered)
        os.set_blocking(self._hear, False)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ask)
        os.close(self._hear)
        shutil.rmtree(self._profile, ignore_errors=True)

    def look(self, width: int, *, dark: bool = False) -> None:
        """Be so wide, and of a reader who likes it dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        self.after_load(lambda: self.call("Page.navigate", url=url))

    def after_load(self, act: Any) -> None:
        """Do what loads a page, and wait for it."""
        loads = self._loads
        act()
        self._wait(lambda: self._loads > loads)

    def js(self, expression: str) -> Any:
        """Return the value of an expression; of a promise, what it comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("rawKeyDown", "char", "keyUp") if key == "Enter" else ("rawKeyDown", "keyUp"):
            text = {"text": "\r"} if kind == "char" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def screenshot(self, path: Path) -> None:
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(image))

    def call(self, method: str, **parameters: Any) -> Any:
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._ask, json.dumps(message).encode() + b"\0")
        number = self._number
        self._wait(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait(self, come: Any) -> None:
        until = time.monotonic() + TIMEOUT_SECONDS
        while not come():
            assert time.monotonic() < until, "the browser does not answer"
            assert self._process.poll() is None, "the browser ended"
            try:
                self._rest += os.read(self._hear, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            *messages, self._rest = self._rest.split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case None:
                self._answers[message["id"]] = message
            case "Page.loadEventFired":
                self._loads += 1
            case "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])
