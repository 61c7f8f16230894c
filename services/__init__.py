"""The outer layers: the gRPC service and the command line."""
