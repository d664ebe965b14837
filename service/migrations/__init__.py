"""How a database gets to the tables of service.tables, step by step (Alembic)."""
