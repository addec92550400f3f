"""`past view`, through the real command."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from made_slides import made_slide
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.errors import PastError
from past_core.ingest.write import write_store

PAST = [sys.executable, "-c", "from past_core.cli import past_main; past_main()", "view"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(made_slide(), tmp_path_factory.mktemp("view") / "made.zarr")


def test_it_serves_until_it_is_interrupted(path: Path) -> None:
    process = subprocess.Popen(
        [*PAST, str(path), "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"made: http://127\.0\.0\.1:(\d+)/  \(Ctrl-C to stop\)\n", line)
        assert match, line
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
        connection.request("GET", "/info.json")
        assert json.loads(connection.getresponse().read())["cells"] == 60
        process.send_signal(signal.SIGINT)  # with the connection still open
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_the_browser_is_opened_unless_it_is_not_wanted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from past_core.view.server import ViewServer

    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(ViewServer, "serve_forever", lambda self: None)
    result = CliRunner().invoke(build_app(), ["view", str(path), "--no-browser"])
    assert result.exit_code == 0, result.output
    assert opened == []
    result = CliRunner().invoke(build_app(), ["view", str(path)])
    assert result.exit_code == 0
    assert opened == [re.search(r"http://\S+", result.output)[0]]


def test_what_cannot_be_shown_is_named(path: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no slide")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in [
            ([tmp_path / "none.zarr"], "no such slide"),
            ([tmp_path / "a.txt"], "not an image that PAST knows"),
            ([tmp_path], "without OME-Zarr image metadata"),
            ([path, "--mpp", "3"], "the store was made at 0.25"),
            ([path, "--port", port], f"port {port} is in use"),
            ([path, "--port", 70000], "port 70000 does not exist"),
        ]:
            result = CliRunner().invoke(build_app(), ["view", "--no-browser", *map(str, arguments)])
            assert isinstance(result.exception, PastError), result.output
            assert message in str(result.exception)
    result = CliRunner().invoke(build_app(), ["view", str(path), "--host", "0.0.0.0"])
    assert result.exit_code == 2
