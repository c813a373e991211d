"""The NATS JetStream Object Store (ADR-20), as a client of our own on nats-py's connection. See docs/objectstore.md."""
