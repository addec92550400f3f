"""The report of a registration as one HTML file that needs nothing else."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from past_core.registration.report import COLOURS

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; font-size: 0.9em; } img { max-width: 100%; }
td, th { padding: 0.2em 0.8em 0.2em 0; text-align: left; border-bottom: 1px solid #ddd; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.verdict { color: white; padding: 0.1em 0.6em; border-radius: 4px; } .out { color: #c1121f; }
"""
JPEG_QUALITY = 88


def write_page(report: dict[str, Any], pictures: Sequence[Path], path: Path, *, title: str) -> Path:
    """Writes the page.

    Args:
        report: of `registration_report` or `image_report`, with `refinement` and `source` where known.
        pictures: files to show, in order; they are held in the page.
        path: the file.
        title: heading.
    """
    verdict = report["verdict"]
    parts = [
        _heading(title, verdict),
        _list(report["reasons"]),
        "<h2>Figures</h2>",
        _table(["", ""], _figures(report), numbers=(1,)),
        *_refinement(report.get("refinement")),
        "<h2>Regions</h2>",
        _table(
            ["region", "pairs", "left out", "residual µm", "when left out µm"],
            [_row(region) for region in report["regions"]],
            numbers=(1, 2, 3, 4),
        ),
        "<h2>Pairs</h2>",
        _pairs(report["regions"]),
        "<h2>Pictures</h2>",
        *(f"<p><img alt='{escape(picture.stem)}' src='{_embedded(picture)}'></p>" for picture in pictures),
    ]
    path.write_text(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n"
        "</body></html>\n",
        encoding="utf-8",
    )
    return path


def _heading(title: str, verdict: str) -> str:
    colour = f"style='background:{COLOURS[verdict]}'"
    return f"<h1>{escape(title)} <span class='verdict' {colour}>{escape(verdict)}</span></h1>"


def _figures(report: dict[str, Any]) -> list[list[str]]:
    rows = [
        ["method", report.get("method", "")],
        ["error of regions left out, µm", _number(report["held_out_um"], 3)],
        ["residual, µm", _number(report["residual_um"], 3)],
        ["noise of a coordinate of a pair, µm", _number(report["noise_um"], 3)],
        ["pairs", str(report["pairs"])],
        ["pairs left out as wrong", str(report["wrong_pairs"])],
        ["rotation, degrees", _number(report["rotation_deg"], 4)],
        ["scale", _number(report["scale"], 5)],
        ["chosen", report["chosen"]],
        ["H&E, µm per pixel", _number(report["he_mpp"], 5)],
        ["morphology, µm per pixel", _number(report["pixel_size"], 5)],
    ]
    rows += [
        [f"left out with {name}, µm", _number(value, 3)]
        for name, value in report["candidates_held_out_um"].items()
    ]
    given = report.get("given_matrix")
    if given:
        rows.append(["residual of the matrix given, µm", _number(given["residual_um"], 3)])
        rows.append(["farthest from the matrix given, µm", _number(given["farthest_um"], 3)])
    return rows


def _refinement(refinement: dict[str, Any] | None) -> list[str]:
    if refinement is None:
        return []
    windows = refinement["windows"]
    rows = [
        [
            window["name"],
            "yes" if window["found"] else "no",
            f"{window['shift_um'][0]:.2f}, {window['shift_um'][1]:.2f}",
            _number(window["score_before"], 2),
            _number(window["score"], 2),
            _number(window["contrast_before"], 3),
            _number(window["contrast"], 3),
        ]
        for window in windows
    ]
    state = "accepted" if refinement["accepted"] else "not accepted"
    text = (
        f"Refinement {state}: {refinement['reason']}. Nuclei from {refinement['nuclei_from']}; windows of "
        f"{refinement['window_um']:.0f} µm."
    )
    return [
        "<h2>Against the image</h2>",
        f"<p>{escape(text)}</p>",
        _table(
            [
                "window",
                "nuclei found",
                "shift x, y µm",
                "match before",
                "match",
                "contrast before",
                "contrast",
            ],
            rows,
            numbers=(2, 3, 4, 5, 6),
        ),
    ]


def _row(region: dict[str, Any]) -> list[str]:
    wrong = sum(not pair["kept"] for pair in region["pairs"])
    return [
        region["region"],
        str(len(region["pairs"])),
        str(wrong),
        _number(region["residual_um"], 2),
        _number(region["held_out_um"], 2),
    ]


def _pairs(regions: Sequence[dict[str, Any]]) -> str:
    rows = []
    for region in regions:
        for pair in region["pairs"]:
            kind = "" if pair["kept"] else " class='out'"
            note = "" if pair["kept"] else "wrong, left out"
            x, y = pair["off_um"]
            rows.append(
                f"<tr{kind}><td>{escape(pair['place'])}</td><td class='n'>{x:.2f}</td>"
                f"<td class='n'>{y:.2f}</td><td class='n'>{pair['residual_um']:.2f}</td><td>{note}</td></tr>"
            )
    head = "<th>pair</th><th class='n'>x µm</th><th class='n'>y µm</th><th class='n'>off µm</th><th></th>"
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _list(reasons: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in reasons) + "</ul>" if reasons else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if k in numbers else ''}>{escape(value)}</{tag}>"
            for k, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<tr>{cells(head, 'th')}</tr>" if any(head) else ""
    return f"<table>{top}{body}</table>"


def _number(value: float | None, digits: int) -> str:
    return "not known" if value is None else f"{value:.{digits}f}"


def _embedded(picture: Path) -> str:
    """A data URL; as JPEG, for PNGs of tissue are large."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
