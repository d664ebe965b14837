"""The endpoints, one file a subject; service.app includes their routers."""
