"""Where the broker is and how to log in: the part of both services' configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TlsConfig(BaseModel):
    """Certificates for a TLS connection; with `cert_file` and `key_file` it is mutual."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None


class BrokerConfig(BaseModel):
    """One MQTT broker, and this service's login there.

    Attributes:
        port: None takes 8883 with TLS and 1883 without.
        password_file: Holds the password on its first line, so that it never stands in argv, in
            the environment or in this configuration.
        keepalive_s: Seconds of silence after which either side pings. Below the time that one
            segment takes on the slowest link, the broker would cut a link that is working.
        connect_timeout_s: Seconds after which a first connection is given up.
        max_packet_bytes: The largest MQTT packet that this service sends (AWS IoT takes 128 KiB,
            the least of the common brokers).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "localhost"
    port: int | None = Field(default=None, ge=1, le=65535)
    username: str | None = None
    password_file: Path | None = None
    tls: TlsConfig | None = None
    mqtt_version: Literal["3.1.1", "5"] = "5"
    keepalive_s: int = Field(default=60, ge=5, le=3600)
    connect_timeout_s: float = Field(default=30.0, gt=0)
    max_packet_bytes: int = Field(default=131_072, ge=4_096)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self.host, self.port or (8883 if self.tls else 1883)
