from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from transport import messages
from transport.messages import Message, ReceiptState, Want
from transport.schemas import SCHEMAS


def test_messages_are_values() -> None:
    assert Want(1) == Want(1)
    assert hash(Want(1)) == hash(Want(1))
    with pytest.raises(FrozenInstanceError):
        Want(1).epoch = 2  # type: ignore[misc]


def test_every_message_has_a_schema() -> None:
    assert set(Message.__args__) == SCHEMAS.keys()


def test_receipts_end_in_one_of_four_ways() -> None:
    assert {state.value for state in ReceiptState} == {"accepted", "partial", "late", "refused"}


def test_the_protocol_version_fits_its_byte() -> None:
    assert 0 < messages.PROTOCOL < 256
