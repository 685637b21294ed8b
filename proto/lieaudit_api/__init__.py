"""The gRPC interface of lieaudit."""
