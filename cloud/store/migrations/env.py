"""What Alembic runs to take steps: on the connection that `migrations.upgrade` gives it, in that connection's transaction."""

from __future__ import annotations

from alembic import context

from cloud.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():  # none of its own: the caller's is under way
    context.run_migrations()
