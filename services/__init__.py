"""What we run: three services and a worker. They meet over gRPC and in the object store, never by import."""
