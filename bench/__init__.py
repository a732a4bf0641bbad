"""What is measured and how; never part of pass or fail tests."""

import os

# Read by grpc at its import, which comes later. Its handlers of a fork would run in every server
# that a section starts beside the clients of another, and now and then abort it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
