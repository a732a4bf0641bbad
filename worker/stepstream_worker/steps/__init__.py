"""The steps of the translation pipeline that the shipped worker serves."""

from stepstream_worker.steps.translate import translate
from stepstream_worker.steps.verify import verify

__all__ = ["translate", "verify"]
