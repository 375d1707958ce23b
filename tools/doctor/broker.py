"""The way to the broker and what it says of itself: one line for each step."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Final

from aggregator.config import PACKET_OVERHEAD_BYTES
from tools.doctor import acl, mqtt_packets
from tools.doctor.certificates import judge_valid
from tools.doctor.context import Context, Role
from tools.doctor.door import Door, peer_certificate
from tools.doctor.finding import Finding, State, fail, ok, skip, warn
from tools.doctor.login import own_login
from tools.doctor.mqtt_packets import ConnAck, Version
from tools.doctor.mqtt_session import Session, SessionEnded, close
from tools.doctor.run import examine_run
from transport.connection import SESSION_EXPIRY_S
from transport.errors import BadLinkConfig

STEPS: Final = ("broker-dns", "broker-tcp", "broker-tls", "broker-certificate")
NAMES: Final = (
    *STEPS,
    "acl-anonymous",
    "broker-login",
    "broker-limits",
    *acl.NAMES,
    "run",
    "packet-size",
)

# [bytes] The shortest segments that a device on a slow link cuts.
_SHORT_SEGMENT: Final = 8 << 10
# [s] What a broker that is very busy takes to refuse a certificate.
_PATIENCE_S: Final = 1.0
# [publications] What our services have unacknowledged at once.
_INFLIGHT: Final = 10
# OpenSSL's codes of what is wrong with a server's certificate.
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
# CONNACK's refusals: MQTT 5's, and those of 3.1.1 below 6.
_BAD_VERSION: Final = frozenset({1, 132})
_REFUSALS: Final = {
    2: "it does not take this client id",
    3: "it is not available",
    4: "user name or password is wrong",
    5: "not authorised",
    133: "it does not take this client id",
    134: "user name or password is wrong",
    135: "not authorised",
    136: "it is not available",
    137: "it is busy",
    138: "this login is banned",
    151: "its quota is used up",
    159: "too many connections at once",
}
_ALERT: Final = re.compile(r"ALERT_([A-Z_]+)")


def examine_broker(context: Context) -> Iterator[Finding]:
    """Yield one finding for each of `NAMES` that can be reached."""
    door = Door(context.broker)
    for finding in _reach(door, context):
        yield finding
        if finding.state is State.FAIL and finding.check in STEPS[:3]:
            return
    yield acl.judge_anonymous(taken=acl.try_anonymous(door))
    with own_login(context) as taken:
        if taken:
            yield from _not_tried(context, taken)
        else:
            yield from _try_login(door, context)


def _not_tried(context: Context, taken: str) -> Iterator[Finding]:
    unit = context.unit.removesuffix(".service")
    first, *others = NAMES[NAMES.index("broker-login") :]
    yield skip(
        first,
        taken,
        f"run the doctor as root with --take-over, which stops {unit} and starts it again; "
        "one that was started by hand: stop it first",
    )
    for name in others:
        yield skip(name, f"as {first}")


def _reach(door: Door, context: Context) -> Iterator[Finding]:
    host, port = door.broker.address
    try:
        addresses = door.addresses()
    except OSError as error:
        yield judge_no_address(host, error.strerror or str(error))
        return
    yield ok("broker-dns", f"{host} is {', '.join(addresses)}")
    began = time.monotonic()
    try:
        sock = door.connect()
    except OSError as error:
        yield judge_no_connection(host, port, error)
        return
    yield ok("broker-tcp", f"port {port} answers in {(time.monotonic() - began) * 1e3:.0f} ms")
    try:
        secured = door.secure(sock, patience_s=_PATIENCE_S)
    except (OSError, BadLinkConfig) as error:
        yield judge_no_tls(host, error)
        return
    try:
        told = peer_certificate(secured)
    finally:
        close(secured)
    if told is None:
        yield warn("broker-tls", "none: updates and logins travel in clear", "set broker.tls")
        yield skip("broker-certificate", "there is no TLS")
        return
    version, ends = told
    yield ok("broker-tls", f"{version}, the certificate is {host}'s and ca_file signed it")
    renew = (
        "on the fleet's machine: fedfstq init renew broker, then copy its bundle to the broker and "
        "systemctl reload mosquitto"
    )
    yield judge_valid("broker-certificate", 0.0, ends, now=context.now(), mend=renew)


def judge_no_address(host: str, why: str) -> Finding:
    """Say that the broker's name stands for nothing."""
    return fail(
        "broker-dns", f"{host}: {why}", f"getent hosts {host}; correct broker.host, or the DNS here"
    )


def judge_no_connection(host: str, port: int, error: OSError) -> Finding:
    """Say why no TCP connection to the broker came about."""
    if isinstance(error, ConnectionRefusedError):
        return fail(
            "broker-tcp",
            f"{host} refuses port {port}: no broker listens there",
            "on the broker: systemctl status mosquitto; or correct broker.port",
        )
    why = "does not answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return fail(
        "broker-tcp",
        f"{host} port {port}: {why}",
        f"let TCP port {port} through the firewalls on the way: nc -vz {host} {port}",
    )


def judge_no_tls(host: str, error: Exception) -> Finding:
    """Say why the TLS handshake failed, and on whose side that is mended."""
    check = "broker-tls"
    if isinstance(error, BadLinkConfig):
        return fail(check, str(error), "copy this service's bundle again")
    if isinstance(error, ssl.SSLCertVerificationError):
        return _judge_untrusted(host, error)
    text = str(error)
    if alert := _ALERT.search(text):
        return _judge_alert(check, alert[1])
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text:
        mend = "correct broker.port (8883 is TLS's), or take broker.tls out"
        return fail(check, "this port does not speak TLS", mend)
    if isinstance(error, (TimeoutError, ConnectionError)) or "EOF" in text:
        return fail(
            check,
            f"the broker broke the handshake off ({' '.join(text.split())[:80]})",
            "correct broker.port (8883 is TLS's); on the broker: journalctl -u mosquitto -n 20",
        )
    return fail(check, " ".join(text.split())[:200], "journalctl -u mosquitto on the broker")


def _judge_untrusted(host: str, error: ssl.SSLCertVerificationError) -> Finding:
    check = "broker-tls"
    renew = "on the fleet's machine: fedfstq init renew broker; copy its bundle to the broker"
    match error.verify_code:
        case code if code == _EXPIRED:
            return fail(check, "the broker's certificate has ended", renew)
        case code if code == _NOT_YET:
            now = datetime.now(tz=timezone.utc).strftime("%Y-%m-%d %H:%M")  # 3.10
            text = f"the broker's certificate is not valid yet, says the clock here ({now} UTC)"
            return fail(check, text, "set the clock: timedatectl set-ntp true")
        case code if code in {_OTHER_NAME, _OTHER_ADDRESS}:
            return fail(
                check,
                f"the broker's certificate is not for {host}",
                "set broker.host to a name that stands in it, or make it anew with this one",
            )
    return fail(
        check,
        f"broker.tls.ca_file did not sign the broker's certificate ({error.verify_message})",
        "copy the fleet's ca.crt here; it must be the one that signed the broker's certificate",
    )


def _judge_alert(check: str, alert: str) -> Finding:
    what = alert.lower().replace("_", " ")
    renew = "in the fleet's folder: fedfstq init renew NAME; install its bundle here"
    mend = {
        "CERTIFICATE_REVOKED": renew,
        "CERTIFICATE_EXPIRED": renew,
        "CERTIFICATE_REQUIRED": "set broker.tls.cert_file and broker.tls.key_file",
        "UNKNOWN_CA": "the broker's cafile must be the ca.crt that signed this certificate",
    }.get(alert, "on the broker: journalctl -u mosquitto -n 20 says why")
    return fail(check, f"the broker refused this service's certificate: {what}", mend)


def _try_login(door: Door, context: Context) -> Iterator[Finding]:
    name = context.service.client_id
    session, finding = log_in(door, name, context.broker.mqtt_version)
    yield finding
    if session is None:
        return
    assert session.answer is not None
    try:
        yield judge_limits(session.answer.properties, session.version, context)
        yield from acl.examine_acl(session, door, context)
    finally:
        session.leave(keep_session=session.answer.session_present)
    # The trials have taken that session over.
    again, _ = log_in(door, name, context.broker.mqtt_version)
    if again is None:
        yield skip("run", "the second login did not succeed")
        return
    try:
        yield from examine_run(again, context)
        # Last: a packet that is too large ends the connection.
        yield acl.examine_packet_size(again, context)
    finally:
        again.leave(keep_session=session.answer.session_present)


def log_in(door: Door, client_id: str, wanted: str) -> tuple[Session | None, Finding]:
    """Log in as the service and return the session; None, and why, where that fails.

    MQTT 5 is tried first, whatever is configured: it alone tells what it denies.
    """
    check = "broker-login"
    last: Finding | None = None
    for version in (Version.V5, Version.V311):
        try:
            session = door.session(version)
        except OSError as error:
            return None, fail(check, str(error), "run it again: the broker answered just before")
        try:
            answer = session.connect(
                client_id,
                clean_start=False,
                session_expiry_s=SESSION_EXPIRY_S,
                username=door.broker.username,
                password=door.password(),
            )
        except SessionEnded as error:
            session.close()
            if alert := _ALERT.search(str(error)):
                return None, _judge_alert(check, alert[1])
            last = fail(check, str(error), "on the broker: journalctl -u mosquitto -n 20")
            continue
        if not answer.code:
            return session, judge_login(answer, version, client_id, wanted=wanted)
        session.close()
        last = judge_login(answer, version, client_id, wanted=wanted)
        if answer.code not in _BAD_VERSION:
            break
    assert last is not None
    return None, last


def judge_login(answer: ConnAck, version: Version, client_id: str, *, wanted: str) -> Finding:
    """Tell whether the broker takes the login, in the version that the service speaks."""
    check = "broker-login"
    spoken = "5" if version is Version.V5 else "3.1.1"
    if answer.code in _BAD_VERSION:
        mend = "take another broker: it speaks neither MQTT 5 nor 3.1.1"
        return fail(check, f"the broker does not speak MQTT {spoken}", mend)
    if answer.code:
        why = _REFUSALS.get(answer.code, f"reason code {answer.code}")
        return fail(
            check,
            f"the broker refuses {client_id}: {why}",
            "on the broker: require_certificate true and use_identity_as_username true (or its "
            "password_file must know broker.username); journalctl -u mosquitto -n 20 says more",
        )
    if version is Version.V311 and wanted == "5":
        mend = 'set broker.mqtt_version: "3.1.1"'
        return fail(check, "the broker speaks MQTT 3.1.1 alone, the service MQTT 5", mend)
    if version is Version.V5 and wanted != "5":
        return warn(
            check,
            f"{client_id} is let in, and MQTT 5 as well, which tells what it denies",
            'set broker.mqtt_version: "5"',
        )
    return ok(check, f"{client_id} is let in, MQTT {spoken}")


def judge_limits(
    properties: Mapping[int, int | str], version: Version, context: Context
) -> Finding:
    """Tell whether the broker's own limits leave the services what they need."""
    check = "broker-limits"
    if version is Version.V311:
        return skip(check, "MQTT 3.1.1 does not tell them")
    number = {kind: value for kind, value in properties.items() if isinstance(value, int)}
    if number.get(mqtt_packets.MAXIMUM_QOS, 1) < 1 or not number.get(
        mqtt_packets.RETAIN_AVAILABLE, 1
    ):
        return fail(check, "it has no QoS 1, or no retained messages", "take another broker")
    wanted = context.broker.max_packet_bytes
    packet = number.get(mqtt_packets.MAXIMUM_PACKET_SIZE, wanted)
    if packet < wanted:
        return _judge_packet(packet, wanted, context)
    low = _low_limits(number, keepalive_s=context.broker.keepalive_s)
    if low:
        text, mend = low[0]
        return warn(check, text, mend)
    at_once = number.get(mqtt_packets.RECEIVE_MAXIMUM, 65_535)
    told = mqtt_packets.MAXIMUM_PACKET_SIZE in number
    size = f"packets of up to {packet} bytes" if told else "no limit of packets announced"
    return ok(check, f"{size}, {at_once} publications at once")


def _judge_packet(packet: int, wanted: int, context: Context) -> Finding:
    check = "broker-limits"
    text = f"packets of up to {packet} bytes, this service sends up to {wanted}"
    mend = "on the broker: max_packet_size 262144 in mosquitto.conf, systemctl restart mosquitto"
    least = _SHORT_SEGMENT + PACKET_OVERHEAD_BYTES
    if context.role is Role.AGGREGATOR:
        least = context.aggregator.segment_bytes + PACKET_OVERHEAD_BYTES
    if packet < least:
        return fail(check, f"{text}, and cannot do with less than {least}", mend)
    return warn(check, f"{text}: updates travel in more, smaller segments", mend)


def _low_limits(number: Mapping[int, int], *, keepalive_s: int) -> list[tuple[str, str]]:
    low = []
    at_once = number.get(mqtt_packets.RECEIVE_MAXIMUM, 65_535)
    if at_once < _INFLIGHT:
        text = f"{at_once} publications at once, the services send {_INFLIGHT}"
        low.append((text, "on the broker: max_inflight_messages 64"))
    expiry = number.get(mqtt_packets.SESSION_EXPIRY, SESSION_EXPIRY_S)
    if expiry < SESSION_EXPIRY_S:
        text = f"sessions are kept for {expiry / 3600:.0f} h, the services ask for 14 days"
        low.append((text, "on the broker: persistent_client_expiration 14d"))
    keepalive = number.get(mqtt_packets.SERVER_KEEP_ALIVE, keepalive_s)
    if keepalive < keepalive_s:
        text = f"the broker wants a ping every {keepalive} s, the configuration says {keepalive_s}"
        low.append((text, f"set broker.keepalive_s: {keepalive}, or max_keepalive on the broker"))
    return low
