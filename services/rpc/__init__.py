"""The service over gRPC: the only package that imports grpc."""
