"""Generated from protos/stepstream/v1; do not edit (make gen)."""
