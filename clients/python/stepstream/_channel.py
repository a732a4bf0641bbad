"""Where a client connects to, and how its channels behave."""

import random
from collections.abc import Sequence

__all__ = ["CHANNEL_OPTIONS", "CLOSED", "Endpoints"]

CLOSED = "this client is closed"

_SEND_BYTES_MAX = 4 * 1024 * 1024 + 64 * 1024  # a full batch of 4 MiB and its frame
_RECEIVE_BYTES_MAX = 64 * 1024 * 1024  # a page of tasks with payloads of 1 MiB each

# Of the addresses that one name has, each channel prefers another.
_SERVICE_CONFIG = '{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": true}}]}'

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # A call at a dispatcher that freezes goes on at the next address within its own limit of 30 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # a minute otherwise, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one address may take to connect. Below it a distant host could not be reached, beyond
    # it one that swallows everything would keep a call from the next address.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_send_message_length", _SEND_BYTES_MAX),
    ("grpc.max_receive_message_length", _RECEIVE_BYTES_MAX),
    # One owner of retries: the clients' own, which know the reason of an error.
    ("grpc.enable_retries", 0),
    # The address is named explicitly; http_proxy is for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config", _SERVICE_CONFIG),
    # A name whose replicas are replaced has new addresses by then; the default is 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)


_FIRST_S = 0.1
_MAX_S = 2.0
_JITTER = 0.2


class Endpoints:
    """The addresses of the replicas, one of them current.

    An address that failed is left alone for 0.1 s, doubling to 2, ±20 %; the others are tried
    meanwhile, at once. The one that works stays current.

    Args:
        addresses: `host:port`, or several with commas between or as a sequence; None for what
            STEPSTREAM_ADDRESS says. An IPv6 host stands in brackets.

    Raises:
        ValueError: there is no address in it.
    """

    def __init__(self, addresses: str | Sequence[str] | None) -> None:
        if addresses is None:
            # Reading settings takes pydantic, which a caller with an address need not wait for.
            from stepstream.settings import ClientSettings, read  # noqa: PLC0415

            addresses = read(ClientSettings).addresses
        given = addresses.split(",") if isinstance(addresses, str) else addresses
        self.all = tuple(address.strip() for address in given)
        if not all(self.all) or not self.all:
            raise ValueError("a client needs at least one address, host:port")
        self._index = 0
        self._failures: dict[str, int] = {}  # in a row
        self._due_mono: dict[str, float] = {}  # when to try one that failed again

    @property
    def current(self) -> str:
        """The address that calls go to."""
        return self.all[self._index]

    def move_on(self) -> None:
        """Turns to the next address, when there is another."""
        self._index = (self._index + 1) % len(self.all)

    def answered(self, address: str) -> None:
        """An address has served a call."""
        self._failures.pop(address, None)
        self._due_mono.pop(address, None)

    def failed(
        self,
        address: str,
        now_mono: float,
        luck: random.Random,
        retry_after_s: float | None = None,
    ) -> float:
        """An address has not served a call: turns to the one that is to be tried next.

        Args:
            address: Which.
            now_mono: The monotonic clock, seconds.
            luck: Source of the jitter.
            retry_after_s: When it wants to be asked again, seconds.

        Returns:
            Seconds until then; 0 when it can be tried at once.
        """
        failures = self._failures[address] = self._failures.get(address, 0) + 1
        delay_s = min(_FIRST_S * 2.0 ** min(failures - 1, 10), _MAX_S)
        delay_s *= luck.uniform(1 - _JITTER, 1 + _JITTER)
        self._due_mono[address] = now_mono + max(delay_s, retry_after_s or 0.0)
        due_mono = {one: self._due_mono.get(one, float("-inf")) for one in self.all}
        self._index = self.all.index(min(self.all, key=due_mono.__getitem__))
        return max(due_mono[self.current] - now_mono, 0.0)
