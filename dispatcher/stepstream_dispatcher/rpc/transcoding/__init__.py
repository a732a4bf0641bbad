"""Messages as proto3 JSON and back, strict on the way in, and their JSON Schemas.

google.protobuf.json_format does both too. It is not used, because its complaints name Python types
rather than the member at fault, and because it gives up on numbers that are not finite, which a
payload that came by gRPC may hold.
"""
