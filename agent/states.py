"""The states of a device and what moves it: a table, and nothing else.

While a job is on, uploads go on behind it and do not change the state. What is not in the table
cannot happen: it would be a fault of this program.
"""

from __future__ import annotations

from enum import Enum

from transport.control import DeviceState


class Event(Enum):
    """What moves the device from one state to another."""

    COMMAND = "a job begins"
    ADAPTER = "the job's adapter version is here"
    JOB_OVER = "the job is done, declined or dropped"
    SENDING = "an update has segments that are not accepted"
    DELIVERED = "every segment of every update is accepted"
    SETTLED = "no update waits"


_IDLE, _FETCHING, _TRAINING = DeviceState.IDLE, DeviceState.FETCHING, DeviceState.TRAINING
_UPLOADING, _AWAITING = DeviceState.UPLOADING, DeviceState.AWAITING_RECEIPT

TRANSITIONS: dict[DeviceState, dict[Event, DeviceState]] = {
    _IDLE: {
        Event.COMMAND: _FETCHING,
        Event.SENDING: _UPLOADING,
        Event.DELIVERED: _AWAITING,
        Event.SETTLED: _IDLE,
    },
    _FETCHING: {
        Event.ADAPTER: _TRAINING,
        Event.JOB_OVER: _IDLE,
        Event.SENDING: _FETCHING,
        Event.DELIVERED: _FETCHING,
        Event.SETTLED: _FETCHING,
    },
    _TRAINING: {
        Event.JOB_OVER: _IDLE,
        Event.SENDING: _TRAINING,
        Event.DELIVERED: _TRAINING,
        Event.SETTLED: _TRAINING,
    },
    _UPLOADING: {
        Event.COMMAND: _FETCHING,
        Event.SENDING: _UPLOADING,
        Event.DELIVERED: _AWAITING,
        Event.SETTLED: _IDLE,
    },
    _AWAITING: {
        Event.COMMAND: _FETCHING,
        Event.SENDING: _UPLOADING,
        Event.DELIVERED: _AWAITING,
        Event.SETTLED: _IDLE,
    },
}
