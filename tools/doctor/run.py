"""The run that the broker announces, which later checks compare with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, fail, ok, warn
from tools.doctor.mqtt_session import FAILURE, Session
from transport import control
from transport.control import RunAnnouncement
from transport.errors import MessageError
from transport.topics import CoordRun, Topics

# [s] A retained message comes with the answer to the subscription.
_WAIT_S: Final = 0.3


def examine_run(session: Session, context: Context) -> Iterator[Finding]:
    """Yield `run`."""
    topics = Topics(context.service.federation)
    name = topics.topic(CoordRun())
    # Another filter than the service's own, so that taking it back leaves that one in its session.
    (code,) = session.subscribe([f"{topics.monitoring}/coord/+"])
    if code >= FAILURE:
        session.subscribe([name])
    session.settle(_WAIT_S)
    session.unsubscribe()
    payloads = [message.payload for message in session.received if message.topic == name]
    yield judge_run(payloads[-1] if payloads else b"", context)


def judge_run(payload: bytes, context: Context) -> Finding:
    """Tell what run is on, and note it for later checks."""
    federation = context.service.federation
    if not payload and context.role is Role.AGGREGATOR:
        return ok("run", f"none is announced in federation {federation} yet")
    if not payload:
        return warn(
            "run",
            f"none is announced in federation {federation}",
            "on the aggregator: systemctl status fedfstq-aggregator; is its `federation` the same?",
        )
    try:
        run = control.decode(RunAnnouncement, payload)
    except MessageError as error:
        return fail("run", f"its announcement cannot be read: {error}", "upgrade fedfstq here")
    context.known.run = run
    return ok("run", f"{run.run[:8]}, {run.rounds} rounds, codec {run.codec}")
