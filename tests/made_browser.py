"""Headless Chromium, driven through its DevTools protocol."""

import asyncio
import base64
import io
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
SIZE = (1280, 800)


class Browser:
    """Headless Chromium with one page, through its DevTools protocol.

    Args:
        profile: an empty folder for the browser's own files.
    """

    def __init__(self, profile: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self.noted: list[str] = []
        self.requested: list[str] = []
        self._process = subprocess.Popen(
            [
                str(CHROMIUM),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = profile / "DevToolsActivePort"
        self._wait(lambda: port_file.exists() and port_file.read_text().count("\n") >= 1, "Chromium")
        port, path = port_file.read_text().split("\n")[:2]
        from tornado.websocket import websocket_connect

        async def connect() -> Any:
            return await websocket_connect(f"ws://127.0.0.1:{port}{path}", max_message_size=2**28)

        self._socket = self._loop.run_until_complete(connect())
        self._number, self._session = 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(*SIZE)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        return self._loop.run_until_complete(asyncio.wait_for(self._exchange(message), 60))

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        await self._socket.write_message(json.dumps(message))
        while True:
            reply = json.loads(await self._socket.read_message())
            if reply.get("id") == message["id"]:
                assert "error" not in reply, reply
                return reply["result"]
            parameters = reply.get("params", {})
            match reply.get("method"):
                case "Log.entryAdded":
                    self.noted.append(str(parameters["entry"]))
                case "Runtime.exceptionThrown":
                    self.noted.append(str(parameters["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning"):
                    self.noted.append(str(parameters["args"]))
                case "Network.requestWillBeSent":
                    self.requested.append(parameters["request"]["url"])

    def run(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _wait(self, ready: Any, what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, f"{what} was not ready in {seconds} s"
            time.sleep(0.05)

    def until(self, script: str) -> None:
        """Waits until a script gives true."""
        self._wait(lambda: self.run(script) is True, script)

    def visit(self, url: str) -> None:
        """Opens a page and waits until it is read."""
        self.call("Page.navigate", url="about:blank")  # a new hash alone would not load it again
        self.call("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def open(self, url: str) -> None:
        """Opens the viewer's page and waits until all that it shows has come."""
        self.visit(url)
        self.until("document.documentElement?.dataset.started === 'yes'")
        self.settle()

    def settle(self) -> None:
        """Waits until every layer that is on is drawn whole and nothing moves."""
        self.until(
            "Object.values(layers).every(l => !l.on || !l.item || l.item.getFullyLoaded())"
            " && !viewer.isAnimating?.() && !viewer.world.needsDraw()"
        )
        time.sleep(0.3)  # the last frame

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self) -> np.ndarray:
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def close(self) -> None:
        try:
            self._session = None
            self.call("Browser.close")
        finally:
            self._process.terminate()
            self._process.wait(30)
            self._loop.close()
