"""The federation: server, clients, methods, and the aggregation between them."""
