"""How a database gets to the tables of service.store.tables, step by step (Alembic)."""
