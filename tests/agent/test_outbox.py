"""The outbox over crashes: reopened after each point at which a process can end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from agent.outbox import SETTLED_KEPT, Outbox, UnusablePayload
from agent.outputs import Upload
from agent.payload import PayloadError, write_payload
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
        self.outbox.remember_layout(small.LAYOUT_ROWS)

    def _open(self, **options: Any) -> Outbox:
        return Outbox(self.folder, client_id="dev-1", **options)

    def reopen(self, **options: Any) -> Outbox:
        self.outbox.close()
        self.outbox = self._open(**options)
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

    def leave_with_residual(self, round_id: int) -> Path:
        residual = self.outbox.residual_file()
        assert residual is not None
        delta = self.delta(round_id) + np.fromfile(residual, dtype="<f4")
        return self.leave(round_id, delta, residual_used=str(residual))

    def settle(
        self, upload: Upload, *accepted: int, state: ReceiptState = ReceiptState.PARTIAL
    ) -> None:
        total = len(upload.manifest.segments)
        reason = "" if state is ReceiptState.ACCEPTED else "late"
        self.outbox.settle(upload.uid, Receipt(1, state, reason, frozenset(accepted), total))

    def residual(self) -> Floats:
        path = self.outbox.residual_file()
        if path is None:
            return np.zeros(self.small.LAYOUT.size, dtype=np.float32)
        return np.fromfile(path, dtype="<f4")

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
    assert (manifest.client_id, manifest.seq, manifest.round_id) == ("dev-1", 1, 1)
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
    assert box.reopen().commit(box.leave(1)).manifest.seq == 2


def test_an_accepted_update_leaves_nothing(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, *range(len(upload.manifest.segments)), state=ReceiptState.ACCEPTED)
    assert box.outbox.waiting() == ()
    assert box.outbox.settled_rounds() == {1}
    assert box.outbox.residual_file() is None
    assert box.files("payloads") == []
    box.settle(upload, 0)
    assert box.outbox.residual_file() is None


def test_a_late_update_stays_whole(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, state=ReceiptState.LATE)
    np.testing.assert_array_equal(box.residual(), box.delta(1))


def test_of_a_partial_update_the_rest_stays(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, 0, 2)
    delta, residual = box.delta(1), box.residual()
    kept = residual != 0
    assert 0 < kept.sum() < delta.size
    np.testing.assert_array_equal(residual[kept], delta[kept])


def test_a_residual_decays(box: Box) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.reopen(residual_decay=0.5)
    box.settle(upload, state=ReceiptState.LATE)
    np.testing.assert_array_equal(box.residual(), box.delta(1) * np.float32(0.5))


def test_a_refused_update_is_dropped_and_said_so(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    upload = box.outbox.commit(box.leave(1))
    with caplog.at_level(logging.WARNING):
        box.settle(upload, state=ReceiptState.REFUSED)
    assert "was refused" in caplog.text
    assert box.outbox.residual_file() is None
    assert box.outbox.settled_rounds() == {1}


def test_a_residual_is_consumed_with_the_update_that_holds_it(box: Box) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    second = box.outbox.commit(box.leave_with_residual(2))
    assert box.outbox.residual_file() is None
    assert box.files("residuals") == []
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
    assert len(box.files("residuals")) == 1


def test_a_payload_whose_residual_went_another_way_is_not_sent(box: Box) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    second = box.outbox.commit(box.leave(2))
    path = box.leave_with_residual(3)
    box.settle(second, state=ReceiptState.LATE)
    merged = box.residual()
    with pytest.raises(UnusablePayload) as caught:
        box.outbox.commit(path)
    assert (caught.value.reason, caught.value.retryable) == ("residual", True)
    assert not path.exists()
    np.testing.assert_array_equal(box.residual(), merged)


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
    assert box.outbox.residual_file() is None


def test_a_crash_after_the_row_is_committed_doubles_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    path = box.leave_with_residual(2)
    with crash_at_commit(box, monkeypatch, after=True):
        box.outbox.commit(path)
    assert len(box.files("residuals")) == 1
    assert len(box.reopen().waiting()) == 1
    assert box.files("residuals") == []
    assert box.outbox.residual_file() is None


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_settling_neither_loses_nor_doubles(
    box: Box, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    upload = box.outbox.commit(box.leave(1))
    with crash_at_commit(box, monkeypatch, after=after):
        box.settle(upload, 0, state=ReceiptState.PARTIAL)
    assert len(box.files("payloads")) == len(box.files("residuals")) == 1
    box.reopen()
    assert box.outbox.waiting() == (() if after else (upload,))
    assert len(box.files("residuals")) == (1 if after else 0)
    box.settle(upload, 0, state=ReceiptState.PARTIAL)
    residual = box.residual()
    kept = residual != 0
    np.testing.assert_array_equal(residual[kept], box.delta(1)[kept])
    assert box.files("payloads") == []


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_merging_neither_loses_nor_doubles(
    box: Box, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    for round_id in (1, 2):
        box.settle(box.outbox.commit(box.leave(round_id)), state=ReceiptState.LATE)
    with crash_at_commit(box, monkeypatch, after=after):
        box.outbox.residual_file()
    assert len(box.files("residuals")) == 3
    box.reopen()
    np.testing.assert_allclose(box.residual(), box.delta(1) + box.delta(2), rtol=1e-5)
    assert len(box.files("residuals")) == 1


def test_what_is_of_no_use_is_removed_at_the_start(
    box: Box, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    upload = box.outbox.commit(box.leave(1))
    box.settle(upload, 0, state=ReceiptState.ACCEPTED)
    box.leave(1)  # settled: what a crash after the transaction leaves
    box.outbox.payload_file(small.RUN, 2).write_bytes(b"damaged")
    box.leave(3, run=small.OTHER_RUN)
    names = [
        box.outbox.payload_file(run, round_id).name + ".tmp"
        for run, round_id in ((small.RUN, 1), (small.RUN, 4), (small.OTHER_RUN, 1))
    ]
    for name in names:
        (box.folder / "payloads" / name).touch()
    (box.folder / "residuals" / "residual-9.f32").touch()
    with caplog.at_level(logging.WARNING):
        assert box.reopen().waiting() == ()
    # The trainer may be writing round 4 at this moment.
    assert box.files("payloads") == [names[1]]
    assert box.files("residuals") == []
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
    assert box.outbox.commit(box.leave(1)).manifest.seq == 1


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


@pytest.mark.parametrize("damage", ["payload", "layout", "receipt"])
def test_damage_costs_the_residual_and_nothing_else(
    box: Box, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    upload = box.outbox.commit(box.leave(1))
    accepted = (0,)
    if damage == "payload":
        box.outbox.payload_file(box.small.RUN, 1).write_bytes(b"")
    elif damage == "layout":
        box.outbox._database.rows("DELETE FROM layouts")
    else:
        accepted = (999,)
    with caplog.at_level(logging.WARNING):
        box.settle(upload, *accepted)
    assert "leaves no residual" in caplog.text
    assert box.outbox.settled_rounds() == {1}
    assert box.outbox.residual_file() is None


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
    assert "dropped 1 updates and 1 residuals" in caplog.text
    assert box.outbox.run == small.OTHER_RUN
    assert box.outbox.epoch == 0
    assert box.outbox.waiting() == ()
    assert box.outbox.settled_rounds() == frozenset()
    assert box.outbox.residual_file() is None
    assert box.files("payloads") == box.files("residuals") == []


def test_a_bounded_number_of_settled_rounds_is_remembered(box: Box) -> None:
    for round_id in (1, 2, SETTLED_KEPT + 1):
        upload = box.outbox.commit(box.leave(round_id))
        box.settle(upload, 0, state=ReceiptState.ACCEPTED)
    assert box.outbox.settled_rounds() == {2, SETTLED_KEPT + 1}


@pytest.mark.parametrize("damage", ["missing", "short", "not finite"])
def test_a_damaged_residual_is_dropped_and_the_others_stay(
    box: Box, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """A residual that no task can read would fail every round that is still to come."""
    for round_id in (1, 2):
        box.settle(box.outbox.commit(box.leave(round_id)), state=ReceiptState.LATE)
    first = box.folder / "residuals" / box.files("residuals")[0]
    match damage:
        case "missing":
            first.unlink()
        case "short":
            first.write_bytes(first.read_bytes()[:-4])
        case _:
            first.write_bytes(np.full(len(box.delta(1)), np.nan, dtype="<f4").tobytes())
    np.testing.assert_array_equal(box.residual(), box.delta(2))
    assert "damaged" in caplog.text
    assert len(box.files("residuals")) == 1
    (box.folder / "residuals" / box.files("residuals")[0]).unlink()
    assert box.outbox.residual_file() is None
    assert box.reopen().residual_file() is None


def test_a_payload_of_a_settled_round_is_of_no_use(box: Box) -> None:
    """As a trainer that runs as a service leaves, when it ends after its round."""
    box.settle(box.outbox.commit(box.leave(1)), state=ReceiptState.LATE)
    with pytest.raises(UnusablePayload, match="settled"):
        box.outbox.commit(box.leave(1))
    assert box.files("payloads") == []


def test_a_payload_under_another_rounds_name_is_of_no_use(box: Box) -> None:
    box.outbox.commit(box.leave(1))
    path = box.outbox.payload_file(box.small.RUN, 2)
    box.small.leave_payload(path, box.delta(1), round_id=1)
    assert len(box.reopen().waiting()) == 1
    assert not path.exists()
