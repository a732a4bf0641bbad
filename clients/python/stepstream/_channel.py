"""Where a client connects to, and how its channels behave."""

from collections.abc import Sequence

__all__ = ["CHANNEL_OPTIONS", "Endpoints"]

_SEND_BYTES_MAX = 4 * 1024 * 1024 + 64 * 1024  # a full batch of 4 MiB and its frame
_RECEIVE_BYTES_MAX = 64 * 1024 * 1024  # a page of tasks with payloads of 1 MiB each

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_send_message_length", _SEND_BYTES_MAX),
    ("grpc.max_receive_message_length", _RECEIVE_BYTES_MAX),
    # One owner of retries: the clients' own, which know the reason of an error.
    ("grpc.enable_retries", 0),
    # The address is named explicitly; http_proxy is for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class Endpoints:
    """The addresses of the replicas, one of them current.

    Args:
        addresses: One `host:port`, several, or None for what STEPSTREAM_ADDRESS says.

    Raises:
        ValueError: there is no address in it.
    """

    def __init__(self, addresses: str | Sequence[str] | None) -> None:
        if addresses is None:
            # Reading settings takes pydantic, which a caller with an address need not wait for.
            from stepstream.settings import ClientSettings, read  # noqa: PLC0415

            addresses = read(ClientSettings).addresses
        self.all = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not all(self.all) or not self.all:
            raise ValueError("a client needs at least one address, host:port")
        self._index = 0

    @property
    def current(self) -> str:
        """The address that calls go to."""
        return self.all[self._index]

    def move_on(self) -> None:
        """Turns to the next address, when there is another."""
        self._index = (self._index + 1) % len(self.all)
