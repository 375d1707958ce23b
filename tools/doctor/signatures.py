"""Signatures over updates and receipts: whether this service can make and check them."""

from __future__ import annotations

from collections.abc import Iterator

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, fail, ok
from transport.errors import BadLinkConfig
from transport.signing import SigningMode, load_seals
from transport.topics import Topics


def examine_signing(context: Context) -> Iterator[Finding]:
    """Yield `signing`."""
    config = context.service
    mode = config.signing.mode
    if mode is SigningMode.OFF:
        yield ok("signing", "off: the broker is believed")
        return
    is_agent = context.role is Role.AGENT
    try:
        load_seals(
            config.signing,
            broker=config.broker,
            topics=Topics(config.federation),
            name=config.client_id,
            aggregator=context.agent.signing.aggregator if is_agent else config.client_id,
        )
    except BadLinkConfig as error:
        mend = "fedfstq init makes certificates that can sign; or set signing: off"
        yield fail("signing", str(error), mend)
        return
    yield ok("signing", f"{mode.value}: the certificate and its key can sign")
