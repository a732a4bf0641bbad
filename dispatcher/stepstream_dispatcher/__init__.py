"""The service that owns the Redis stream and serves clients and workers over gRPC."""
