"""The broker's rules, proved by trying what must be forbidden (`tools.doctor.acl_trial`)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Final

from tools.doctor.acl_trial import (
    Trial,
    forbidden_filters,
    forbidden_topics,
    own_topics,
)
from tools.doctor.context import Context, Role
from tools.doctor.door import Door
from tools.doctor.finding import Finding, fail, ok, skip, warn
from tools.doctor.mqtt_packets import MAXIMUM_PACKET_SIZE, Version
from tools.doctor.mqtt_session import FAILURE, Session, SessionEnded
from transport import topics
from transport.connection import SESSION_EXPIRY_S
from transport.errors import BadLinkConfig
from transport.topics import Topics

NAMES: Final = (
    "acl-own",
    "acl-publish",
    "acl-read",
    "acl-name",
    "acl-client-id",
)

_DENIED: Final = frozenset({135})  # not authorised
# [s] What a broker that should not deliver may take to deliver nevertheless.
_QUIET_S: Final = 0.5
# [s] 128 KiB at 40 kbit/s, and as much again for what waits before it.
_LARGE_S: Final = 55.0
_RULES: Final = (
    "on the broker: install the fleet's broker/acl as acl_file, then systemctl kill -s HUP "
    "mosquitto"
)
_BINDING: Final = (
    "on the broker: use_identity_as_username true and use_username_as_clientid true for its "
    "listener, then systemctl restart mosquitto"
)


def try_anonymous(door: Door) -> bool:
    """Return whether the broker takes somebody without certificate and password.

    Some take nobody without a name, and anybody with one.
    """
    stranger = f"doctor-{secrets.token_hex(6)}"
    return any(_is_let_in(door, stranger, username) for username in (None, stranger))


def _is_let_in(door: Door, client_id: str, username: str | None) -> bool:
    try:
        session = door.session(Version.V5, with_certificate=False)
    except (OSError, BadLinkConfig):
        return False
    try:
        return session.connect(client_id, clean_start=True, username=username).code == 0
    except SessionEnded:
        return False
    finally:
        session.close()


def judge_anonymous(*, taken: bool) -> Finding:
    """Tell whether a stranger gets in."""
    if taken:
        return fail(
            "acl-anonymous",
            "the broker takes anybody, without certificate, name or password",
            "on the broker: allow_anonymous false and require_certificate true, then systemctl "
            "restart mosquitto",
        )
    return ok("acl-anonymous", "a stranger is refused; an alert may name this attempt")


def examine_acl(session: Session, door: Door, context: Context) -> Iterator[Finding]:
    """Yield one finding for each of `NAMES`; the last one ends this session.

    Args:
        session: Logged in as the service.
        door: Where further sessions come from.
        context: The examination.
    """
    assert context.role is not None
    real = Topics(context.service.federation)
    trial = _trial(session, context.service.client_id, real, context.role)
    yield _own(session, trial, context.role)
    passed = _passed(session, forbidden_topics(trial, context.role))
    tried = len(forbidden_topics(trial, context.role))
    yield judge_publish(passed, tried=tried, version=session.version)
    if context.role is Role.AGENT:
        yield _read(session, trial, real)
    else:
        yield ok("acl-read", "an aggregator reads what devices send")
    yield _claimed_name(door, trial, session, passed=passed)
    yield _claimed_client_id(door, context)


def _trial(session: Session, me: str, real: Topics, role: Role) -> Trial:
    """Return a trial in nobody's federation; in the real one where the rules know no other."""
    mark = secrets.token_hex(4)
    trial = Trial(me, f"doctor-other-{mark}", Topics(f"doctor-{mark}"))
    in_real = Trial(me, trial.other, real, is_real=True)
    if session.version is Version.V5:
        first = own_topics(trial, role)[0]
        if session.publish(first, b"") >= FAILURE and not _denied(
            session, own_topics(in_real, role)[:1]
        ):
            return in_real
    return trial


def _denied(session: Session, names: Sequence[str]) -> list[str]:
    return [name for name in names if session.publish(name, b"{}") >= FAILURE]


def _own(session: Session, trial: Trial, role: Role) -> Finding:
    names = own_topics(trial, role)
    if session.version is Version.V311:
        return skip("acl-own", "MQTT 3.1.1 acknowledges what it denies")
    return judge_own(_denied(session, names), tried=len(names), me=trial.me)


def judge_own(denied: Sequence[str], *, tried: int, me: str) -> Finding:
    """Tell whether the login may write what its service writes."""
    if denied:
        more = f" and {len(denied) - 1} more" if len(denied) > 1 else ""
        return fail(
            "acl-own",
            f"{me} may not publish to {denied[0]}{more}",
            f"{_RULES}; client_id must be the certificate's CN",
        )
    return ok("acl-own", f"{me} may publish to its own topics ({tried} tried)")


def examine_packet_size(session: Session, context: Context) -> Finding:
    """Return `packet-size`, found out with one packet of the largest size."""
    check = "packet-size"
    assert context.role is not None
    real = Topics(context.service.federation)
    trial = _trial(session, context.service.client_id, real, context.role)
    size = context.broker.max_packet_bytes
    assert session.answer is not None
    announced = session.answer.properties.get(MAXIMUM_PACKET_SIZE)
    if isinstance(announced, int) and announced < size:
        return skip(check, f"the broker announces that it takes no more than {announced} bytes")
    if trial.is_real:
        return skip(check, "no topic that nobody listens to may be written")
    name = own_topics(trial, context.role)[2]
    # MQTT's header, the topic's length and the packet's identifier and properties.
    payload = bytes(size - len(name) - 10)
    try:
        code = session.publish(name, payload, within_s=_LARGE_S)
    except SessionEnded as error:
        return judge_packet_size(size, code=error.code or 0, ended=True)
    return judge_packet_size(size, code=code, ended=False)


def judge_packet_size(size: int, *, code: int, ended: bool) -> Finding:
    """Tell whether the largest packet that the service sends got through."""
    check = "packet-size"
    mend = (
        "on the broker: max_packet_size 262144 and no message_size_limit, or lower "
        "broker.max_packet_bytes here"
    )
    if ended:
        said = f" (reason code {code})" if code else ""
        return fail(check, f"a packet of {size} bytes ends the connection{said}", mend)
    if code in _DENIED:
        return skip(check, "the topic to try it on may not be written")
    if code >= FAILURE:
        return fail(check, f"a packet of {size} bytes is refused (reason code {code})", mend)
    return ok(check, f"a packet of {size} bytes passes")


def _passed(session: Session, names: Sequence[str]) -> list[str]:
    """Return the topics on which a publication was let through.

    MQTT 3.1.1 acknowledges all: only what comes back by a subscription has passed for certain.
    """
    if session.version is Version.V5:
        return [name for name in names if session.publish(name, b"") < FAILURE]
    session.forget()
    session.subscribe(names)
    for name in names:
        session.publish(name, b"x")
    session.settle(_QUIET_S)
    session.unsubscribe()
    return sorted({message.topic for message in session.received} & set(names))


def judge_publish(passed: Sequence[str], *, tried: int, version: Version) -> Finding:
    """Tell whether the broker let anything through that must be forbidden."""
    if passed:
        more = f" and {len(passed) - 1} more" if len(passed) > 1 else ""
        text = f"this login may publish to {passed[0]}{more}: it can speak for others"
        return fail("acl-publish", text, _RULES)
    if version is Version.V311:
        return warn(
            "acl-publish",
            f"nothing came back on {tried} forbidden topics, and MQTT 3.1.1 proves no more",
            "take a broker that speaks MQTT 5 for the proof",
        )
    return ok("acl-publish", f"all {tried} forbidden topics are denied")


def _read(session: Session, trial: Trial, real: Topics) -> Finding:
    session.forget()
    filters = forbidden_filters(trial, real)
    try:
        session.subscribe(filters)
        for name in own_topics(trial, Role.AGENT):
            session.publish(name, b"{}")
        session.settle(_QUIET_S)
    finally:
        session.unsubscribe()
    return judge_read(sorted({message.topic for message in session.received}), filters)


def judge_read(heard: Sequence[str], filters: Sequence[str]) -> Finding:
    """Tell whether the login heard what is not for it."""
    roots = [name.rstrip("#").split("+")[0] for name in filters]
    wrong = [name for name in heard if any(name.startswith(root) for root in roots)]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        text = f"this login can read {wrong[0]}{more}: it can listen to others"
        return fail("acl-read", text, _RULES)
    return ok("acl-read", f"nothing was heard on {len(filters)} subscriptions to others' topics")


def _claimed_name(door: Door, trial: Trial, session: Session, *, passed: Sequence[str]) -> Finding:
    check = "acl-name"
    if session.version is Version.V311:
        return skip(check, "MQTT 3.1.1 acknowledges what it denies")
    its = trial.fleet.topic(topics.DeviceTopic(trial.other, "telemetry"))
    if its in passed:
        return skip(check, "without rules for publishing every name is the same")
    claimant = door.session(Version.V5)
    is_password = door.broker.username is not None
    name = door.broker.username if is_password else trial.other
    try:
        answer = claimant.connect(
            trial.me,
            clean_start=False,
            session_expiry_s=SESSION_EXPIRY_S,
            username=name,
            password=secrets.token_hex(8) if is_password else None,
        )
        if answer.code:
            return judge_claimed_name(believed=False, is_password=is_password)
        if is_password:
            return judge_claimed_name(believed=True, is_password=True)
        believed = claimant.publish(its, b"") < FAILURE
        return judge_claimed_name(believed=believed, is_password=False)
    except SessionEnded:
        return judge_claimed_name(believed=False, is_password=is_password)
    finally:
        claimant.leave(keep_session=True)


def judge_claimed_name(*, believed: bool, is_password: bool) -> Finding:
    """Tell whether a login becomes somebody else by saying so."""
    if believed and is_password:
        mend = "on the broker: password_file and allow_anonymous false"
        return fail("acl-name", "a wrong password is taken", mend)
    if believed:
        text = "the broker believes the user name that a client claims, not its certificate"
        return fail("acl-name", text, _BINDING)
    what = "a wrong password" if is_password else "another user name"
    return ok("acl-name", f"{what} gives no other rights")


def _claimed_client_id(door: Door, context: Context) -> Finding:
    """Log in twice, then under a made-up client id: a broker that binds it ends the first."""
    name, me = f"doctor-{secrets.token_hex(6)}", context.service.client_id
    first, second = door.session(Version.V5), None
    login = {"username": door.broker.username, "password": door.password()}
    try:
        answer = first.connect(me, clean_start=False, session_expiry_s=SESSION_EXPIRY_S, **login)
        if answer.code:
            return skip("acl-client-id", "MQTT 5 alone can tell")
        second = door.session(Version.V5)
        # Kept like the service's own session, which it is where the broker binds the two.
        claimed = second.connect(
            name, clean_start=False, session_expiry_s=SESSION_EXPIRY_S, **login
        )
        free = claimed.code == 0 and first.is_alive()
        second.leave(keep_session=not free)
        return judge_client_id(free=free)
    except SessionEnded:
        return judge_client_id(free=False)
    finally:
        if second is not None:
            second.close()
        first.leave(keep_session=True)


def judge_client_id(*, free: bool) -> Finding:
    """Tell whether a login may take another one's client id, and with it its session."""
    if free:
        text = "the broker takes any client id: one login can take over another one's session"
        return fail("acl-client-id", text, _BINDING)
    return ok("acl-client-id", "the client id is bound to the login")
