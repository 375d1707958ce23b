"""The outbox on a real disk against a model, with the process ending between and inside its steps.

What was trained in a round is a token. A payload holds its own round's token and those of the
leftovers that went into it. No token may ever be lost or be in two updates, whatever ends when.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.database import Database
from agent.outbox import Outbox, UnusablePayload
from agent.payload import read_header, read_segment
from transport import frame
from transport.messages import Receipt, ReceiptState

RUNS = ("0123456789abcdef" * 2, "f" * 32)


class Crash(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Waiting:
    """An update that has no receipt, as the model has it."""

    uid: str
    seq: int
    tokens: frozenset[int]


@dataclass(frozen=True)
class Left:
    """What a receipt has left behind, as the model has it."""

    name: str
    accepted: frozenset[int]
    tokens: frozenset[int]


@dataclass(frozen=True)
class Payload:
    """A file that the trainer has left, which no row names yet."""

    path: Path
    round_id: int
    used: frozenset[int]
    usable: bool


moments = st.sampled_from(["none", "none", "before", "after"])


def machine(small: Any) -> type[RuleBasedStateMachine]:
    class OnDisk(RuleBasedStateMachine):
        """One state folder."""

        @initialize()
        def begin(self) -> None:
            # In memory where there is such a folder: no crash here is one of the machine.
            memory = Path("/dev/shm")
            folder = memory if memory.is_dir() else None
            self.root = Path(tempfile.mkdtemp(prefix="outbox-", dir=folder))
            self.outbox = self.open()
            self.run = RUNS[0]
            self.outbox.begin_run(self.run)
            self.round = 0
            self.epoch = 0
            self.numbers = 0
            self.waiting: dict[int, Waiting] = {}
            self.left: dict[int, Left] = {}
            self.settled: set[int] = set()
            self.trained: set[int] = set()
            self.gone: list[int] = []  # tokens that a receipt has counted, refused or dropped
            self.files: dict[int, Payload] = {}
            self.seqs: list[int] = []
            self.kept: dict[str, tuple[bytes, ...]] = {}

        def open(self) -> Outbox:
            return Outbox(self.root, client_id="dev-1")

        # -- the trainer -------------------------------------------------------------------------

        @rule(damaged=st.integers(0, 5), takes=st.booleans())
        def train(self, damaged: int, *, takes: bool) -> None:
            """Leave a payload, with what earlier receipts left in it."""
            self.round += 1
            used = self.outbox.leftovers() if takes else ()
            numbers = tuple(leftover.number for leftover in used)
            path = self.outbox.payload_file(self.run, self.round)
            delta = np.random.default_rng(self.round).normal(size=small.LAYOUT.size)
            small.leave_payload(
                path,
                delta.astype(np.float32),
                run=self.run,
                round_id=self.round,
                leftovers_used=numbers,
            )
            if damaged == 0:
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2])
            else:
                self.trained.add(self.round)
            self.files[self.round] = Payload(
                path, self.round, frozenset(numbers), usable=damaged != 0
            )

        # -- the session -------------------------------------------------------------------------

        @precondition(lambda self: self.files)
        @rule(data=st.data(), crash=moments)
        def commit(self, data: st.DataObject, crash: str) -> None:
            payload = self.files[data.draw(st.sampled_from(sorted(self.files)))]
            if not self.fits(payload):
                with pytest.raises(UnusablePayload):
                    self.outbox.commit(payload.path)
                self.drop(payload)
                return
            with self.ending(crash):
                self.outbox.commit(payload.path)
            if crash != "before":
                self.enter(payload)
                self.end_of(crash)
            else:
                self.reopen()

        @precondition(lambda self: self.waiting)
        @rule(data=st.data())
        def commit_again(self, data: st.DataObject) -> None:
            """The same payload is told twice: nothing changes."""
            round_id = data.draw(st.sampled_from(sorted(self.waiting)))
            upload = self.outbox.commit(self.outbox.payload_file(self.run, round_id))
            assert upload.uid == self.waiting[round_id].uid

        @precondition(lambda self: self.waiting)
        @rule(data=st.data(), crash=moments, twice=st.booleans())
        def settle(self, data: st.DataObject, crash: str, *, twice: bool) -> None:
            round_id = data.draw(st.sampled_from(sorted(self.waiting)))
            update = self.waiting[round_id]
            total = len(self.kept[update.uid])
            kinds = ["accepted", "refused", "late", "partial"]
            told = data.draw(st.sampled_from(kinds if total > 1 else kinds[:-1]))
            accepted: frozenset[int] = frozenset()
            if told == "accepted":
                accepted = frozenset(range(total))
            elif told == "partial":
                some = st.sets(st.integers(0, total - 1), min_size=1, max_size=total - 1)
                accepted = frozenset(data.draw(some))
            reason = {"accepted": "", "refused": "magnitude"}.get(told, told)
            receipt = Receipt(1, ReceiptState(told), reason, accepted, total)
            with self.ending(crash):
                self.outbox.settle(update.uid, receipt)
            if crash == "before":
                self.reopen()
                return
            del self.waiting[round_id]
            self.settled.add(round_id)
            if told in {"late", "partial"}:
                self.numbers += 1
                name = self.outbox.payload_file(self.run, round_id).name
                self.left[self.numbers] = Left(name, accepted, update.tokens)
            else:
                self.gone += update.tokens
            self.end_of(crash)
            if twice:
                self.outbox.settle(update.uid, receipt)

        @precondition(lambda self: self.waiting)
        @rule(data=st.data(), seldom=st.integers(0, 4))
        def discard(self, data: st.DataObject, seldom: int) -> None:
            if seldom:
                return
            round_id = data.draw(st.sampled_from(sorted(self.waiting)))
            update = self.waiting.pop(round_id)
            self.outbox.discard(update.uid)
            self.gone += update.tokens

        @rule(more=st.integers(1, 3))
        def hear_of_an_epoch(self, more: int) -> None:
            self.epoch += more
            self.outbox.remember_epoch(self.epoch)

        @rule(seldom=st.integers(0, 9))
        def begin_another_run(self, seldom: int) -> None:
            if seldom:
                self.outbox.begin_run(self.run)  # told again: nothing changes
                return
            self.run = RUNS[1 - RUNS.index(self.run)]
            self.outbox.begin_run(self.run)
            self.epoch = 0
            for kept in (self.waiting, self.left, self.settled, self.files, self.trained):
                kept.clear()
            self.gone.clear()

        @rule()
        def reopen(self) -> None:
            """The process ends between two steps, and the next one cleans up and adopts."""
            self.outbox.close()
            self.outbox = self.open()
            for payload in sorted(self.files.values(), key=lambda payload: payload.path):
                if self.fits(payload):
                    self.enter(payload)
                else:
                    self.drop(payload)

        # -- what holds at all times -------------------------------------------------------------

        @invariant()
        def rows_are_the_model_s(self) -> None:
            found = {
                upload.manifest.round_id: (upload.uid, upload.manifest.seq)
                for upload in self.outbox.waiting()
            }
            wanted = {round_id: (one.uid, one.seq) for round_id, one in self.waiting.items()}
            assert found == wanted
            assert self.outbox.settled_rounds() == self.settled
            assert self.outbox.epoch == self.epoch
            assert self.outbox.run == self.run
            left = {
                leftover.number: (leftover.payload_file.name, frozenset(leftover.accepted))
                for leftover in self.outbox.leftovers()
            }
            assert left == {number: (one.name, one.accepted) for number, one in self.left.items()}

        @invariant()
        def every_token_is_in_one_place(self) -> None:
            here = [token for one in self.waiting.values() for token in one.tokens]
            here += [token for one in self.left.values() for token in one.tokens]
            here += self.gone
            assert len(here) == len(set(here)), "counted twice"
            assert set(here) | set(self.files) >= self.trained, "lost"

        @invariant()
        def what_waits_is_on_the_disk_as_it_was_trained(self) -> None:
            for one in self.waiting.values():
                for index, body in enumerate(self.kept[one.uid]):
                    assert self.outbox.segment(one.uid, index) == body
            for leftover in self.outbox.leftovers():
                read_header(leftover.payload_file)

        @invariant()
        def no_other_file_is_kept(self) -> None:
            named = {self.outbox.payload_file(self.run, round_id) for round_id in self.waiting}
            named |= {leftover.payload_file for leftover in self.outbox.leftovers()}
            named |= {payload.path for payload in self.files.values()}
            assert set((self.root / "payloads").iterdir()) == named

        @invariant()
        def no_seq_comes_again(self) -> None:
            assert self.seqs == sorted(set(self.seqs))

        def teardown(self) -> None:
            if hasattr(self, "outbox"):
                self.outbox.close()
                shutil.rmtree(self.root)

        # -- how it works ------------------------------------------------------------------------

        def fits(self, payload: Payload) -> bool:
            return payload.usable and payload.used <= self.left.keys()

        def drop(self, payload: Payload) -> None:
            """It is trained once more: nothing of it was ever in an update."""
            del self.files[payload.round_id]
            self.trained.discard(payload.round_id)

        def enter(self, payload: Payload) -> None:
            """Note that a payload has become an update, and took its leftovers with it."""
            (upload,) = (
                upload
                for upload in self.outbox.waiting()
                if upload.manifest.round_id == payload.round_id
            )
            assert frame.uid(upload.manifest) == upload.uid
            tokens = {payload.round_id}
            for number in payload.used:
                tokens |= self.left.pop(number).tokens
            seq = upload.manifest.seq
            self.waiting[payload.round_id] = Waiting(upload.uid, seq, frozenset(tokens))
            self.seqs.append(seq)
            header = read_header(payload.path)
            self.kept[upload.uid] = tuple(
                read_segment(payload.path, header, index) for index in range(len(header.lengths))
            )
            del self.files[payload.round_id]

        def end_of(self, crash: str) -> None:
            if crash == "after":
                self.reopen()

        @contextmanager
        def ending(self, crash: str) -> Iterator[None]:
            """End the process just before or just after the next transaction's COMMIT."""
            if crash == "none":
                yield
                return
            transaction = Database.transaction

            @contextmanager
            def ended(database: Database) -> Iterator[Any]:
                with transaction(database) as connection:
                    yield connection
                    if crash == "before":
                        raise Crash
                raise Crash

            with mock.patch.object(Database, "transaction", ended), pytest.raises(Crash):
                yield

    return OnDisk


def test_no_update_is_lost_or_counted_twice_whatever_ends_when(small: Any) -> None:
    steps = settings(max_examples=80, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(machine(small), settings=steps)
