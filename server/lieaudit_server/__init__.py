"""The lieaudit gRPC service: uploads, durable audits, reports."""

__version__ = "0.1.0"
