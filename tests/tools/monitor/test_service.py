from __future__ import annotations

from typing import Any

from tools.monitor.service import model_row, no_model, round_row, run_row, service_row
from transport import control, topics
from transport.control import RoundPhase, ServiceState

RUN = "5f0c9d1e7a324b6f8c1d2e3f4a5b6c7d"


def test_what_is_unknown_has_the_same_keys(desk: Any) -> None:
    before = desk.monitor.snapshot()
    status = control.ServiceStatus(ServiceState.RUNNING, "8c1f", "0.1.0", run=RUN, epoch=3)
    desk.hear(topics.CoordStatus(), status)
    desk.run()
    desk.round()
    desk.hear(topics.Model(), control.ModelStatus(RUN, 6, "3e", 18_350_080, 560))
    after = desk.monitor.snapshot()
    for section in ("service", "run", "round", "model"):
        assert before[section].keys() == after[section].keys()
        assert before[section] != after[section]
    assert before["service"] == service_row(None, since_s=None)
    assert before["run"] == run_row(None)
    assert before["model"] == no_model()
    assert before["round"] == round_row(None, deadline_at_s=None, segments=(0, 0, 0), rounds=0)
    assert after["model"] == model_row(control.ModelStatus(RUN, 6, "3e", 18_350_080, 560))


def test_the_aggregators_state_has_a_beginning_and_a_reason(desk: Any) -> None:
    desk.hear(topics.CoordStatus(), control.ServiceStatus(ServiceState.WAITING, "s", "0.1.0"))
    desk.now += 10
    status = control.ServiceStatus(ServiceState.WAITING, "s", "0.1.0", "2 of 4 devices")
    desk.hear(topics.CoordStatus(), status)
    service = desk.monitor.snapshot()["service"]
    assert (service["since_s"], service["words"]) == (1000.0, "aggregator waiting: 2 of 4 devices")
    desk.hear(topics.CoordStatus(), None)
    assert desk.monitor.snapshot()["service"]["state"] == "unknown"


def test_a_round_is_told_in_words_and_by_segments(desk: Any) -> None:
    desk.run()
    desk.round(7, deadline_s=400.0, stalled=1)
    desk.upload("a", accepted=14, sent=20, resent=3)
    desk.upload("b", accepted=40, sent=40)
    desk.upload("c", accepted=40, sent=40, round_id=6)
    told = desk.monitor.snapshot()["round"]
    assert told["words"] == "round 7 of 20: 5 of 8 updates, 2 on their way, 1 stalled"
    assert told["deadline_at_s"] == 1400.0
    sums = (told["segments"], told["segments_accepted"], told["segments_resent"])
    assert sums == (80, 54, 3)


def test_a_round_that_is_over_has_no_deadline(desk: Any) -> None:
    desk.round(7, phase=RoundPhase.ABANDONED)
    told = desk.monitor.snapshot()["round"]
    assert (told["words"], told["deadline_at_s"]) == ("round 7 abandoned", None)


def test_another_run_begins_anew(desk: Any) -> None:
    desk.run()
    desk.round(7)
    desk.summary(6)
    desk.run("ab" * 16)
    snapshot = desk.monitor.snapshot()
    assert (snapshot["rounds"], snapshot["losses"]) == ({}, {})
    assert snapshot["round"]["round_id"] == 0
    assert snapshot["savings"]["rounds"] == 0


def test_what_a_run_left_behind_is_not_taken_for_the_new_ones(desk: Any) -> None:
    desk.run("ab" * 16)
    desk.summary(6)
    assert desk.monitor.snapshot()["rounds"] == {}


def test_a_round_that_comes_before_its_run_is_announced_is_not_lost(desk: Any) -> None:
    """Retained messages come in any order, after a reconnect as well."""
    desk.run("ab" * 16)
    desk.summary(6)
    desk.round(7)
    desk.run(RUN)
    snapshot = desk.monitor.snapshot()
    assert list(snapshot["rounds"]) == ["6"]
    assert snapshot["round"]["round_id"] == 7


def test_the_first_run_that_is_heard_of_counts_before_any_is_announced(desk: Any) -> None:
    desk.summary(6)
    desk.run(RUN)
    assert list(desk.monitor.snapshot()["rounds"]) == ["6"]
