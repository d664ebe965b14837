"""The HTTP service that queues studies on a Ray cluster and reports their best configurations.

Imports lncis, never the reverse, and is not part of the wheel. Its endpoints come with a later release; until then
studies are run from the command line.
"""
