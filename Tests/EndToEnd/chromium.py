"""A page in headless Chromium (Debian's package), over its DevTools protocol: what the console said, what was drawn."""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

from waiting import wait_until
from websockets.sync.client import connect


class Chromium:
    """One headless browser; its page is asked through `command` and `evaluate`."""

    def __init__(self, folder):
        program = shutil.which("chromium")
        assert program, "chromium is missing: make deps installs it"
        self.folder = pathlib.Path(folder)
        self.process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--remote-debugging-port=0",
                f"--user-data-dir={self.folder}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.count = 0
        self.events = []
        self.socket = None

    def __enter__(self):
        try:
            # Written when the port is bound: the port, and the path of the browser's own socket. It may be read half written.
            active = self.folder / "DevToolsActivePort"
            pattern = re.compile(r"(\d+)\n(/devtools/browser/[-0-9a-f]{36})")
            port, path = wait_until(
                lambda: active.exists() and pattern.match(active.read_text()), 60, "Chromium's port"
            ).groups()
            self.socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=1 << 28, open_timeout=30)
            target = self.command("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.command(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.socket:
            self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            # Its session is its own: the helpers that it started end with it.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    session = None

    def command(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def open(self, url, width=1100, height=800):
        """Loads `url` and waits until it is drawn."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.command("Page.navigate", url=url)
        wait_until(lambda: self.evaluate("document.readyState") == "complete", 30, f"{url} to be loaded")

    def evaluate(self, expression):
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def complaints(self):
        """Errors and warnings of the console, exceptions, and what could not be loaded."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            match event.get("method"):
                case "Log.entryAdded":
                    if parameters["entry"]["level"] in ("error", "warning"):
                        found.append(parameters["entry"]["text"])
                case "Runtime.exceptionThrown":
                    found.append(parameters["exceptionDetails"]["text"])
                case "Runtime.consoleAPICalled":
                    if parameters["type"] in ("error", "warning", "assert"):
                        found.append(str(parameters["args"]))
                case "Network.loadingFailed":
                    found.append(parameters["errorText"])
        return found

    def requested(self):
        """URLs that the page loaded, itself included."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def screenshot(self, path):
        """The whole page as PNG."""
        image = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        pathlib.Path(path).write_bytes(base64.b64decode(image["data"]))
