"""Where the ServerApp/ClientApp pair runs."""
