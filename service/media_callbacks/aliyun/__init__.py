"""The vendor's APIs over the network: credentials, signatures, the OpenAPI and the queue."""
