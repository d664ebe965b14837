"""The HTTP service that queues studies on a Ray cluster and reports their best configurations.

Imports lncis, never the reverse, and is not part of the wheel. `api` answers requests, `ui` renders pages, `store` is
the database, `dispatch` starts and follows the Ray jobs in which studies run.
"""
