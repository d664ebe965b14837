"""Run by Alembic: the steps are taken on the connection, and in the transaction, of `store.database.migrate`."""

from alembic import context

from service.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
