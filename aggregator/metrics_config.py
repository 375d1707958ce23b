"""Where the aggregator's metrics are served, checked before anything starts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_MAX_PORT = 65_535


def parse_listen(text: str) -> tuple[str, int]:
    """Return the host and the port of `HOST:PORT`; IPv6 addresses stand in brackets.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r} is no HOST:PORT such as 127.0.0.1:9464")
    return host, int(port)


def _listen(text: str) -> str:
    parse_listen(text)
    return text


class MetricsConfig(BaseModel):
    """How Prometheus reads the aggregator; needs the extra `metrics`.

    Attributes:
        listen: HOST:PORT of `/metrics` and `/healthz`, plain HTTP without a login: whoever reaches
            it may read it.
        device_labels: So many devices have series of their own, the first that are heard of; of all
            others only the sums are told.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:9464"
    device_labels: int = Field(default=100, ge=0, le=1_000)

    @model_validator(mode="after")
    def _can_serve(self) -> MetricsConfig:
        if find_spec("prometheus_client") is None:
            raise ValueError(
                "this needs prometheus-client: pip install 'fedfstq[metrics]', or leave metrics out"
            )
        return self
