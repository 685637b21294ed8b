"""The gRPC services of ``lieaudit.v1``."""
