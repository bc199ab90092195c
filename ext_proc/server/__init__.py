"""The gRPC edges: admit, meter, log; workers, health, drain."""
