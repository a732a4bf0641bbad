"""The gRPC services: convert, one engine call, convert."""
