"""Somebody who hears everything that a federation says: a link, and a thread that reads it."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Final

from typing_extensions import Self

from tools.soak.fleet import FEDERATION
from transport.broker import BrokerConfig
from transport.link import Delivery, Link, Publication
from transport.topics import Topics

_CONNECT_S: Final = 20.0
_POLL_S: Final = 0.1
_END_S: Final = 10.0


class Listener(ABC):
    """Hears all topics of a fleet's federation from the time at which it is entered.

    Args:
        port: The broker's, on 127.0.0.1.
        client_id: What the broker knows it by.

    Raises:
        BrokerUnreachable: When it is entered, and the broker does not answer.
    """

    def __init__(self, port: int, *, client_id: str) -> None:
        topics = Topics(FEDERATION)
        self._link = Link(
            BrokerConfig(host="127.0.0.1", port=port),
            client_id=client_id,
            subscriptions=[f"{topics.monitoring}/#", f"{topics.bulk}/#"],
        )
        self._thread = threading.Thread(target=self._run)
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._link.open()
        self._link.wait_connected(_CONNECT_S)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(_END_S)
        self._link.close()

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish something."""
        self._link.publish(Publication(topic, payload, retain=retain))

    @abstractmethod
    def hear(self, delivery: Delivery) -> None:
        """Take what came, in the listener's own thread."""

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                event = self._link.events.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if isinstance(event, Delivery):
                self.hear(event)
                self._link.acknowledge(event)
