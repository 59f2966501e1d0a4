"""Store, releases, bundle server, learning orchestration, terminal. Imports covey only."""
