"""The environment of the client side."""

import pytest

from stepstream.settings import ClientSettings, EditorSettings, LocalSettings, SettingsError, read


def test_defaults_are_those_of_the_documentation():
    assert read(ClientSettings, {}).addresses == ("127.0.0.1:50051",)
    assert read(LocalSettings, {}) == LocalSettings(
        worker_count=2,
        slots=3,
        redis_url="redis://localhost:6379",
        grpc_address="127.0.0.1:50051",
        http_address="127.0.0.1:3000",
    )


def test_values_are_read_under_their_exact_names():
    environment = {
        "WORKER_COUNT": "4",
        "MAX_CONCURRENT_TASKS": " 7 ",
        "REDIS_URL": "unix:///run/x.sock",
        "STEPSTREAM_GRPC_ADDRESS": "[::1]:1",
        "STEPSTREAM_HTTP_ADDRESS": "0.0.0.0:65535",
    }

    assert read(LocalSettings, environment) == LocalSettings(
        4, 7, "unix:///run/x.sock", "[::1]:1", "0.0.0.0:65535"
    )


def test_several_addresses_stand_with_commas_between():
    environment = {"STEPSTREAM_ADDRESS": "a:1, b.example:65535"}

    assert read(ClientSettings, environment).addresses == ("a:1", "b.example:65535")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WORKER_COUNT", "-1", "'-1' is not an integer, 0 to 256"),
        ("WORKER_COUNT", "257", "'257' is not an integer, 0 to 256"),
        ("WORKER_COUNT", "2.5", "'2.5' is not an integer, 0 to 256"),
        ("WORKER_COUNT", "two", "'two' is not an integer, 0 to 256"),
        ("MAX_CONCURRENT_TASKS", "0", "'0' is not an integer, 1 to 1000"),
        ("STEPSTREAM_GRPC_ADDRESS", "localhost", "'localhost' is not host:port with"),
        ("STEPSTREAM_GRPC_ADDRESS", "localhost:0", "'localhost:0' is not host:port with"),
        ("STEPSTREAM_HTTP_ADDRESS", "h:65536", "'h:65536' is not host:port with"),
        ("REDIS_URL", "secret@host", "(not shown) is not a redis://, rediss:// or unix:// URL"),
    ],
)
def test_a_bad_value_is_one_line_with_name_value_and_range(name, value, message):
    with pytest.raises(SettingsError) as caught:
        read(LocalSettings, {name: value})

    assert str(caught.value).startswith(f"{name}: {message}")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["host", "a:1,", "a:1;b:2", ":1", "::1:1"])
def test_a_bad_client_address_is_refused(value):
    with pytest.raises(SettingsError, match=r"^STEPSTREAM_ADDRESS: "):
        read(ClientSettings, {"STEPSTREAM_ADDRESS": value})


def test_an_empty_value_counts_as_unset():
    assert read(LocalSettings, {"WORKER_COUNT": " "}).worker_count == 2


def test_the_editor_is_visual_before_editor():
    assert read(EditorSettings, {}).command == "vi"
    assert read(EditorSettings, {"EDITOR": "nano -w"}).command == "nano -w"
    assert read(EditorSettings, {"EDITOR": "nano", "VISUAL": "code -w"}).command == "code -w"
