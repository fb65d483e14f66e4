"""A trained model as a service: requests of other programs, in batches, over HTTP (the extra `serve`)."""
