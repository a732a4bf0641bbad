import pytest

from stepstream_dispatcher.store.port import StoreRefused
from stepstream_dispatcher.store.redis_checks import check_version


@pytest.mark.parametrize(
    "info",
    [
        "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\n",
        "# Server\r\nredis_version:8.4.1\r\n",
        "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n",
        "# Server\r\nredis_version:10.0.0-rc1\r\n",
        "# Server\r\n",
    ],
)
def test_new_enough_servers_are_used(info):
    check_version(info)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ("redis_version:6.2.14\r\n", r"redis 6.2.14 is too old; 7.0 is the oldest"),
        ("redis_version:7.2.4\r\nvalkey_version:7.1.0\r\n", r"valkey 7.1.0 is too old; 7.2"),
    ],
)
def test_older_servers_are_refused(info, words):
    with pytest.raises(StoreRefused, match=words):
        check_version(info)
