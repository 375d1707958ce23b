"""What one device may cost the aggregator, counted before anything costly is done for it.

Every message of an upload takes a token of its device and counts against the device's bytes of the
round, whatever it turns out to be. What a quota keeps out is neither answered nor lost: to its
device a segment stays missing, and is sent again. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aggregator.admission import Refusal

# [devices] As many as a federation may have; each takes some 200 bytes here.
MAX_ACCOUNTS = 100_000
# [bytes] A small budget says little of what an update costs: a manifest has up to 100 KB, and is
# repeated while its receipt is awaited.
MIN_ROUND_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """How much one device may send, and how much all together may leave on the disk.

    Attributes:
        segments_per_s: Messages of uploads in a second, over a long time.
        burst_segments: How many more a device may send at once that was quiet before.
        round_factor: Bytes in a round, as a multiple of what one update may take.
        disk_bytes: Bytes of all journaled segments together.
    """

    segments_per_s: float
    burst_segments: int
    round_factor: float
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class _Account:
    tokens: float
    filled_at: float
    round_bytes: int = 0


class Quotas:
    """Keeps an account per device, and the disk that all of them share.

    Args:
        policy: The limits.
        disk_bytes: Bytes of segments that were journaled before a restart.
    """

    def __init__(self, policy: QuotaPolicy, *, disk_bytes: int = 0) -> None:
        self.disk_bytes = disk_bytes
        self._policy = policy
        self._round_bytes = MIN_ROUND_BYTES
        self._accounts: dict[str, _Account] = {}

    def begin_round(self, update_bytes: int) -> None:
        """Give every device its bytes for a round, whose updates may take so many."""
        self._round_bytes = max(MIN_ROUND_BYTES, int(self._policy.round_factor * update_bytes))
        self._accounts = {
            client_id: replace(account, round_bytes=0)
            for client_id, account in self._accounts.items()
        }

    def take(self, client_id: str, packet_bytes: int, *, now: float) -> Refusal | None:
        """Charge a device for a message of an upload, or say which quota it is above."""
        account = self._filled(client_id, now)
        if account.tokens < 1.0:
            self._accounts[client_id] = account
            return Refusal.QUOTA_RATE
        account = replace(account, tokens=account.tokens - 1.0)
        if account.round_bytes + packet_bytes > self._round_bytes:
            self._accounts[client_id] = account
            return Refusal.QUOTA_BYTES
        self._accounts[client_id] = replace(account, round_bytes=account.round_bytes + packet_bytes)
        return None

    def has_room(self, segment_bytes: int) -> bool:
        """Say whether the journal may take a segment of this length."""
        return self.disk_bytes + segment_bytes <= self._policy.disk_bytes

    def journaled(self, segment_bytes: int) -> None:
        """Note that so much goes into the journal."""
        self.disk_bytes += segment_bytes

    def freed(self, segment_bytes: int) -> None:
        """Note that so much has left the journal."""
        self.disk_bytes -= segment_bytes
        assert self.disk_bytes >= 0, "more has left the journal than ever went into it"

    def _filled(self, client_id: str, now: float) -> _Account:
        policy = self._policy
        account = self._accounts.get(client_id)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                del self._accounts[next(iter(self._accounts))]
            return _Account(float(policy.burst_segments), now)
        gained = max(0.0, now - account.filled_at) * policy.segments_per_s
        tokens = min(float(policy.burst_segments), account.tokens + gained)
        return replace(account, tokens=tokens, filled_at=now)
