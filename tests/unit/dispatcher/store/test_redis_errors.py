import pytest
from redis import exceptions as redis_errors

from stepstream_dispatcher.store.redis_errors import Remedy, remedy_of, word_of


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (redis_errors.BusyLoadingError("Redis is loading"), Remedy.RESEND),
        (redis_errors.ReadOnlyError("You can't write"), Remedy.RESEND),
        (redis_errors.ResponseError("BUSY Redis is busy running a script"), Remedy.RESEND),
        (redis_errors.ResponseError("TRYAGAIN Multiple keys"), Remedy.RESEND),
        (redis_errors.MasterDownError("Link with MASTER is down"), Remedy.RESEND),
        (redis_errors.ClusterDownError("CLUSTERDOWN The cluster is down"), Remedy.RESEND),
        (redis_errors.ResponseError("UNBLOCKED the stream key no longer exists"), Remedy.RESEND),
        (redis_errors.ResponseError("NOREPLICAS Not enough good replicas"), Remedy.GIVE_UP),
        (redis_errors.ResponseError("MISCONF Errors writing to the AOF file"), Remedy.GIVE_UP),
        (redis_errors.AuthenticationError("invalid username-password pair"), Remedy.GIVE_UP),
        (redis_errors.OutOfMemoryError("command not allowed"), Remedy.FULL),
        (redis_errors.ResponseError("OOM command not allowed"), Remedy.FULL),
        (redis_errors.NoScriptError("No matching script"), Remedy.LOAD_SCRIPT),
        (redis_errors.ResponseError("NOGROUP No such key"), Remedy.CREATE_GROUP),
        (redis_errors.NoPermissionError("this user has no permissions"), Remedy.REFUSE),
        (redis_errors.ResponseError("WRONGTYPE Operation against a key"), Remedy.REFUSE),
        (redis_errors.ResponseError("something new"), Remedy.REFUSE),
        (redis_errors.ConnectionError("Connection closed by server."), Remedy.RESEND),
        (redis_errors.TimeoutError("Timeout reading from socket"), Remedy.RESEND),
        (TimeoutError(), Remedy.RESEND),
        (ConnectionResetError(), Remedy.RESEND),
    ],
)
def test_the_first_word_decides(error, remedy):
    assert remedy_of(error) is remedy


@pytest.mark.parametrize("error", [redis_errors.ConnectionError("OOM not a reply"), TimeoutError()])
def test_what_the_server_did_not_say_has_no_word(error):
    assert word_of(error) == ""
