"""Two aggregators in one federation: in every case at most one goes on."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from aggregator.fencing import (
    CLAIM_BESIDE_S,
    CLAIM_S,
    QUESTION_S,
    RAISE_S,
    RESTATE_S,
    Answer,
    Claim,
    Fence,
    FenceState,
    Lead,
    RaiseEpoch,
    Restate,
    Yield,
    read_overheard,
)
from aggregator.outputs import Publish
from transport import control
from transport.control import (
    AlertNotice,
    ModelStatus,
    RunAnnouncement,
    ServiceState,
    ServiceStatus,
    TrainingPlan,
)
from transport.topics import Alert, CoordRun, CoordStatus, DeviceTopic, Model, Topics

RUN, OTHER_RUN = "a" * 32, "b" * 32
TOPICS = Topics("lab")


def make(session: str = "m", *, run: str = RUN, epoch: int = 3, version: int = 4) -> Fence:
    return Fence(
        run=run,
        epoch=epoch,
        session=session,
        software="1",
        version=version,
        sha256=f"sha-{version}",
    )


def status(
    state: ServiceState = ServiceState.RUNNING,
    session: str = "x",
    *,
    run: str = RUN,
    epoch: int = 2,
    version: int = -1,
    sha256: str | None = None,
) -> ServiceStatus:
    return ServiceStatus(
        state,
        session,
        "1",
        run=run,
        epoch=epoch,
        adapter_version=version,
        adapter_sha256=f"sha-{version}" if sha256 is None else sha256,
    )


def model(version: int, sha256: str | None = None, *, run: str = RUN) -> ModelStatus:
    return ModelStatus(run, version, f"sha-{version}" if sha256 is None else sha256, 100, 1)


def announcement(run: str) -> RunAnnouncement:
    return RunAnnouncement(run, "tiny", "00", "11", "fp32", 2, 256, TrainingPlan())


def kinds(outputs: Any) -> list[type]:
    return [type(output) for output in outputs]


def listen(fence: Fence, *retained: Any, now: float = 0.0) -> list[Any]:
    """Connect, deliver what is retained, and bring the question back."""
    (question,) = fence.connected(now)
    outputs = []
    for message in retained:
        outputs += fence.heard(message, retained=True, now=now)
    assert isinstance(question, Claim)
    return outputs + fence.heard(question.status, retained=False, now=now)


def lead(fence: Fence, *retained: Any, now: float = 0.0) -> list[Any]:
    outputs = listen(fence, *retained, now=now)
    moment = fence.next_wakeup()
    return outputs + (fence.tick(moment) if moment is not None else [])


def claim(session: str = "x", *, epoch: int, version: int = 4, run: str = RUN) -> ServiceStatus:
    return status(ServiceState.STARTING, session, epoch=epoch, version=version, run=run)


def test_nothing_retained_and_nobody_there_leads_after_the_claim() -> None:
    fence = make()
    outputs = listen(fence)
    assert kinds(outputs) == [Claim]
    assert outputs[0].status.epoch == 3
    assert fence.next_wakeup() == CLAIM_S
    assert fence.tick(CLAIM_S - 0.01) == []
    assert not fence.leads
    outputs = fence.tick(CLAIM_S)
    assert kinds(outputs) == [Lead, Publish, Publish]
    assert {output.message for output in outputs[1:]} == {None}  # alerts of the last time
    assert fence.leads
    assert fence.next_wakeup() is None


def test_a_broker_that_never_brings_the_question_back_is_not_waited_for_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fence = make()
    fence.connected(0.0)
    assert fence.next_wakeup() == QUESTION_S
    assert kinds(fence.tick(QUESTION_S)) == [Claim]
    assert "ACL" in caplog.text
    assert fence.tick(QUESTION_S + CLAIM_S)[0] == Lead()


def test_the_question_of_a_lost_connection_is_no_answer() -> None:
    fence = make()
    (old,) = fence.connected(0.0)
    fence.disconnected()
    fence.connected(1.0)
    assert isinstance(old, Claim)
    assert fence.heard(old.status, retained=False, now=1.0) == []
    assert fence.state is FenceState.LISTENING


@pytest.mark.parametrize("state", list(ServiceState))
def test_a_retained_lower_epoch_of_the_same_run_never_blocks(state: ServiceState) -> None:
    """kill -9 and a restart at once: the broker may still say that the old one is running."""
    assert lead(make(), status(state, epoch=2), announcement(RUN), model(4))[1] == Lead()


@pytest.mark.parametrize("epoch", [3, 4, 9])
@pytest.mark.parametrize("state", [ServiceState.RUNNING, ServiceState.LOST])
def test_an_old_copy_of_the_journal_goes_above_the_epoch_that_the_broker_shows(
    state: ServiceState, epoch: int
) -> None:
    fence = make()
    said, raised = lead(fence, status(state, epoch=epoch))
    assert said.status.epoch == 3
    assert raised == RaiseEpoch(epoch + 1)
    assert not fence.leads
    # Anew, with a last will that says so.
    assert lead(make("n", epoch=epoch + 1), status(state, epoch=epoch))[1] == Lead()


@pytest.mark.parametrize("shown", [model(5), model(4, "another")])
def test_a_version_that_the_journal_does_not_have_refuses_the_start(shown: ModelStatus) -> None:
    (verdict,) = listen(make(), shown)
    assert "Put the newest copy" in verdict.text


@pytest.mark.parametrize("shown", [model(3, "another"), model(4), model(9, run=OTHER_RUN)])
def test_what_it_has_made_itself_and_other_runs_versions_do_not_refuse_it(
    shown: ModelStatus,
) -> None:
    assert lead(make(), shown)[1] == Lead()


@pytest.mark.parametrize("state", [ServiceState.RUNNING, ServiceState.WAITING])
@pytest.mark.parametrize("epoch", [1, 9])
def test_a_retained_status_of_another_run_that_is_led_refuses_the_start(
    state: ServiceState, epoch: int
) -> None:
    (verdict,) = listen(make(), status(state, run=OTHER_RUN, epoch=epoch))
    assert "another run bbbbbbbb" in verdict.text
    assert "clear the retained coord/status" in verdict.text


def test_a_status_of_older_software_is_told_by_the_announced_run() -> None:
    old = status(run="", epoch=0)
    assert lead(make(), announcement(RUN), old)[1] == Lead()
    assert kinds(listen(make(), announcement(OTHER_RUN), old)) == [Yield]


@pytest.mark.parametrize(
    "state", [ServiceState.LOST, ServiceState.OFFLINE, ServiceState.FAILED, ServiceState.FINISHED]
)
def test_another_run_that_is_over_does_not_refuse_the_start(state: ServiceState) -> None:
    assert lead(make(), status(state, run=OTHER_RUN, epoch=9))[1] == Lead()


@pytest.mark.parametrize("state", [ServiceState.FINISHED, ServiceState.RUNNING])
@pytest.mark.parametrize("run", [RUN, OTHER_RUN])
def test_whoever_answers_the_claim_leads(run: str, state: ServiceState) -> None:
    fence = make()
    listen(fence)
    (verdict,) = fence.heard(status(state, run=run, epoch=1), retained=False, now=0.5)
    assert isinstance(verdict, Yield)
    assert fence.state is FenceState.FENCED
    assert fence.next_wakeup() is None
    assert fence.connected(9.0) == []
    fence.disconnected()
    assert fence.state is FenceState.FENCED


def test_what_was_queued_for_an_earlier_process_is_nobody_who_is_there() -> None:
    """A persistent session keeps the earlier process' own words, and they are not retained ones."""
    fence = make()
    (question,) = fence.connected(0.0)
    assert fence.heard(status(epoch=2), retained=False, now=0.0) == []
    assert fence.heard(status(ServiceState.STARTING, epoch=2), retained=False, now=0.0) == []
    assert kinds(fence.heard(question.status, retained=False, now=0.0)) == [Claim]
    assert fence.tick(CLAIM_S)[0] == Lead()


def test_of_two_claims_the_higher_wins_and_the_other_ends() -> None:
    low, high = make("l"), make("m")
    listen(low)
    (claim,) = listen(high)
    (verdict,) = low.heard(claim.status, retained=False, now=0.1)
    assert "at the same moment" in verdict.text
    rival = status(ServiceState.STARTING, "l", epoch=3)
    assert kinds(high.heard(rival, retained=False, now=0.1)) == [Claim]
    # Both had the same epoch: only the one that goes on has the next one.
    assert high.tick(CLAIM_S) == [RaiseEpoch(4)]


def test_a_claim_of_another_run_does_not_raise_the_epoch() -> None:
    fence = make("m")
    listen(fence)
    rival = status(ServiceState.STARTING, "l", run=OTHER_RUN, epoch=3)
    fence.heard(rival, retained=False, now=0.1)
    assert fence.tick(CLAIM_S)[0] == Lead()


def test_a_question_claims_nothing() -> None:
    fence = make("m")
    listen(fence)
    question = status(ServiceState.STARTING, "z", epoch=0)
    assert fence.heard(question, retained=False, now=0.1) == []


def test_who_leads_answers_each_question_and_tells_operators_once() -> None:
    fence = make()
    lead(fence)
    question = status(ServiceState.STARTING, epoch=9)
    answer, alert = fence.heard(question, retained=False, now=5.0)
    assert answer == Answer()
    assert isinstance(alert, Publish)
    assert alert.address == Alert("two-aggregators")
    assert isinstance(alert.message, AlertNotice)
    assert "session x" in alert.message.text
    assert fence.heard(question, retained=False, now=5.1) == [Answer()]
    assert fence.leads


@pytest.mark.parametrize("run", [RUN, OTHER_RUN])
@pytest.mark.parametrize(("epoch", "session"), [(4, "a"), (3, "n")])
def test_another_one_that_leads_with_a_higher_epoch_or_session_fences_this_one_off(
    run: str, epoch: int, session: str
) -> None:
    fence = make("m")
    lead(fence)
    other = status(session=session, run=run, epoch=epoch)
    assert kinds(fence.heard(other, retained=False, now=5.0)) == [Yield]
    assert not fence.leads


def test_a_lower_one_that_leads_is_told_and_what_it_has_overwritten_is_said_again() -> None:
    fence = make("m")
    lead(fence)
    answer, alert = fence.heard(status(epoch=2), retained=False, now=5.0)
    assert answer == Answer()
    assert isinstance(alert, Publish)
    assert alert.address == Alert("fenced")
    fence.heard(model(1, run=OTHER_RUN), retained=False, now=5.5)
    assert fence.next_wakeup() == 5.5 + RESTATE_S
    assert fence.tick(5.5 + RESTATE_S) == [Restate()]
    assert fence.next_wakeup() is None
    other = fence.heard(status(session="y", run=OTHER_RUN, epoch=1), retained=False, now=9.0)
    assert isinstance(other[1], Publish)
    assert other[1].address == Alert("two-aggregators")


def test_an_epoch_that_two_have_led_with_is_given_up_by_the_one_that_goes_on() -> None:
    fence = make("m")
    lead(fence)
    answer, _ = fence.heard(status(session="l", epoch=3), retained=False, now=5.0)
    assert answer == Answer()
    fence.tick(5.0 + RESTATE_S)
    assert fence.next_wakeup() == 5.0 + RAISE_S
    assert fence.tick(5.0 + RAISE_S) == [RaiseEpoch(4)]


def test_a_claim_of_a_higher_epoch_makes_the_one_that_leads_go_above_it_once() -> None:
    """Devices may have seen that epoch, and the broker may have lost who had it."""
    fence = make("m")
    lead(fence)
    for now, epoch in ((5.0, 7), (6.0, 9), (7.0, 3)):
        answer, *_ = fence.heard(claim(epoch=epoch), retained=False, now=now)
        assert answer == Answer()
    assert fence.next_wakeup() == 5.0 + RAISE_S
    assert fence.tick(5.0 + RAISE_S) == [RaiseEpoch(10)]


def test_a_claim_of_an_equal_epoch_or_of_another_run_raises_nothing() -> None:
    fence = make("m")
    lead(fence)
    fence.heard(claim(epoch=3), retained=False, now=5.0)
    fence.heard(claim(epoch=9, run=OTHER_RUN), retained=False, now=5.0)
    assert fence.next_wakeup() is None


def test_a_claim_that_is_followed_by_the_lead_ends_the_one_that_did_not_hear() -> None:
    """It slept through the claim: what it would start anew for is over."""
    fence = make("m")
    lead(fence)
    fence.heard(claim(epoch=4), retained=False, now=5.0)
    verdict = fence.heard(status(epoch=4, version=4), retained=False, now=5.0)
    assert kinds(verdict) == [Yield]
    assert fence.tick(5.0 + RAISE_S) == []


def test_a_newer_version_goes_before_every_epoch() -> None:
    old, new = make("o", epoch=9, version=3), make("n", epoch=1, version=4)
    lead(old)
    (said,) = listen(new, status(session="o", epoch=9, version=3))
    # The old copy leads, and answers before it has heard of the newer one.
    running = status(session="o", epoch=9, version=3)
    (again,) = new.heard(running, retained=False, now=0.5)
    assert again == said
    (verdict,) = old.heard(said.status, retained=False, now=0.6)
    assert isinstance(verdict, Yield)
    assert verdict.word.epoch == 9
    assert new.heard(verdict.word, retained=False, now=0.7) == [said]
    assert new.tick(CLAIM_BESIDE_S) == [RaiseEpoch(10)]


def test_of_two_claims_the_newer_version_wins() -> None:
    old, new = make("o", epoch=9, version=3), make("n", epoch=1, version=4)
    (low,), (high,) = listen(old), listen(new)
    assert kinds(old.heard(high.status, retained=False, now=0.1)) == [Yield]
    assert new.heard(low.status, retained=False, now=0.1) == [high]
    assert new.tick(CLAIM_S) == [RaiseEpoch(10)]


def test_of_two_that_lead_the_newer_version_goes_on_above_the_other_ones_epoch() -> None:
    old, new = make("o", epoch=9, version=3), make("n", epoch=1, version=4)
    lead(old)
    lead(new)
    answer, alert = new.heard(status(session="o", epoch=9, version=3), retained=False, now=5.0)
    assert (answer, alert.address) == (Answer(), Alert("fenced"))
    verdict = old.heard(status(session="n", epoch=1, version=4), retained=False, now=5.0)
    assert kinds(verdict) == [Yield]
    new.tick(5.0 + RESTATE_S)
    assert new.tick(5.0 + RAISE_S) == [RaiseEpoch(10)]


def test_one_that_comes_back_with_a_newer_version_waits_for_the_old_copy_to_end() -> None:
    fence = make("m")
    lead(fence)
    fence.disconnected()
    outputs = listen(fence, status(epoch=8, version=3), now=50.0)
    assert kinds(outputs) == [Claim]


@pytest.mark.parametrize("shown", [(5, "sha-5"), (4, "another")])
def test_a_retained_status_of_a_version_that_the_journal_does_not_have_refuses_the_start(
    shown: tuple[int, str],
) -> None:
    retained = status(ServiceState.OFFLINE, version=shown[0], sha256=shown[1])
    (verdict,) = listen(make(), retained)
    assert "Put the newest copy" in verdict.text


def test_where_another_one_may_be_at_work_its_answer_is_waited_for_longer() -> None:
    for state in (ServiceState.RUNNING, ServiceState.WAITING):
        fence = make()
        listen(fence, status(state))
        assert fence.next_wakeup() == CLAIM_BESIDE_S
    for state in (ServiceState.LOST, ServiceState.OFFLINE, ServiceState.FINISHED):
        fence = make()
        listen(fence, status(state))
        assert fence.next_wakeup() == CLAIM_S


def test_the_will_of_one_that_never_led_does_not_end_one_that_did() -> None:
    fence = make("m")
    lead(fence)
    fence.heard(status(ServiceState.LOST, epoch=8), retained=False, now=5.0)
    assert fence.next_wakeup() == 5.0 + RESTATE_S
    fence.disconnected()
    said, raised = lead(fence, status(ServiceState.LOST, epoch=8), now=50.0)
    assert (said.status.epoch, raised) == (3, RaiseEpoch(9))


@pytest.mark.parametrize("said", [announcement(OTHER_RUN), model(9, run=OTHER_RUN), None])
def test_what_others_have_overwritten_or_cleared_is_said_again(said: Any) -> None:
    fence = make()
    lead(fence)
    assert fence.heard(said, retained=False, now=5.0) == []
    assert fence.tick(5.0 + RESTATE_S) == [Restate()]


def test_one_that_was_silent_when_this_one_took_over_is_named() -> None:
    outputs = lead(make(), status(ServiceState.RUNNING, epoch=2))
    assert kinds(outputs) == [Claim, Lead, Publish]
    assert "session x (epoch 2)" in outputs[2].message.text
    assert outputs[2].address == Alert("fenced")


def test_the_will_of_one_that_never_led_is_overwritten() -> None:
    fence = make()
    lead(fence)
    assert fence.heard(status(ServiceState.LOST, epoch=9), retained=False, now=5.0) == [Answer()]
    assert fence.leads


def test_an_own_will_that_comes_late_is_overwritten() -> None:
    """The broker notices that a half-open connection is dead after the next one has begun."""
    fence = make("m")
    lead(fence)
    assert fence.heard(status(ServiceState.LOST, "m", epoch=3), retained=False, now=5.0) == [
        Answer()
    ]
    assert fence.heard(status(session="m", epoch=3), retained=False, now=5.0) == []


def test_own_announcements_come_back_and_mean_nothing() -> None:
    fence = make("m")
    lead(fence)
    fence.made(5, "sha-5")
    for echo in (model(4), model(5), announcement(RUN)):
        assert fence.heard(echo, retained=False, now=5.0) == []
    assert fence.next_wakeup() is None


@pytest.mark.parametrize("shown", [model(5), model(4, "another")])
def test_a_version_that_another_one_makes_beside_this_one_ends_it(shown: ModelStatus) -> None:
    fence = make()
    lead(fence)
    assert kinds(fence.heard(shown, retained=False, now=5.0)) == [Yield]


def test_a_lost_connection_is_silent_until_it_is_known_who_leads() -> None:
    fence = make("m")
    lead(fence)
    fence.disconnected()
    assert (fence.leads, fence.was_away, fence.is_fresh) == (False, True, False)
    outputs = lead(fence, status(ServiceState.LOST, "m", epoch=3), model(4), now=50.0)
    assert kinds(outputs) == [Claim, Lead]


@pytest.mark.parametrize("state", [ServiceState.RUNNING, ServiceState.FINISHED])
def test_another_one_that_led_in_the_meantime_fences_the_one_that_comes_back(
    state: ServiceState,
) -> None:
    fence = make()
    lead(fence)
    fence.disconnected()
    (verdict,) = listen(fence, status(state, epoch=4), now=50.0)
    assert "fenced off" in verdict.text


def test_one_that_comes_back_to_an_equal_epoch_starts_anew_with_the_next() -> None:
    fence = make("m")
    lead(fence)
    fence.disconnected()
    outputs = lead(fence, status(ServiceState.LOST, "l", epoch=3), now=50.0)
    assert outputs[1] == RaiseEpoch(4)


def test_a_retained_status_that_comes_behind_the_question_still_counts() -> None:
    """Some brokers deliver what is retained beside everything else."""
    fence = make()
    listen(fence)
    late = status(ServiceState.WAITING, run=OTHER_RUN, epoch=1)
    assert kinds(fence.heard(late, retained=True, now=0.1)) == [Yield]
    fence = make()
    listen(fence)
    assert fence.heard(status(epoch=7), retained=True, now=0.1) == []
    assert fence.tick(CLAIM_BESIDE_S) == [RaiseEpoch(8)]
    fence = make()
    listen(fence)
    assert fence.heard(model(9), retained=True, now=0.1) == []
    assert kinds(fence.tick(CLAIM_S)) == [Yield]


def test_what_is_said_is_read_by_its_topic() -> None:
    for address, message in (
        (CoordStatus(), status()),
        (CoordRun(), announcement(RUN)),
        (Model(), model(4)),
    ):
        heard = read_overheard(TOPICS, TOPICS.topic(address), control.encode(message))
        assert heard is not None
        assert heard.message == message
    cleared = read_overheard(TOPICS, TOPICS.topic(Model()), b"")
    assert cleared is not None
    assert cleared.message is None
    nonsense = read_overheard(TOPICS, TOPICS.topic(Model()), b"{")
    assert nonsense is not None
    assert nonsense.message is None
    assert read_overheard(TOPICS, TOPICS.topic(DeviceTopic("a", "status")), b"") is None


# Whole federations ------------------------------------------------------------------------------


@dataclass
class Process:
    """An aggregator of few words: its fence, and what it makes of the run."""

    name: str
    run: str
    epoch: int
    version: int
    fence: Fence = field(init=False)
    inbox: list[tuple[Any, bool]] = field(default_factory=list)
    up: bool = False
    text: str = ""
    starts: int = 1

    def __post_init__(self) -> None:
        self.make_fence(f"sha-{self.version}")

    @property
    def session(self) -> str:
        return f"{self.name}{self.starts}"

    def make_fence(self, sha256: str) -> None:
        self.fence = make(self.session, run=self.run, epoch=self.epoch, version=self.version)
        self.fence.made(self.version, sha256)

    @property
    def ended(self) -> bool:
        return bool(self.text)


class Federation:
    """A broker in memory that delivers in order, each process in its own time."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 0.0
        self.retained: dict[str, Any] = {}
        self.processes: list[Process] = []
        self.made: dict[tuple[str, int], set[str]] = {}

    def start(self, name: str, *, run: str = RUN, epoch: int = 1, version: int = 0) -> Process:
        process = Process(name, run, epoch, version)
        self.processes.append(process)
        self.connect(process)
        return process

    def connect(self, process: Process) -> None:
        process.up = True
        process.inbox += [(message, True) for message in self.retained.values()]
        self.obey(process, process.fence.connected(self.now))

    def cut(self, process: Process) -> None:
        if not process.up or process.ended:
            return
        process.up = False
        process.inbox.clear()
        process.fence.disconnected()
        self.publish("status", self.word(process, ServiceState.LOST))

    def publish(self, topic: str, message: Any, *, retain: bool = True) -> None:
        if retain:
            self.retained[topic] = message
        for process in self.processes:
            if process.up:
                process.inbox.append((message, False))

    def word(self, process: Process, state: ServiceState) -> ServiceStatus:
        version = -1 if state is ServiceState.LOST else process.version
        return status(
            state,
            process.session,
            run=process.run,
            epoch=process.epoch,
            version=version,
            sha256=self.sha256(process),
        )

    def obey(self, process: Process, outputs: Any) -> None:
        for output in outputs:
            match output:
                case Claim(said):
                    self.publish("status", said, retain=False)
                case RaiseEpoch(epoch):
                    process.epoch = epoch
                    process.starts += 1
                    process.inbox.clear()
                    process.make_fence(self.sha256(process))
                    self.connect(process)
                    return
                case Lead() | Restate():
                    self.publish("run", announcement(process.run))
                    self.publish("status", self.word(process, ServiceState.RUNNING))
                    self.announce(process)
                case Answer():
                    self.publish("status", self.word(process, ServiceState.RUNNING))
                case Yield(text, word):
                    self.publish("status", word, retain=False)
                    process.text, process.up = text, False
                    process.inbox.clear()

    def sha256(self, process: Process) -> str:
        return f"sha-{process.version}" if not process.version else f"{process.name}-made"

    def announce(self, process: Process) -> None:
        shown = model(process.version, self.sha256(process), run=process.run)
        self.publish("model", shown)
        if process.version:
            made = self.made.setdefault((process.run, process.version), set())
            made.add(shown.sha256)

    def make_version(self, process: Process) -> None:
        """Let one that leads make a version that no other one would make alike."""
        if process.fence.leads and process.version == 0:
            process.version = 1
            process.fence.made(1, self.sha256(process))
            self.announce(process)

    def step(self) -> None:
        """Let a process take a message, or some time pass."""
        busy = [process for process in self.processes if process.inbox and not process.ended]
        if busy and self.rng.random() < 0.8:
            process = self.rng.choice(busy)
            message, retained = process.inbox.pop(0)
            self.obey(process, process.fence.heard(message, retained=retained, now=self.now))
            return
        self.now += 0.5
        for process in self.processes:
            if not process.ended and not process.inbox:
                self.obey(process, process.fence.tick(self.now))

    def settle(self) -> None:
        for _ in range(2_000):
            self.step()

    def leading(self) -> list[str]:
        return [process.name for process in self.processes if process.fence.leads]


@pytest.mark.parametrize("seed", range(60))
def test_of_any_number_that_start_together_exactly_one_goes_on(seed: int) -> None:
    rng = random.Random(seed)
    federation = Federation(rng)
    names = rng.sample("abcdef", rng.randint(2, 4))
    runs = rng.choice(([RUN], [RUN, OTHER_RUN]))
    for name in names:
        federation.start(name, run=rng.choice(runs), epoch=rng.choice((1, 1, 2)))
        for _ in range(rng.choice((0, 5, 40, 400))):
            federation.step()
    federation.settle()
    leading = federation.leading()
    assert len(leading) == 1
    assert all(process.ended for process in federation.processes if process.name not in leading)


@pytest.mark.parametrize("seed", range(100))
def test_copies_that_lose_their_connections_never_make_two_lineages(seed: int) -> None:
    """Each would make another version 1; whatever is lost, only one of them is ever announced."""
    rng = random.Random(seed)
    federation = Federation(rng)
    federation.start("m", epoch=2)
    copies = rng.sample("abyz", 3)
    for _ in range(30):
        for _ in range(rng.randint(1, 60)):
            federation.step()
        process = rng.choice(federation.processes)
        match rng.choice(("cut", "connect", "make", "start")):
            case "cut":
                federation.cut(process)
            case "connect" if not process.up and not process.ended:
                federation.connect(process)
            case "make":
                federation.settle()  # a round takes longer than a message
                federation.make_version(process)
            case "start" if copies:
                federation.start(copies.pop(), epoch=rng.choice((1, 2, 3)))
    for process in federation.processes:
        if not process.up and not process.ended:
            federation.connect(process)
    federation.settle()
    assert len(federation.leading()) <= 1
    assert all(len(digests) == 1 for digests in federation.made.values())
