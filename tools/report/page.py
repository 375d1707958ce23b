"""A run's report as one HTML file that needs nothing else. Pure, but for its style and script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from tools.report.axis import in_seconds
from tools.report.charts import heldout, plots
from tools.report.markup import embedded, text
from tools.report.sections import devices_section, rounds_section, tensors_section, wire_section
from tools.report.words import Values, adapter_text, date_text, energy_text, optional
from tools.units import bytes_text, count_text


def page_of(document: Values) -> str:
    """Return the report of a run, made of what `tools.report.figures` says of it."""
    run = document["run"]
    title = f"Run {run['run'][:8]}"
    folder = files("tools.report")
    style = (folder / "report.css").read_text(encoding="utf-8")
    script = (folder / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    body = "".join(
        (
            _header(document, title),
            _heads(document),
            _notes(document),
            plots(document),
            wire_section(document),
            rounds_section(document),
            devices_section(document),
            tensors_section(document),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)} - fedfstq report</title><style>{style}</style></head><body>{body}"
        f'<script type="application/json" id="figures">{embedded(document)}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def _header(document: Values, title: str) -> str:
    run, about = document["run"], document["run"]["about"]
    rounds = document["totals"]["rounds"]
    planned = about.get("rounds")
    state = "finished" if run["finished"] else "not finished"
    facts = [
        ("Federation", about.get("federation")),
        ("Base model", run["base_model"]),
        ("Codec", about.get("codec")),
        ("Rounds", f"{rounds} of {planned}, {state}" if planned else f"{rounds}, {state}"),
        ("Adapter", adapter_text(run)),
        ("Budget of an update, last round", optional(about.get("update_bytes"), bytes_text)),
        ("First round committed", optional(run["first_committed_at"], date_text)),
        ("Last round committed", optional(run["last_committed_at"], date_text)),
        ("Devices", str(len(document["devices"]))),
        ("Starts of the aggregator", str(run["starts"])),
        ("Software", about.get("software")),
    ]
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(str(value))}</dd></div>"
        for name, value in facts
        if value not in {None, ""}
    )
    return (
        f'<header><h1>{text(title)}</h1><p class="quiet"><code>{text(run["run"])}</code></p>'
        f'<dl class="facts">{shown}</dl></header>'
    )


def _heads(document: Values) -> str:
    totals, rounds = document["totals"], document["rounds"]
    if not rounds:
        return "<p><strong>No round is committed yet.</strong></p>"
    share = totals["saved_share"]
    saved = f"{share:.1%}" if share is not None else "nothing"
    sent, dense = bytes_text(totals["bytes_up"]), bytes_text(totals["bytes_up_fp32"])
    span = count_text(totals["rounds"], "round") + " with "
    span += count_text(totals["updates"], "update") + " in the means"
    heads = [
        (
            "first",
            saved,
            f"of uplink saved: {sent} in place of {dense} dense fp32",
        ),
        ("", *_loss_head(document)),
        (
            "",
            bytes_text(totals["bytes_down"]),
            "published down to the fleet, each packet counted once",
        ),
        (
            "",
            in_seconds(totals["seconds"], totals["seconds"]),
            span,
        ),
    ]
    if totals["energy_j"] is not None:
        heads.append(("", energy_text(totals["energy_j"]), "spent by devices that measure"))
    return (
        '<ul class="heads">'
        + "".join(
            f'<li class="{style}"><strong>{text(big)}</strong>'
            f'<span class="quiet">{text(small)}</span></li>'
            for style, big, small in heads
        )
        + "</ul>"
    )


def _loss_head(document: Values) -> tuple[str, str]:
    known = [(at, loss) for at, loss in heldout(document) if loss is not None]
    if not known:
        return "-", "no device has evaluated anything"
    (first, before), (last, after) = known[0], known[-1]
    if first == last:
        return f"{after:.3f}", f"held-out loss of version {last:.0f}, nats per token"
    return (
        f"{after:.3f}",
        f"held-out loss of version {last:.0f}; {before:.3f} at version {first:.0f}",
    )


def _notes(document: Values) -> str:
    notes = "".join(f"<li>{text(note)}</li>" for note in document["notes"])
    return f'<ul class="notes">{notes}</ul>' if notes else ""
