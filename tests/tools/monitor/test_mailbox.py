from __future__ import annotations

import threading

from tools.monitor.mailbox import Mailbox


def test_changes_merge_while_nobody_takes_them() -> None:
    mailbox = Mailbox()
    mailbox.put({"round": 1, "devices.a": 1})
    mailbox.put({"round": 2})
    assert mailbox.take(0) == {"devices.a": 1, "round": 2}
    assert mailbox.take(0) == {}


def test_who_waits_is_woken() -> None:
    mailbox = Mailbox()
    speaker = threading.Thread(target=lambda: mailbox.put({"round": 1}))
    speaker.start()
    assert mailbox.take(30.0) == {"round": 1}
    speaker.join()
