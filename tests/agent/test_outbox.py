"""The outbox over crashes: reopened after each point at which a process can end."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.leftovers import add_leftovers
from agent.outbox import SETTLED_KEPT, Outbox, UnusablePayload
from agent.outputs import Upload
from agent.pauses import OperatorHold
from agent.payload import PayloadError, read_encoded, read_header, read_segment, write_payload
from codec.layout import Layout
from codec.update import decode
from transport import frame
from transport.messages import Receipt, ReceiptState

Floats = npt.NDArray[np.float32]


class Crash(BaseException):
    """The process ends here."""


class Box:
    """A state folder whose outbox is opened again and again."""

    def __init__(self, folder: Path, small: Any) -> None:
        self.folder = folder
        self.small = small
        self.outbox = self._open()
        self.outbox.begin_run(small.RUN)

    def _open(self) -> Outbox:
        return Outbox(self.folder, client_id="dev-1")

    def reopen(self) -> Outbox:
        self.outbox.close()
        self.outbox = self._open()
        return self.outbox

    def delta(self, seed: int) -> Floats:
        rng = np.random.default_rng(seed)
        return rng.normal(size=self.small.LAYOUT.size).astype(np.float32)

    def leave(self, round_id: int, delta: Floats | None = None, **changes: Any) -> Path:
        """Do what the trainer does: leave a payload, the residual in it."""
        path = self.outbox.payload_file(self.small.RUN, round_id)
        delta = self.delta(round_id) if delta is None else delta
        self.small.leave_payload(path, delta, round_id=round_id, **changes)
        return path

    def leave_with_residual(self, round_id: int, **changes: Any) -> Path:
        leftovers = self.outbox.leftovers()
        delta = self.delta(round_id)
        add_leftovers(delta, leftovers, layout=self.small.LAYOUT, decay=1.0)
        numbers = tuple(leftover.number for leftover in leftovers)
        return self.leave(round_id, delta, leftovers_used=numbers, **changes)

    def settle(
        self, upload: Upload, *accepted: int, state: ReceiptState = ReceiptState.PARTIAL
    ) -> None:
        total = len(upload.manifest.segments)
        reason = "" if state is ReceiptState.ACCEPTED else "late"
        self.outbox.settle(upload.uid, Receipt(1, state, reason, frozenset(accepted), total))

    def residual(self) -> Floats:
        """Return everything that receipts have left on the device."""
        residual = np.zeros(self.small.LAYOUT.size, dtype=np.float32)
        add_leftovers(residual, self.outbox.leftovers(), layout=self.small.LAYOUT, decay=1.0)
        return residual

    def files(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).iterdir())


@pytest.fixture
def box(tmp_path: Path, small: Any) -> Iterator[Box]:
    box = Box(tmp_path / "s", small)
    yield box
    box.outbox.close()


@contextmanager
def crash_at_commit(box: Box, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> Iterator[None]:
    """End the process at the next transaction's COMMIT, just before it or just after."""
    database = box.outbox._database
    transaction = database.transaction

    @contextmanager
    def crashing() -> Iterator[Any]:
        with transaction() as connection:
            yield connection
            if not after:
                raise Crash
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):  # noqa: PT012 - yields to a test
        patch.setattr(database, "transaction", crashing)
        yield


def test_an_update_becomes_a_manifest_and_its_segments(box: Box, small: Any) -> None:
    path = box.leave(1)
    upload = box.outbox.commit(path)
    manifest = upload.manifest
    assert upload.uid == frame.uid(manifest)
    assert (manifest.client_id, manifest.round_id) == ("dev-1", 1)
    assert manifest.layout_digest == small.LAYOUT.digest
    for index, entry in enumerate(manifest.segments):
        assert len(box.outbox.segment(upload.uid, index)) == entry.length
    assert box.outbox.commit(path) == upload
    assert box.reopen().waiting() == (upload,)


def test_counts_of_updates_are_never_reused(box: Box, small: Any) -> None:
    first = box.outbox.commit(box.leave(1))
    box.settle(first, *range(len(first.manifest.segments)), state=ReceiptState.ACCEPTED)
    box.outbox.begin_run(small.OTHER_RUN)
    box.outbox.begin_run(small.RUN)
    assert box.reopen().commit(box.leave(1)).manifest.seq == first.manifest.seq + 1


def test_a_copy_goes_on_counting_where_the_outbox_was_and_a_new_one_elsewhere(
    box: Box, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an aggregator can tell a device that was copied from one that was set up anew."""
    drawn = [70]
    monkeypatch.setattr("agent.outbox.secrets.randbelow", lambda most: drawn[-1] % most)
    first = box.outbox.commit(box.leave(1))
    box.settle(first, *range(len(first.manifest.segments)), state=ReceiptState.ACCEPTED)
    shutil.copytree(box.folder, tmp_path / "copy")
    new = Box(tmp_path / "new", small)
    copy = Box(tmp_path / "copy", small)
    drawn.append(700)
    seqs = [one.outbox.commit(one.leave(2)).manifest.seq for one in (box, copy, new)]
    assert (first.manifest.seq, seqs) == (71, [72, 72, 701])
    for one in (new, copy):
        one.outbox.close()


def test_an_accepted_update_leaves_nothing(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, *range(len(upload.manifest.segments)), state=ReceiptState.ACCEPTED)
    assert box.outbox.waiting() == ()
    assert box.outbox.settled_rounds() == {1}
    assert box.outbox.leftovers() == ()
    assert box.files("payloads") == []
    box.settle(upload, 0)
    assert box.outbox.leftovers() == ()


def test_a_late_update_stays_whole(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, state=ReceiptState.LATE)
    np.testing.assert_array_equal(box.residual(), box.delta(1))


def test_a_late_update_that_the_policy_throws_away_is_freed_and_told(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    for reason, kept in (("late", 1), ("dropped", 1)):
        upload = box.outbox.commit(box.leave(1 if reason == "late" else 2))
        receipt = Receipt(1, ReceiptState.LATE, reason, frozenset(), len(upload.manifest.segments))
        with caplog.at_level(logging.WARNING):
            box.outbox.settle(upload.uid, receipt)
        assert upload.uid in caplog.text
        assert len(box.outbox.leftovers()) == kept
    assert "thrown away" in caplog.text
    assert box.outbox.settled_rounds() == {1, 2}
    assert len(box.files("payloads")) == 1


def test_what_is_known_of_the_link_outlives_restarts_and_runs(box: Box) -> None:
    assert (box.outbox.goodput_bps, box.outbox.train_s) == (None, None)
    box.outbox.remember_goodput(180_000.5)
    box.outbox.remember_training(12.25)
    assert (box.reopen().goodput_bps, box.outbox.train_s) == (180_000.5, 12.25)
    box.outbox.begin_run(box.small.OTHER_RUN)
    assert (box.reopen().goodput_bps, box.outbox.train_s) == (180_000.5, None)


def test_what_an_operator_said_outlives_restarts_and_runs(box: Box) -> None:
    assert box.outbox.hold is None
    hold = OperatorHold(drains=True, words='new fan — "soon"')
    box.outbox.remember_hold(hold)
    assert box.reopen().hold == hold
    box.outbox.begin_run(box.small.OTHER_RUN)
    assert box.reopen().hold == hold
    box.outbox.remember_hold(None)
    assert box.reopen().hold is None


def test_of_a_partial_update_the_rest_stays(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, 0, 2)
    delta, residual = box.delta(1), box.residual()
    kept = residual != 0
    assert 0 < kept.sum() < delta.size
    np.testing.assert_array_equal(residual[kept], delta[kept])


def test_a_refused_update_is_dropped_and_said_so(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    upload = box.outbox.commit(box.leave(1))
    with caplog.at_level(logging.WARNING):
        box.settle(upload, state=ReceiptState.REFUSED)
    assert "was refused" in caplog.text
    assert box.outbox.leftovers() == ()
    assert box.outbox.settled_rounds() == {1}


def test_a_residual_is_consumed_with_the_update_that_holds_it(box: Box) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    second = box.outbox.commit(box.leave_with_residual(2))
    assert box.outbox.leftovers() == ()
    box.settle(second, state=ReceiptState.LATE)
    np.testing.assert_allclose(box.residual(), box.delta(1) + box.delta(2), rtol=1e-6)


def test_what_a_receipt_leaves_during_a_task_goes_into_the_next(box: Box) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    second = box.outbox.commit(box.leave(2))
    path = box.leave_with_residual(3)
    box.settle(second, state=ReceiptState.LATE)
    box.outbox.commit(path)
    np.testing.assert_array_equal(box.residual(), box.delta(2))


def test_residuals_add_up(box: Box) -> None:
    uploads = [box.outbox.commit(box.leave(round_id)) for round_id in (1, 2, 3)]
    for upload in uploads:
        box.settle(upload, state=ReceiptState.LATE)
    expected = box.delta(1) + box.delta(2) + box.delta(3)
    np.testing.assert_allclose(box.residual(), expected, rtol=1e-5)
    box.outbox.commit(box.leave_with_residual(4))
    assert box.outbox.leftovers() == ()
    assert len(box.files("payloads")) == 1


def test_a_payload_whose_residual_went_another_way_is_not_sent(box: Box) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    path = box.leave_with_residual(2)
    box.outbox.commit(box.leave_with_residual(3))
    with pytest.raises(UnusablePayload) as caught:
        box.outbox.commit(path)
    assert (caught.value.reason, caught.value.retryable) == ("residual", True)
    assert not path.exists()


# -- crashes ---------------------------------------------------------------------------------------


def test_a_payload_without_a_row_is_adopted(box: Box) -> None:
    box.leave(1)
    (upload,) = box.reopen().waiting()
    assert upload.manifest.round_id == 1


def test_a_crash_before_the_row_is_committed_loses_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    path = box.leave_with_residual(2)
    with crash_at_commit(box, monkeypatch, after=False):
        box.outbox.commit(path)
    (upload,) = box.reopen().waiting()
    assert upload.manifest.round_id == 2
    assert box.outbox.leftovers() == ()


def test_a_crash_after_the_row_is_committed_doubles_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    path = box.leave_with_residual(2)
    with crash_at_commit(box, monkeypatch, after=True):
        box.outbox.commit(path)
    assert len(box.files("payloads")) == 2
    assert len(box.reopen().waiting()) == 1
    assert len(box.files("payloads")) == 1
    assert box.outbox.leftovers() == ()


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_settling_neither_loses_nor_doubles(
    box: Box, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    upload = box.outbox.commit(box.leave(1))
    with crash_at_commit(box, monkeypatch, after=after):
        box.settle(upload, 0, state=ReceiptState.PARTIAL)
    box.reopen()
    assert box.outbox.waiting() == (() if after else (upload,))
    assert len(box.outbox.leftovers()) == (1 if after else 0)
    box.settle(upload, 0, state=ReceiptState.PARTIAL)
    residual = box.residual()
    kept = residual != 0
    np.testing.assert_array_equal(residual[kept], box.delta(1)[kept])
    assert len(box.files("payloads")) == 1
    assert len(box.reopen().leftovers()) == 1


def test_what_is_of_no_use_is_removed_at_the_start(
    box: Box, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, *range(len(upload.manifest.segments)), state=ReceiptState.ACCEPTED)
    box.leave(1)  # settled: what a crash after the transaction leaves
    box.outbox.payload_file(small.RUN, 2).write_bytes(b"damaged")
    box.leave(3, run=small.OTHER_RUN)
    names = [
        box.outbox.payload_file(run, round_id).name + ".tmp"
        for run, round_id in ((small.RUN, 1), (small.RUN, 4), (small.OTHER_RUN, 1))
    ]
    for name in names:
        (box.folder / "payloads" / name).touch()
    with caplog.at_level(logging.WARNING):
        assert box.reopen().waiting() == ()
    # The trainer may be writing round 4 at this moment.
    assert box.files("payloads") == [names[1]]
    assert "dropped payload" in caplog.text


# -- damage and limits -----------------------------------------------------------------------------


def test_a_damaged_payload_is_trained_again(box: Box) -> None:
    path = box.leave(1)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UnusablePayload) as caught:
        box.outbox.commit(path)
    assert (caught.value.reason, caught.value.retryable) == ("payload", True)
    with pytest.raises(UnusablePayload, match="No such file"):
        box.outbox.commit(path)


def test_an_update_whose_manifest_fits_no_packet_is_never_sent(box: Box, small: Any) -> None:
    bodies = [b"x"] * 4000
    path = box.outbox.payload_file(small.RUN, 1)
    write_payload(path, small.header((1,) * 4000), bodies)
    with pytest.raises(UnusablePayload) as caught:
        box.outbox.commit(path)
    assert (caught.value.reason, caught.value.retryable) == ("oversized", False)
    first = box.outbox.commit(box.leave(2)).manifest.seq
    with pytest.raises(UnusablePayload):
        box.outbox.commit(path)
    assert box.outbox.commit(box.leave(3)).manifest.seq == first + 1


def test_a_payload_of_another_run_is_refused(box: Box, small: Any) -> None:
    path = box.leave(1, run=small.OTHER_RUN)
    with pytest.raises(UnusablePayload, match="another run"):
        box.outbox.commit(path)


def test_segments_that_the_disk_lost_are_an_error_of_the_payload(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.outbox.payload_file(box.small.RUN, 1).unlink()
    with pytest.raises(PayloadError):
        box.outbox.segment(upload.uid, 0)
    box.outbox.discard(upload.uid)
    assert box.outbox.waiting() == ()
    assert box.outbox.settled_rounds() == frozenset()
    with pytest.raises(PayloadError, match="not in the outbox"):
        box.outbox.segment(upload.uid, 0)


def test_a_damaged_payload_leaves_nothing(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.outbox.payload_file(box.small.RUN, 1).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        box.settle(upload, 0)
    assert "leaves no residual" in caplog.text
    assert box.outbox.settled_rounds() == {1}
    assert box.outbox.leftovers() == ()


# -- runs ------------------------------------------------------------------------------------------


def test_another_run_clears_what_belongs_to_the_one_before(
    box: Box, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    box.outbox.commit(box.leave(2))
    box.outbox.remember_epoch(7)
    assert box.reopen().epoch == 7
    with caplog.at_level(logging.WARNING):
        box.outbox.begin_run(small.RUN)
        assert "dropped" not in caplog.text
        box.outbox.begin_run(small.OTHER_RUN)
    assert "dropped 1 updates and 1 leftovers" in caplog.text
    assert box.outbox.run == small.OTHER_RUN
    assert box.outbox.epoch == 0
    assert box.outbox.waiting() == ()
    assert box.outbox.settled_rounds() == frozenset()
    assert box.outbox.leftovers() == ()
    assert box.files("payloads") == []


def test_a_bounded_number_of_settled_rounds_is_remembered(box: Box) -> None:
    for round_id in (1, 2, SETTLED_KEPT + 1):
        upload = box.outbox.commit(box.leave(round_id))
        box.settle(upload, *range(len(upload.manifest.segments)), state=ReceiptState.ACCEPTED)
    assert box.outbox.settled_rounds() == {2, SETTLED_KEPT + 1}


def test_a_payload_of_a_settled_round_is_of_no_use(box: Box) -> None:
    """As a trainer that runs as a service leaves, when it ends after its round."""
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, *range(len(upload.manifest.segments)), state=ReceiptState.ACCEPTED)
    with pytest.raises(UnusablePayload, match="settled"):
        box.outbox.commit(box.leave(1))
    assert box.files("payloads") == []


def test_a_payload_that_still_has_something_to_give_is_not_deleted(box: Box) -> None:
    path = box.leave(1)
    box.settle(box.outbox.commit(path), state=ReceiptState.LATE)
    with pytest.raises(UnusablePayload, match="settled"):
        box.outbox.commit(path)
    np.testing.assert_array_equal(box.residual(), box.delta(1))


def test_a_payload_under_another_rounds_name_is_of_no_use(box: Box) -> None:
    box.outbox.commit(box.leave(1))
    path = box.outbox.payload_file(box.small.RUN, 2)
    box.small.leave_payload(path, box.delta(1), round_id=1)
    assert len(box.reopen().waiting()) == 1
    assert not path.exists()


# -- error feedback --------------------------------------------------------------------------------


def test_with_feedback_even_an_accepted_update_leaves_what_the_codec_dropped(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1, codec="fstq", feedback=True))
    bodies = [box.outbox.segment(upload.uid, index) for index in range(_segments(upload))]
    box.settle(upload, *range(_segments(upload)), state=ReceiptState.ACCEPTED)
    sent = decode(
        "fstq", dict(enumerate(bodies)), layout=box.small.LAYOUT, segment_count=len(bodies)
    )
    residual = box.residual()
    assert residual.any()
    np.testing.assert_allclose(residual + sent, box.delta(1), atol=1e-6)


def test_an_exchangeable_update_leaves_nothing_once_anything_is_accepted(box: Box) -> None:
    first = box.outbox.commit(box.leave(1, codec="eden"))
    box.settle(first, 0)
    assert box.outbox.leftovers() == ()
    assert box.files("payloads") == []
    late = box.outbox.commit(box.leave(2, codec="eden"))
    box.settle(late, state=ReceiptState.LATE)
    assert box.residual().any()


ROUNDS = st.lists(
    st.tuples(
        st.sampled_from(["accepted", "partial", "late", "refused", "pending"]),
        st.sampled_from(["", "before-row", "after-row", "before-receipt", "after-receipt"]),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("codec", ["fstq", "fp32", "sign", "top-k"])
@pytest.mark.parametrize("feedback", [False, True])
@given(script=ROUNDS)
@settings(
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_nothing_is_lost_and_nothing_is_counted_twice(
    codec: str,
    script: list[tuple[str, str, int]],
    tmp_path_factory: pytest.TempPathFactory,
    small: Any,
    *,
    feedback: bool,
) -> None:
    """What was trained is what receipts accepted, what was refused, and what is still here.

    Without feedback, what the codec dropped is a fourth part.
    """
    box = Box(tmp_path_factory.mktemp("box") / "s", small)
    layout = small.LAYOUT
    trained, gone = np.zeros(layout.size), np.zeros(layout.size)
    waiting: list[tuple[Upload, str, int, str]] = []
    try:
        for round_id, (outcome, crash, seed) in enumerate(script, start=1):
            trained += box.delta(round_id)
            path = box.leave_with_residual(round_id, codec=codec, feedback=feedback)
            if not feedback:
                gone += _encoded(box, round_id) - _decoded(path, layout)
            with crashing(box, crash, "row"):
                box.outbox.commit(path)
            waiting.append((box.outbox.waiting()[-1], outcome, seed, crash))
            still = []
            for upload, told, chosen, at in waiting:
                if told == "pending" and round_id < len(script):
                    still.append((upload, ("late", "partial")[chosen % 2], chosen, at))
                    continue
                gone += _settle(box, upload, told, chosen, at, feedback=feedback)
            waiting = still
        here = box.residual().astype(np.float64)
        for upload in box.outbox.waiting():
            path = box.outbox.payload_file(small.RUN, upload.manifest.round_id)
            here += read_encoded(path, read_header(path)) if feedback else _decoded(path, layout)
        np.testing.assert_allclose(gone + here, trained, atol=2e-5)
    finally:
        box.outbox.close()


def _settle(
    box: Box, upload: Upload, told: str, seed: int, crash: str, *, feedback: bool
) -> npt.NDArray[np.float64]:
    """Bring a receipt, perhaps with a crash, and return what has left the device by it."""
    layout = box.small.LAYOUT
    path = box.outbox.payload_file(box.small.RUN, upload.manifest.round_id)
    total = _segments(upload)
    chosen = {index for index in range(total) if seed >> (index % 32) & 1}
    match told:
        case "accepted":
            accepted, state = set(range(total)), ReceiptState.ACCEPTED
        case "partial" if chosen:
            accepted, state = chosen, ReceiptState.PARTIAL
        case "refused":
            accepted, state = set(), ReceiptState.REFUSED
        case "pending":
            return np.zeros(layout.size)
        case _:
            accepted, state = set(), ReceiptState.LATE
    if state is ReceiptState.REFUSED and feedback:
        left = read_encoded(path, read_header(path)).astype(np.float64)
    elif state is ReceiptState.REFUSED:
        left = _decoded(path, layout)
    else:
        left = _decoded(path, layout, accepted)
    with crashing(box, crash, "receipt"):
        box.settle(upload, *accepted, state=state)
    box.settle(upload, *accepted, state=state)  # told once more, as after a lost connection
    return left


@contextmanager
def crashing(box: Box, crash: str, at: str) -> Iterator[None]:
    """Let the process end before or after the commit, and start it anew; or let it live."""
    if not crash.endswith(at):
        yield
        return
    after = crash.startswith("after")
    with pytest.MonkeyPatch.context() as patch, crash_at_commit(box, patch, after=after):
        yield
        raise Crash  # the second receipt of a settled update commits nothing
    box.reopen()


def _segments(upload: Upload) -> int:
    return len(upload.manifest.segments)


def _encoded(box: Box, round_id: int) -> npt.NDArray[np.float64]:
    """Return what went into the payload that a round just left, with what was left before."""
    delta = box.delta(round_id)
    add_leftovers(delta, box.outbox.leftovers(), layout=box.small.LAYOUT, decay=1.0)
    return delta.astype(np.float64)


def _decoded(
    path: Path, layout: Layout, accepted: Collection[int] | None = None
) -> npt.NDArray[np.float64]:
    header = read_header(path)
    chosen = range(len(header.lengths)) if accepted is None else accepted
    bodies = {index: read_segment(path, header, index) for index in chosen}
    return decode(header.codec, bodies, layout=layout, segment_count=len(header.lengths)).astype(
        np.float64
    )
