"""The report's tables, made of its values. Pure."""

from __future__ import annotations

from tools.report.figures import tensor_rows
from tools.report.markup import text
from tools.report.plot import band
from tools.report.tables import Column, html_table
from tools.report.words import (
    KINDS,
    Values,
    counted,
    in_powers,
    one_decimal,
    percent,
    three_decimals,
    two_decimals,
)


def wire_section(document: Values) -> str:
    """Return what the bytes up were."""
    wire, total = document["totals"]["wire"], document["totals"]["bytes_up"]
    if not total:
        return ""
    rows = [
        {"kind": name, "about": about, "bytes": wire[key], "share": wire[key] / total}
        for key, name, about in KINDS
        if wire[key] or key != "unsplit"
    ]
    columns = [
        Column("kind", "Kind"),
        Column("bytes", "Bytes", counted),
        Column("share", "Share", percent),
        Column("about", "What that is", is_text=True),
    ]
    plot = band(
        [(name, key, wire[key]) for key, name, _ in KINDS],
        title="What went on the wire",
        about="Shares of all bytes that devices sent of their updates.",
        identity="wire",
    )
    legend = "".join(
        f'<li><span class="key {key}" aria-hidden="true"></span>{text(name)}</li>'
        for key, name, _ in KINDS
        if wire[key]
    )
    table = html_table(
        rows,
        columns,
        caption="Whole MQTT packets of manifests and segments, as the aggregator received them",
        total={"kind": "All", "bytes": total, "share": 1.0},
    )
    return (
        f'<h2>What went on the wire, upwards</h2><figure><ul class="legend">{legend}</ul>{plot}'
        f"</figure><br>{table}"
    )


def rounds_section(document: Values) -> str:
    """Return one row per round."""
    if not document["rounds"]:
        return ""
    columns = [
        Column("round_id", "Round"),
        Column("seconds", "Seconds", one_decimal),
        Column("reopened", "Opened again", str, "After a deadline without a quorum", optional=True),
        Column("participants", "In the mean"),
        Column("complete", "Complete"),
        Column("partial", "Partial", optional=True),
        Column("stale", "Stale", str, "Updates of earlier rounds in the mean", optional=True),
        Column("late", "Late", str, "Updates that missed their own round", optional=True),
        Column("dropped", "Dropped", optional=True),
        Column("clipped", "Clipped", str, "Scaled down to the norm bound", optional=True),
        Column("refused_count", "Refused", str, "Messages that were not let in", optional=True),
        Column("bytes_up", "Bytes up", counted),
        Column("bytes_up_fp32", "Dense fp32", counted),
        Column("saved", "Saved", percent),
        Column(
            "bits_per_coordinate",
            "Bits / coordinate",
            two_decimals,
            "Payload, over all coordinates",
        ),
        Column("bytes_down", "Bytes down", counted),
        Column("train_loss", "Train loss", three_decimals),
        Column(
            "eval_loss",
            "Held-out before",
            three_decimals,
            "Of the version that the round began with",
        ),
        Column("energy_j", "Energy, J", one_decimal, optional=True),
    ]
    rows = [
        {
            **each,
            "refused_count": sum(each["refused"].values()),
            "reopened": each["attempts"] - 1,
            "saved": 1 - each["bytes_up"] / each["bytes_up_fp32"]
            if each["bytes_up_fp32"]
            else None,
        }
        for each in document["rounds"]
    ]
    totals = document["totals"]
    total = {
        "round_id": "All",
        "seconds": totals["seconds"],
        "participants": totals["updates"],
        "bytes_up": totals["bytes_up"],
        "bytes_up_fp32": totals["bytes_up_fp32"],
        "saved": totals["saved_share"],
        "bytes_down": totals["bytes_down"],
        "energy_j": totals["energy_j"],
    }
    reasons = ", ".join(
        f"{text(reason)}: {count}" for reason, count in sorted(totals["refused"].items())
    )
    refused = f'<p class="quiet">Refused, by reason: {reasons}.</p>' if reasons else ""
    table = html_table(rows, columns, caption="One row per committed round", total=total)
    return f"<h2>Rounds</h2>{table}{refused}"


def devices_section(document: Values) -> str:
    """Return one row per device."""
    if not document["devices"]:
        return ""
    columns = [
        Column("device", "Device"),
        Column("asked", "Asked", str, "Rounds for which it was asked to train"),
        Column("rounds", "In means", str, "Its updates that are in a mean"),
        Column("accepted", "Accepted", str, "Whole updates"),
        Column("partial", "Partial", optional=True),
        Column("stale", "Stale", optional=True),
        Column("late", "Late", optional=True),
        Column("refused", "Refused", optional=True),
        Column("bytes_up", "Bytes up", counted),
        Column("payload_bytes", "Payload", counted),
        Column("repeated_bytes", "Sent again", counted),
        Column("repeated_share", "Sent again, share", percent, optional=True),
        Column("examples", "Examples", counted, "As it claims, over its updates in the means"),
        Column("weight_share", "Weight", percent, "Its share of all weights"),
        Column("train_s", "Training, s", one_decimal),
        Column("last_train_loss", "Last train loss", three_decimals),
        Column("last_eval_loss", "Last held-out", three_decimals),
        Column("energy_j", "Energy, J", one_decimal, optional=True),
    ]
    caption = "One row per device, over all rounds that have an account"
    return f"<h2>Devices</h2>{html_table(document['devices'], columns, caption=caption)}"


def tensors_section(document: Values) -> str:
    """Return one row per tensor."""
    if not document["tensors"]:
        return ""
    columns = [
        Column("tensor", "Tensor"),
        Column("coordinates", "Coordinates", counted),
        Column("moved_share", "Moved", percent, "Of its coordinates, in the mean update"),
        Column("share_of_moved", "Of all moved", percent, "Its share of all that moved"),
        Column("energy_share", "Energy", percent, "Its share of the squared norm of all steps"),
        Column("rms_step", "Step, RMS", in_powers, "Per coordinate and round"),
        Column("payload_bits", "Payload, bits", counted, "Its own, of the updates in the means"),
        Column("payload_share", "Of the payload", percent),
        Column(
            "bits_per_moved", "Bits / moved", two_decimals, "Own bits per coordinate that moved"
        ),
    ]
    payload = document["tensor_payload"]
    table = html_table(
        tensor_rows(document),
        columns,
        caption="One row per tensor of the adapter, over all rounds",
        total={
            "tensor": "All",
            "coordinates": document["run"]["coordinates"],
            "payload_bits": payload["payload_bits"],
            "payload_share": 1.0 if payload["payload_bits"] else None,
        },
    )
    about = (
        "A coordinate has moved where a decoded update is not zero; a rotated codec moves all of a "
        f"tensor that it sends anything of. {_payload_about(payload)}"
    )
    bits = document["totals"]["bits_per_moved"]
    if bits is not None:
        about += f" A coordinate that moved took {bits:.2f} bits of payload on average."
    return f'<h2>Tensors</h2><p class="quiet">{about}</p>{table}'


def _payload_about(payload: Values) -> str:
    if not payload["own_bits"] + payload["shared_bits"]:
        return "What of the payload was each tensor's is not known: this codec does not tell."
    return (
        "Codecs write several tensors into one code. A tensor's own bits are what its coordinates "
        "take at the least: log₂ of the ways to choose those that were sent, a sign each, and the "
        "entropy of its magnitudes. The rest of the payload is shared: headers, scales, tables of "
        "tensors, and what the code takes beyond the least. Together they are the payload of all "
        "updates in the means, to the bit."
    )
