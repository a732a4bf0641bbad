"""`stepstream doctor`: looks at everything that an installation stands on, and says what to do."""

from stepstream.cli.doctor.command import doctor

__all__ = ["doctor"]
