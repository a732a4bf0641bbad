"""How settings are shown without what is secret in them. Pure; the services use it too."""

import re

__all__ = ["MASK", "is_secret", "masked"]

MASK = "***"

_SECRET_NAME = re.compile(
    r"(API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|PASSWORD|PASSWD|SECRET|CREDENTIALS?|HEADERS|(^|_)TOKEN$)"
)
# Up to the last @: a password that was not percent-encoded may hold one itself.
_PASSWORD_IN_URL = re.compile(r"(://[^:/?@\s]*:).*@")
_SECRET_IN_QUERY = re.compile(
    r"([?&](?:[a-z_]*password|token|api_?key|secret)=)[^&\s]*", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Whether the whole value of a variable is secret, by its name."""
    return _SECRET_NAME.search(name.upper()) is not None


def masked(name: str, value: str) -> str:
    """A value as it may be shown: a secret as `***`, a URL without the password in it."""
    if value and is_secret(name):
        return MASK
    without = _PASSWORD_IN_URL.sub(rf"\g<1>{MASK}@", value)
    return _SECRET_IN_QUERY.sub(rf"\g<1>{MASK}", without)
