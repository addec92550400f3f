"""`past view`: a slide and its cells in the browser."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = {
    "past view P1.zarr": "opens the page",
    "past view SLIDE.svs --no-browser --port 8000": "says where the page is",
}


def view(
    slide: Annotated[
        Path,
        typer.Argument(help="Slide store (.zarr), or a bare slide (SVS, TIFF, ...) without cells."),
    ],
    *,
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1 to listen on; 0 for any free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of a bare slide that does not state it.")
    ] = None,
) -> None:
    """Shows a slide with its cells on a local page in the browser.

    H&E, boundaries, QC flags and gene expression are layers; a click on a cell tells its genes. The page is
    served to this machine alone, until Ctrl-C.
    """
    import signal
    import threading
    import webbrowser

    from past_core.slides import open_slide
    from past_core.view.server import ViewServer

    with open_slide(slide, mpp=mpp) as opened, ViewServer(opened, port=port) as server:
        typer.echo(f"{opened.name}: {server.url}  (Ctrl-C to stop)")
        if browser:
            # Some browsers hold up whoever opens them.
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        # Not by KeyboardInterrupt, which may be raised where Python ignores it.
        stop = threading.Thread(target=server.shutdown, daemon=True)
        before = signal.signal(signal.SIGINT, lambda number, at: None if stop.ident else stop.start())
        try:
            server.serve_forever()
        finally:
            signal.signal(signal.SIGINT, before)
        typer.echo("stopped")
