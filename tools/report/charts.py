"""The report's figures, made of its values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tools.report.axis import in_bytes, in_seconds
from tools.report.markup import text
from tools.report.plot import Labels, Point, Series, bar_plot, bundled, line_plot
from tools.report.words import KINDS, Values
from tools.units import bytes_text, count_text, ratio_text


def heldout(document: Values) -> list[Point]:
    """Return the held-out loss of each version."""
    points: list[Point] = [(each["eval_version"], each["eval_loss"]) for each in document["rounds"]]
    final = document["final"]
    return [*points, (final["version"], final["loss"])]


def _of(document: Values, key: str) -> tuple[Point, ...]:
    return tuple((each["round_id"], each[key]) for each in document["rounds"])


def plots(document: Values) -> str:
    """Return what each round gave and cost, as figures."""
    if not document["rounds"]:
        return ""
    figures = [
        _loss(document),
        _uplink(document),
        _saving(document),
        _seconds(document),
        _participants(document),
    ]
    if document["totals"]["energy_j"] is not None:
        figures.append(_energy(document))
    return f'<h2>What each round gave and cost</h2><div class="plots">{"".join(figures)}</div>'


def _loss(document: Values) -> str:
    series = [
        Series("held-out", "payload", tuple(heldout(document))),
        Series("training, on the devices", "second", _of(document, "train_loss")),
    ]
    labels = Labels(
        "Loss", "Held-out and training loss per adapter version.", "adapter version", "nats / token"
    )
    caption = "Held-out: of all devices that evaluate, by tokens. Training: by weight in the mean."
    plot = line_plot(series, labels, identity="loss")
    return _figure(labels, plot, series, caption=caption, rules=True)


def _uplink(document: Values) -> str:
    rounds = document["rounds"]
    layers = [
        Series(name, key, tuple((each["round_id"], float(each["wire"][key])) for each in rounds))
        for key, name, _ in KINDS
        if any(each["wire"][key] for each in rounds)
    ]
    labels = Labels(
        "Uplink per round",
        "Bytes of MQTT packets that devices sent in each round, by what they are.",
        "round",
        "bytes up",
        in_bytes,
    )
    dense = max(each["bytes_up_fp32"] for each in rounds)
    caption = f"Dense fp32 updates of the same participants: up to {bytes_text(dense)} a round"
    most = max(each["bytes_up"] for each in rounds)
    caption += f", {ratio_text(dense, most)} the highest bar." if most else "."
    return _figure(
        labels,
        bar_plot(layers, labels, identity="uplink"),
        layers,
        caption=caption + _bundle_text(len(rounds)),
    )


def _saving(document: Values) -> str:
    sent = dense = 0
    sent_points: list[Point] = [(0, 0.0)]
    dense_points: list[Point] = [(0, 0.0)]
    for each in document["rounds"]:
        sent += each["bytes_up"]
        dense += each["bytes_up_fp32"]
        sent_points.append((each["round_id"], float(sent)))
        dense_points.append((each["round_id"], float(dense)))
    series = [
        Series("dense fp32", "dense", tuple(dense_points)),
        Series("sent", "payload", tuple(sent_points)),
    ]
    labels = Labels(
        "Uplink, all rounds so far",
        "Bytes sent since the first round, beside what dense fp32 updates would have taken.",
        "round",
        "bytes up",
        in_bytes,
    )
    caption = f"What lies between the lines was saved: {bytes_text(dense - sent)}."
    plot = line_plot(series, labels, identity="saving", from_zero=True)
    return _figure(labels, plot, series, caption=caption, rules=True)


def _seconds(document: Values) -> str:
    layers = [Series("open to commit", "second", _of(document, "seconds"))]
    labels = Labels(
        "Time per round", "Seconds that each round was on.", "round", "time", in_seconds
    )
    caption = "Attempts and restarts counted." + _bundle_text(len(document["rounds"]))
    return _figure(labels, bar_plot(layers, labels, identity="time"), layers, caption=caption)


def _participants(document: Values) -> str:
    layers = [
        Series("complete", "payload", _of(document, "complete")),
        Series("partial", "framing", _of(document, "partial")),
        Series("late", "repeated", _of(document, "late")),
    ]
    labels = Labels(
        "Updates per round",
        "Updates in each round's mean, complete or in part, and those that came too late.",
        "round",
        "updates",
    )
    stale = sum(each["stale"] for each in document["rounds"])
    refused = sum(document["totals"]["refused"].values())
    caption = f"{stale} in the means were of earlier rounds (stale); {refused} messages refused."
    plot = bar_plot(layers, labels, identity="updates")
    return _figure(labels, plot, layers, caption=caption + _bundle_text(len(document["rounds"])))


def _energy(document: Values) -> str:
    idle: list[Point] = []
    above: list[Point] = []
    unknown: list[Point] = []
    for each in document["rounds"]:
        at, all_j, above_j = each["round_id"], each["energy_j"], each["energy_above_idle_j"]
        if all_j is None:
            continue
        if above_j is None:
            unknown.append((at, all_j))
        else:
            above.append((at, above_j))
            idle.append((at, max(0.0, all_j - above_j)))
    layers = [
        Series("above idling", "repeated", tuple(above)),
        Series("idling", "third", tuple(idle)),
        Series("not told apart", "unsplit", tuple(unknown)),
    ]
    layers = [layer for layer in layers if layer.points]
    labels = Labels(
        "Energy per round",
        "Joules that the devices which measure their power spent on each round.",
        "round",
        "joules",
    )
    most = max(each["energy_devices"] for each in document["rounds"])
    caption = f"Of up to {count_text(most, 'device')} that measured."
    return _figure(labels, bar_plot(layers, labels, identity="energy"), layers, caption=caption)


def _bundle_text(count: int) -> str:
    together = bundled(count)
    return f" Each bar is the mean of {together} rounds." if together > 1 else ""


def _figure(
    labels: Labels,
    plot: str,
    series: Sequence[Series],
    *,
    caption: str = "",
    rules: bool = False,
) -> str:
    key = "key rule" if rules else "key"
    legend = "".join(
        f'<li><span class="{key} {each.style}" aria-hidden="true"></span>{text(each.name)}</li>'
        for each in series
    )
    return (
        f'<figure><h3>{text(labels.title)}</h3><ul class="legend">{legend}</ul>{plot}'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
