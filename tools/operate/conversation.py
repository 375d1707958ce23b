"""Holds an operator's exchanges with many devices over one link."""

from __future__ import annotations

import logging
import queue
import secrets
import time
from collections.abc import Callable, Sequence

from tools.operate.asking import Exchange, Result, Send
from tools.operate.login import OperatorConfig
from transport import control
from transport.control import (
    DeviceState,
    DeviceStatus,
    EvalResponse,
    OperatorAction,
    OperatorResponse,
)
from transport.errors import LinkLost, MessageError
from transport.link import Delivery, Link, LinkRefused, Publication
from transport.topics import Command, DeviceTopic, Response, Topics

log = logging.getLogger(__name__)

# [s] How long the broker may take from one retained status to the next, where all are wanted.
_SETTLE_S = 1.0
_ACTIONS = frozenset(action.value for action in OperatorAction)


class Conversation:
    """One link, and an exchange for each device."""

    def __init__(self, config: OperatorConfig) -> None:
        """Prepare it; nothing is connected before `ask`."""
        self._config = config
        self._topics = Topics(config.federation)
        self._states: dict[str, DeviceState] = {}
        self._exchanges: dict[str, Exchange] = {}

    def ask(
        self,
        devices: Sequence[str],
        action: OperatorAction,
        *,
        words: str,
        timeout_s: float,
        tell: Callable[[Result], None],
    ) -> dict[str, Result]:
        """Return what became of it at each device; all that have a status where none is named.

        Args:
            devices: Their names.
            action: What is asked of them.
            words: Why, for people.
            timeout_s: How long everything may take, from the connection on.
            tell: Called with each result as it comes.

        Raises:
            LinkError: The broker is not there, or does not let this login in.
        """
        filters = self._filters(devices)
        link = Link(self._config.broker, client_id=self._config.login, subscriptions=filters)
        link.open()
        try:
            link.wait_connected(self._config.broker.connect_timeout_s)
            names = devices or self._known(link)
            for name in names:
                self._exchanges[name] = exchange = Exchange(
                    name,
                    action,
                    words=words,
                    timeout_s=timeout_s,
                    new_id=lambda: secrets.token_hex(8),
                    now=time.monotonic(),
                )
                exchange.last_state = self._states.get(name)
            return self._converse(link, tell)
        finally:
            # The broker keeps the session of a link, and would queue for it what nobody reads.
            link.unsubscribe(*filters)
            link.close()

    def _filters(self, devices: Sequence[str]) -> tuple[str, ...]:
        root = f"{self._topics.monitoring}/d"
        return tuple(
            f"{root}/{name}/{leaf}" for name in devices or ("+",) for leaf in ("status", "rsp/+/+")
        )

    def _known(self, link: Link) -> tuple[str, ...]:
        """Return all devices that have left a status."""
        before = -1
        while len(self._states) > before:
            before = len(self._states)
            settled_at = time.monotonic() + _SETTLE_S
            while time.monotonic() < settled_at:
                self._take_next(link, settled_at)
        return tuple(sorted(self._states))

    def _converse(self, link: Link, tell: Callable[[Result], None]) -> dict[str, Result]:
        results: dict[str, Result] = {}
        while len(results) < len(self._exchanges):
            for name, exchange in self._exchanges.items():
                self._send(link, exchange.tick(time.monotonic()))
                self._note(name, results, tell)
            wakeups = [one.next_wakeup() for one in self._exchanges.values()]
            until = min((moment for moment in wakeups if moment is not None), default=0.0)
            # What comes makes nothing due sooner.
            while time.monotonic() < until and len(results) < len(self._exchanges):
                self._note(self._take_next(link, until), results, tell)
        return results

    def _note(self, name: str, results: dict[str, Result], tell: Callable[[Result], None]) -> None:
        exchange = self._exchanges.get(name)
        if exchange and exchange.result and name not in results:
            results[name] = exchange.result
            tell(exchange.result)

    def _take_next(self, link: Link, until: float) -> str:
        """Take what comes next, and return the device that it is from, "" where there is none."""
        try:
            event = link.events.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            return ""
        match event:
            case Delivery():
                name, sends = self._take(event, now=time.monotonic())
                self._send(link, sends)
                link.acknowledge(event)
                return name
            case LinkRefused(error):
                raise error
            case _:
                return ""  # what is not answered is asked again

    def _take(self, delivery: Delivery, *, now: float) -> tuple[str, list[Send]]:
        """Return the device that a delivery is from, and what is to be sent because of it."""
        if not delivery.payload:
            return "", []
        try:
            match self._topics.parse(delivery.topic):
                case DeviceTopic(client_id, "status"):
                    status = control.decode(DeviceStatus, delivery.payload)
                    self._states[client_id] = status.state
                    if exchange := self._exchanges.get(client_id):
                        exchange.last_state = status.state
                case Response(client_id, name, command_id) if exchange := self._exchanges.get(
                    client_id
                ):
                    return client_id, _answer(exchange, name, command_id, delivery, now=now)
                case _:
                    pass
        except MessageError as error:
            log.warning("%s: %s", delivery.topic, error)
        return "", []

    def _send(self, link: Link, sends: Sequence[Send]) -> None:
        for send in sends:
            address = Command(send.client_id, send.action.value, send.command_id)
            payload = control.encode(send.command)
            try:
                link.publish(Publication(self._topics.topic(address), payload))
            except LinkLost as error:
                log.info("%s", error)


def _answer(
    exchange: Exchange, name: str, command_id: str, delivery: Delivery, *, now: float
) -> list[Send]:
    if name in _ACTIONS:
        response = control.decode(OperatorResponse, delivery.payload)
        return exchange.answered(OperatorAction(name), command_id, response, now=now)
    if name == "eval":
        exchange.evaluated(control.decode(EvalResponse, delivery.payload))
    return []
